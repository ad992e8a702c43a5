"""The three-server cluster that later tests stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import start_cluster
from tests.support.processes import processes_of


@pytest.mark.timeout(120)
async def test_an_acknowledged_append_survives_the_death_of_the_leader(tmp_path: Path) -> None:
    async with start_cluster(tmp_path) as cluster, cluster.connected() as client:
        await client.create_stream("kept", replicas=3)
        leader = await cluster.wait_stream_leader("kept", replicas=3)
        assert await client.append("kept", b"one") == 1
        cluster.kill(leader)
        assert not cluster.is_running(leader)
        successor = await cluster.wait_stream_leader("kept")
        assert successor != leader
        assert await client.append("kept", b"two") == 2
        await cluster.start(leader)
        await cluster.wait_ready()
        await cluster.wait_stream_leader("kept", replicas=3)
        assert await client.stored("kept") == [b"one", b"two"]
        await cluster.stop(successor)
        assert await cluster.wait_stream_leader("kept") != successor
    assert not processes_of(tmp_path)
