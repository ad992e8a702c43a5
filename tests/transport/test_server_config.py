"""The configuration text of the servers that Aegis runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from attrs import evolve

from aegis.errors import ConfigurationError
from aegis.transport import Credentials, find_binary
from aegis.transport._server_config import ClusterMember, ServerSettings, render_config

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(
        server_name="one",
        port=4222,
        store_dir=tmp_path / "store",
        log_file=tmp_path / "server.log",
        application=Credentials("aegis", "secret"),
        system=Credentials("system", "other"),
    )


def check(settings: ServerSettings, tmp_path: Path) -> str:
    """Have the server itself read the text; return what it says."""
    path = tmp_path / "nats.conf"
    path.write_text(render_config(settings))
    result = subprocess.run(
        [find_binary(), "-c", path, "-t"], capture_output=True, text=True, timeout=20, check=False
    )
    return result.stderr + result.stdout


def test_the_server_accepts_it(settings: ServerSettings, tmp_path: Path) -> None:
    assert "is valid" in check(settings, tmp_path)


def test_the_server_accepts_it_with_everything_on(settings: ServerSettings, tmp_path: Path) -> None:
    cluster = ClusterMember(name="three", port=6222, routes=[6222, 6223, 6224])
    full = evolve(settings, sync="1m30s", monitor_port=8222, cluster=cluster)
    assert "is valid" in check(full, tmp_path)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a'b", "$HOME", "a}b#c", "é ☃", "a\tb"])
def test_any_text_survives_the_quotes(settings: ServerSettings, tmp_path: Path, text: str) -> None:
    odd = evolve(
        settings, application=Credentials(text, text), store_dir=tmp_path / text.replace("\t", "")
    )
    assert "is valid" in check(odd, tmp_path)


def test_a_wrong_sync_interval_never_gets_into_the_file(settings: ServerSettings) -> None:
    with pytest.raises(ConfigurationError, match="sync"):
        render_config(evolve(settings, sync="never"))


def test_fsync_loopback_and_pings_are_what_the_design_says(settings: ServerSettings) -> None:
    text = render_config(settings)
    for line in (
        'host: "127.0.0.1"',
        '  sync_interval: "always"',
        'ping_interval: "1s"',
        "ping_max: 2",
        "max_payload: 8388608",
    ):
        assert line in text.splitlines()
