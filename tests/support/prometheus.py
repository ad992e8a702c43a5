"""A real Prometheus, the one that Debian packages, and what this project gives it to read."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from aegis.transport._ports import free_port
from tests.support.poll import wait_until

__all__ = ["OPS", "Prometheus", "needs_prometheus", "prometheus", "promtool"]

OPS = Path(__file__).resolve().parents[2] / "ops"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed; `make debian` as root, or the package prometheus, has it",
)


MEMORY = Path("/dev/shm")
"""A folder in memory: promtool keeps a small database for each of its tests, with fsync."""


def promtool(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    place = {"TMPDIR": str(MEMORY)} if MEMORY.is_dir() else {}
    return subprocess.run(
        ["promtool", *arguments],
        cwd=folder,
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


class Prometheus:
    """One running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, **parameters: str) -> Any:
        """Return ``data`` of an answer of its API; an error fails the test."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression comes to now: its samples, with their labels."""
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression; None if it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the alert rules by name, as they were last evaluated."""
        groups = self.ask("rules", type="alert")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def is_ready(self) -> bool:
        """Whether it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@asynccontextmanager
async def prometheus(folder: Path, targets: list[str], token: str) -> AsyncGenerator[Prometheus]:
    """Run Prometheus on the project's files, with these targets, more often than usual.

    Rules that wait for minutes wait for nothing.
    """
    _configure(folder, targets, token)
    server = Prometheus(free_port())
    process = _start(folder, server.port)
    try:
        await wait_until(
            lambda: server.is_ready() or process.poll() is not None,
            what="Prometheus is ready",
            timeout=60,
        )
        assert process.poll() is None, log_of(folder)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _configure(folder: Path, targets: list[str], token: str) -> None:
    folder.mkdir()
    (folder / "token").write_text(token)
    config: dict[str, Any] = yaml.safe_load((OPS / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    (scrape,) = config["scrape_configs"]
    scrape["authorization"]["credentials_file"] = str(folder / "token")
    scrape["static_configs"] = [{"targets": targets}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        rules = (OPS / "prometheus" / name).read_text()
        (folder / name).write_text(re.sub(r"for: \S+", "for: 0s", rules))


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )


def log_of(folder: Path) -> str:
    """Return what a server in ``folder`` has logged."""
    return (folder / "log").read_text()
