"""The control plane as a plain NATS client sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import nats
import pytest
from nats.aio.msg import Msg

from tests.actors.control_world import World
from tests.actors.control_world import play as play_scenario
from tests.support.nats import NatsServer

pytestmark = pytest.mark.timeout(60)


async def test_a_plain_nats_client_that_speaks_msgpack_can_use_everything(
    nats_server: NatsServer,
) -> None:
    async def scenario(world: World) -> None:
        await world.leader()
        client = await nats.connect(world.url)  # pyright: ignore[reportUnknownMemberType]
        prefix = world.subjects.control_prefix

        async def ask(operation: str, **payload: object) -> dict[str, Any]:
            reply = await client.request(f"{prefix}.{operation}", msgpack.packb(payload), timeout=5)
            answer: dict[str, Any] = msgpack.unpackb(reply.data)
            return answer

        async def alive(message: Msg) -> None:
            await message.respond(b"")

        await client.subscribe(  # pyright: ignore[reportUnknownMemberType]
            f"{world.subjects.namespace}.instance.feed-1", cb=alive
        )
        feed = {"service_name": "feed", "instance_id": "feed-1"}
        one = {"timestamp": 1.0, "metadata": {"language": "C"}, "role": "active"}
        assert (await ask("service.register", **feed, **one))["success"] is True
        assert (await ask("service.register", **feed, **one))["success"] is True
        taken = await ask("service.register", **feed, timestamp=2.0)
        assert (taken["success"], taken["code"], taken["holder"]) == (False, 409, "feed-1")
        bad = await ask("service.register", service_name="feed", instance_id="feed 1")
        assert (bad["code"], bad["field"]) == (400, "instance_id")
        got = await ask("resource.register", **feed, resource_ids=["EUR", "USD"], trace_id="t-1")
        assert (got["success"], got["registered"], got["conflicts"], got["trace_id"]) == (
            True,
            ["EUR", "USD"],
            {},
            "t-1",
        )
        await ask("service.register", service_name="feed", instance_id="feed-2", timestamp=1.0)
        refused = await ask(
            "resource.register",
            service_name="feed",
            instance_id="feed-2",
            resource_ids=["EUR"],
        )
        assert (refused["code"], refused["conflicts"]) == (409, {"EUR": "feed-1"})
        forced = await ask(
            "resource.register",
            service_name="feed",
            instance_id="feed-2",
            resource_ids=["EUR"],
            force=True,
        )
        assert forced["success"] is True
        stranger = await ask("resource.release", **feed, resource_ids=["EUR"])
        assert (stranger["code"], stranger["owner"]) == (403, "feed-2")
        too_many = await ask(
            "resource.register", **feed, resource_ids=[str(i) for i in range(1001)]
        )
        assert (too_many["code"], too_many["limit"]) == (429, 1000)
        where = await ask("resource.query", service_name="feed", resource_id="EUR")
        assert (where["owner"], where["role"]) == ("feed-2", "active")
        assert (await ask("resource.query", resource_id="GBP"))["code"] == 404
        listing = await ask("service.query")
        assert listing["success"] is True
        # It may beat, too: then it stays healthy, and is told what its lease covers.
        beat = {"node_id": "feed-1", "number": 1, "instances": {"feed-1": {"depth": 0}}}
        reply = await client.request(
            f"{world.subjects.namespace}.heartbeat", msgpack.packb(beat), timeout=5
        )
        assert msgpack.unpackb(reply.data)["covers"] == {"feed": {"USD": got["epochs"]["USD"]}}
        assert (await ask("resource.release", **feed, resource_ids=["USD"]))["success"] is True
        assert (await ask("service.unregister", **feed))["success"] is True
        assert (await ask("service.unregister", **feed))["code"] == 404
        await client.close()

    await asyncio.to_thread(play_scenario, scenario, nats_server)
