"""``python -m tests.ops.market_pictures docs/images``: the pictures of the market page.

Two feeds of a made-up market; one of them is watched for some minutes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from aegis.transport._ports import free_port
from tests.ops.browser import chromium, open_page
from tests.support.node_process import NodeProcess

WATCHED_MS = 90_000

MARKET = """
calendar = "always"
[feeds.ctp-a.simulated]
futures = 600
options = 400
[feeds.ctp-b.simulated]
futures = 600
options = 400
"""


def main(target: Path) -> None:
    """Make the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder, ports = Path(name), [free_port(), free_port()]
        (folder / "market.toml").write_text(MARKET)
        environ = {
            "AEGIS_DATA_DIR": str(folder / "nats"),
            "AEGIS_LOG_FORMAT": "json",
            "AEGIS_FEED_CONFIG": str(folder / "market.toml"),
        }
        nodes: list[NodeProcess] = []
        for feed, port in zip(("ctp-a", "ctp-b"), ports, strict=True):
            arguments = (
                f"aegis.marketdata:Feed --instance-id {feed} --resource market --role standby "
                f"--admin-port {port}"
            )
            nodes.append(NodeProcess(arguments, folder=folder, environ=environ))
            nodes[-1].wait_event("node_started")
        try:
            _take(f"http://127.0.0.1:{ports[1]}", target)
        finally:
            for node in reversed(nodes):
                node.end()


def _take(origin: str, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, open_page(browser, origin, "/pages/market") as watched:
        page = watched.page
        page.locator("#exchanges tbody tr").first.wait_for()
        page.wait_for_timeout(WATCHED_MS)
        page.screenshot(path=target / "market-light.png")
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(1_000)
        page.screenshot(path=target / "market-dark.png")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_timeout(1_000)
        page.screenshot(path=target / "market-390.png")
        assert not watched.errors, watched.errors


if __name__ == "__main__":
    main(Path(sys.argv[1]))
