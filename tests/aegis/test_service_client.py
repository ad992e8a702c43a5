"""`ServiceClient`: code that is no actor registers, holds resources, and calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aegis import (
    Conflict,
    InvalidRequest,
    NotFound,
    NotOwner,
    Rejected,
    Role,
    ServiceClient,
    TooManyResources,
)
from aegis.transport._codec import encode_value
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.services import Vault
from tests.support.system import Backend, System

type Opener = Callable[[], ServiceClient]


def with_clients(
    server: NatsServer, scenario: Callable[[System, Opener], Coroutine[Any, Any, None]]
) -> None:
    """Run ``scenario`` in a system with one node; the second argument makes clients."""

    async def run(system: System) -> None:
        await system.start_node((Vault, ["V-1"]), instance_id="v", max_resources_per_instance=5)
        await scenario(system, lambda: ServiceClient(server.url, namespace=system.namespace))

    Backend(server.url).run(run)


def test_it_calls_without_registering(nats_server: NatsServer) -> None:
    async def scenario(system: System, make: Opener) -> None:
        async with make() as client:
            assert await client.call("vault", "deposit", {"amount": 5}, resource_id="V-1") == "5"
            with pytest.raises(Rejected, match="positive"):
                await client.call("vault", "deposit", {"amount": -5}, resource_id="V-1")
            with pytest.raises(InvalidRequest, match="register"):
                await client.register_resource(["LINE-1"])

    with_clients(nats_server, scenario)


def test_what_it_registers_is_found_and_gone_when_it_leaves(nats_server: NatsServer) -> None:
    async def scenario(system: System, make: Opener) -> None:
        directory = system.nodes[0].directory
        async with make() as client:
            await client.register("gateway", "gw-1", metadata={"floor": 3})
            registration = await client.register_resource(["LINE-1", "LINE-2"])
            assert registration.registered == ["LINE-1", "LINE-2"]
            assert registration.conflicts == {}
            assert (await directory.route("gateway", "LINE-2")).instance_id == "gw-1"
            assert await client.release_resource(["LINE-2"]) == ["LINE-2"]
            with pytest.raises(NotFound):
                await directory.route("gateway", "LINE-2")
            with pytest.raises(InvalidRequest, match="already"):
                await client.register("gateway", "gw-2")
        with pytest.raises(NotFound):
            await directory.instances("gateway")
        with pytest.raises(NotFound):
            await directory.route("gateway", "LINE-1")

    with_clients(nats_server, scenario)


def test_it_is_told_who_holds_what_it_wants(nats_server: NatsServer) -> None:
    async def scenario(system: System, make: Opener) -> None:
        async with make() as one, make() as two:
            await one.register("gateway", "gw-1")
            with pytest.raises(Conflict, match="gw-1"):
                await two.register("gateway", "gw-1")
            await two.register("gateway", "gw-2")
            await one.register_resource(["LINE-1"])
            registration = await two.register_resource(["LINE-1", "LINE-2"])
            assert registration.registered == ["LINE-2"]
            assert registration.conflicts == {"LINE-1": "gw-1"}
            with pytest.raises(NotOwner) as raised:
                await two.release_resource(["LINE-9", "LINE-1", "LINE-2"])
            assert raised.value.facts["owner"] == "gw-1"
            standby = await two.register_resource(["LINE-1"], role="standby")
            assert standby.conflicts == {}
            forced = await two.register_resource(["LINE-1"], Role.ACTIVE, force=True)
            assert forced.epochs["LINE-1"] > 0
            with pytest.raises(InvalidRequest, match="role"):
                await two.register_resource(["LINE-1"], role="boss")
            with pytest.raises(InvalidRequest) as wrong:
                await two.register_resource(["LINE-1", ""])
            assert wrong.value.facts["field"] == "resource_ids[1]"
            with pytest.raises(TooManyResources) as many:
                await two.register_resource([f"MANY-{n}" for n in range(6)])
            assert many.value.facts["limit"] == 5

    with_clients(nats_server, scenario)


def test_while_it_is_open_it_stays_registered(nats_server: NatsServer) -> None:
    async def scenario(system: System, make: Opener) -> None:
        node = system.nodes[0]
        assert node.supervisor is not None
        beats = await system.overhear("heartbeat")
        async with make() as client:
            await client.register("gateway", "gw-1")
            del beats[:]
            await wait_until(
                lambda: sum(b"gw-1" in beat.payload for beat in beats) >= 4, what="it beats"
            )
            (provider,) = await node.directory.instances("gateway")
            assert provider.instance_id == "gw-1"

    with_clients(nats_server, scenario)


def test_it_registers_anew_what_the_supervisors_forgot(nats_server: NatsServer) -> None:
    async def scenario(system: System, make: Opener) -> None:
        directory = system.nodes[0].directory
        async with make() as client:
            await client.register("gateway", "gw-1")
            await client.register_resource(["LINE-1", "LINE-2", "LINE-3"])
            await client.release_resource(["LINE-3"])
            epoch = (await directory.route("gateway", "LINE-2")).epoch
            node_id = (await directory.instances("gateway"))[0].node_id
            payload = {"service_name": "gateway", "instance_id": "gw-1", "node_id": node_id}
            await system.transport.request(
                system.subjects.service_control("unregister"), encode_value(payload), timeout=10
            )

            async def is_back() -> bool:
                try:
                    route = await directory.route("gateway", "LINE-2")
                except NotFound:
                    return False
                return route.epoch > epoch

            await wait_until(is_back, what="it has registered anew")
            with pytest.raises(NotFound):
                await directory.route("gateway", "LINE-3")

    with_clients(nats_server, scenario)
