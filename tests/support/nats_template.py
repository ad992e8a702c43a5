"""NATS servers that run with the files of ``ops/nats``, but for addresses and folders."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nats import NatsServer

__all__ = ["FILES", "PASSWORDS", "ROLES", "TemplateServer", "environ_of", "template_server"]

FILES = Path(__file__).resolve().parents[2] / "ops" / "nats"

ROLES = {
    "caller": "AEGIS_CALLER_PASSWORD",
    "account": "AEGIS_NODE_PASSWORD",
    "supervisor": "AEGIS_SUPERVISOR_PASSWORD",
    "operator": "AEGIS_OPERATOR_PASSWORD",
    "system": "AEGIS_SYSTEM_PASSWORD",
}
"""The users of the template, and the variable of the server that has their password."""

PASSWORDS = {role: f"secret-of-{role}" for role in ROLES}


def environ_of(role: str) -> dict[str, str]:
    """Return the variables by which a process is this user."""
    return {"AEGIS_USER": role, "AEGIS_PASSWORD": PASSWORDS[role]}


class TemplateServer(NatsServer):
    """One server with ``nats-server.conf``; ``edits`` are made in it and in what it includes."""

    def __init__(self, folder: Path, edits: dict[str, str], *, scheme: str = "nats") -> None:
        self._edits = edits
        super().__init__(folder, scheme=scheme)
        self.environ = {variable: PASSWORDS[role] for role, variable in ROLES.items()}
        self.environ["NATS_STORE_DIR"] = str(folder / "store")

    def configure(self, extra: str) -> None:
        """Write the files; ``extra`` is of no use here."""
        edits = {
            r"0\.0\.0\.0:4222": f"127.0.0.1:{self.port}",
            r"127\.0\.0\.1:8222": "127.0.0.1:-1",
            **self._edits,
        }
        for file in FILES.glob("*.conf"):
            text = file.read_text(encoding="utf-8")
            for pattern, new in edits.items():
                text = re.sub(pattern, new, text)
            name = "server.conf" if file.name == "nats-server.conf" else file.name
            (self.folder / name).write_text(text, encoding="utf-8")

    def violations(self) -> list[str]:
        """Return what this server has denied so far."""
        return [line for line in self.log if "Violation" in line]


@contextmanager
def template_server(
    folder: Path,
    edits: dict[str, str] | None = None,
    *,
    scheme: str = "nats",
    environ: dict[str, str] | None = None,
) -> Generator[TemplateServer]:
    """Run one for the time of the block."""
    folder.mkdir(exist_ok=True)
    server = TemplateServer(folder, edits or {}, scheme=scheme)
    server.environ |= environ or {}
    server.start()
    try:
        yield server
    finally:
        server.stop()
