"""``python -m tests.ops.live_pictures docs/images``: the pictures of the live page.

Three nodes with some load; then the owner is killed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path

import aegis
from aegis.transport._ports import free_port
from tests.ops.browser import chromium, open_page
from tests.support.node_process import NodeProcess
from tests.test_style import ROOT

RESOURCES = 40
LOAD_SECONDS = 75.0
AFTER_SECONDS = 12.0
PAUSE_SECONDS = 0.02


class Load:
    """Deposits, one after the other, until it is stopped."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with aegis.connect_blocking() as cluster:
            number = 0
            while not self._stopped.wait(PAUSE_SECONDS):
                number += 1
                name = f"ACC-{number % RESOURCES:02}"
                cluster.call("account", "deposit", {"amount": "1"}, resource_id=name, timeout=30)

    def wait(self, seconds: float) -> None:
        """Go on for so long."""
        self._thread.join(seconds)

    def stop(self) -> None:
        """End it."""
        self._stopped.set()
        self._thread.join()


def main(target: Path) -> None:
    """Make the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "accounts.py").write_text((ROOT / "examples" / "accounts.py").read_text())
        (folder / "ids").write_text("\n".join(f"ACC-{n:02}" for n in range(RESOURCES)))
        environ = {"AEGIS_DATA_DIR": str(folder / "nats"), "AEGIS_LOG_FORMAT": "json"}
        os.environ.update(environ)
        nodes: list[NodeProcess] = []
        for arguments in (
            f"--instance-id desk-1 --resource VIP-1 --resource VIP-2 --admin-port {port}",
            f"--instance-id acct-1 --resource @ids --resource FX-7 --admin-port {free_port()}",
            f"--instance-id acct-2 --resource @ids --role standby --admin-port {free_port()}",
            f"--instance-id acct-3 --resource @ids --role standby --admin-port {free_port()}",
        ):
            node = NodeProcess(f"accounts.py:Account {arguments}", folder=folder, environ=environ)
            nodes.append(node)
            node.wait_event("node_started")
        load = Load()
        try:
            load.wait(LOAD_SECONDS)
            _take(f"http://127.0.0.1:{port}", target, nodes[1], load)
        finally:
            load.stop()
            for node in reversed(nodes):
                node.end()


def _take(origin: str, target: Path, owner: NodeProcess, load: Load) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, open_page(browser, origin) as watched:
        page = watched.page
        page.locator("#resources tbody tr").first.wait_for()
        owner.process.kill()
        page.locator("#orphans li").first.wait_for()
        load.wait(AFTER_SECONDS)
        page.screenshot(path=target / "live-light.png")
        page.emulate_media(color_scheme="dark")
        load.wait(1.0)
        page.screenshot(path=target / "live-dark.png")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 844})
        load.wait(1.0)
        page.screenshot(path=target / "live-390.png")
        assert not watched.errors, watched.errors


if __name__ == "__main__":
    main(Path(sys.argv[1]))
