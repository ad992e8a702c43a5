"""Clients that know nothing of Aegis: plain nats-py and msgpack, and bytes of any kind."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import nats.errors
import pytest
from nats.aio.client import Client

from aegis import NoResponders
from aegis.testing import MemoryCluster, MemoryTransport, run
from tests.support.nats import NatsServer
from tests.support.services import Quoter, Vault
from tests.support.system import Backend, System

VERSION = 1
FEED = {"service_name": "feed", "instance_id": "f"}


@asynccontextmanager
async def plain_client(server: NatsServer) -> AsyncGenerator[Client]:
    client = Client()
    await client.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


def envelope(method: str, params: Any = None, resource: Any = "V-1", **other: Any) -> Any:
    """Return a request as the design has it, with fields replaced by name."""
    fields: dict[str, Any] = {
        "version": VERSION,
        "kind": "command",
        "session": f"{int(time.time() * 1000)}-{secrets.token_hex(8)}",
        "n": 1,
        "low": 1,
        "service": "vault" if resource else "quoter",
        "resource": resource,
        "method": method,
        "params": params or {},
        "remaining_ms": 10_000,
        "first_sent_ms": int(time.time() * 1000),
        "attempt": 1,
        "trace": "",
        **other,
    }
    return list(fields.values())


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


async def ask(client: Client, system: System, payload: bytes) -> Any:
    reply = await client.request(f"{system.namespace}.instance.v", payload, timeout=20)
    return msgpack.unpackb(reply.data)


def over_nats(server: NatsServer, scenario: Any) -> None:
    async def with_client(system: System) -> None:
        node = await system.start_node((Vault, ["V-1"]), instance_id="v")
        await node.add_service(Quoter, instance_id="q")
        async with plain_client(server) as client:
            await scenario(system, client)

    Backend(server.url).run(with_client)


def test_one_request_gets_one_reply_of_four_elements(nats_server: NatsServer) -> None:
    async def scenario(system: System, client: Client) -> None:
        request = envelope("deposit", {"amount": "1.5"}, n=7)
        assert await ask(client, system, packed(request)) == [VERSION, 7, 200, "1.5"]
        assert await ask(client, system, packed(request)) == [VERSION, 7, 200, "1.5"]
        look = envelope("total", kind="query", session="")
        assert await ask(client, system, packed(look)) == [VERSION, 1, 200, "1.5"]
        refused = await ask(client, system, packed(envelope("deposit", {"amount": "-1"})))
        message = {"message": "amount must be positive", "limit": 0}
        assert refused == [VERSION, 1, 422, message]
        wrong = await ask(client, system, packed(envelope("deposit", {"amount": []})))
        assert wrong[2:3] == [400]
        assert wrong[3]["field"] == "amount"
        reply = await client.request(
            f"{system.namespace}.instance.q", packed(envelope("place", {"amount": "1"}, None))
        )
        assert msgpack.unpackb(reply.data)[2] == 200

    over_nats(nats_server, scenario)


def test_what_is_no_request_is_refused_and_harms_nobody(nats_server: NatsServer) -> None:
    good = envelope("deposit", {"amount": "1"})
    garbage: list[bytes] = [
        b"\xc1",
        b"garbage, and no msgpack",
        packed(None),
        packed({}),
        packed([]),
        packed(good[:-1]),
        packed([*good, 1]),
        packed(envelope("deposit", {"amount": "1"}, version=2)),
        packed(envelope("deposit", {"amount": "1"}, version="1")),
        packed(envelope("deposit", {"amount": "1"}, kind="order")),
        packed(envelope("deposit", {"amount": "1"}, session=None)),
        packed(envelope("deposit", {"amount": "1"}, n=-1)),
        packed(envelope("deposit", {"amount": "1"}, n="1")),
        packed(envelope("deposit", [1])),
        packed(envelope("deposit", {"amount": "1"}, resource=5)),
        packed(good)[:-3],
        packed(good) + b"\xc1",
        packed(good) + packed({}),
        b"\x93" * 1000,
        secrets.token_bytes(100),
    ]

    async def scenario(system: System, client: Client) -> None:
        for payload in garbage:
            version, n, status, error = await ask(client, system, payload)
            assert (version, n, status) == (VERSION, 0, 400), payload
            assert error["message"]
            await client.publish(f"{system.namespace}.instance.v", payload)  # nobody to answer
        for bad in ("", "abc", "1-", "x" * 10_000, "*.>"):
            _, _, status, _ = await ask(
                client, system, packed(envelope("deposit", {"amount": "1"}, session=bad or "-"))
            )
            assert status == 410
        assert await ask(client, system, packed(good)) == [VERSION, 1, 200, "1"]
        assert await ask(client, system, b"") == [VERSION, 0, 200, None]  # is anybody there?

    over_nats(nats_server, scenario)


def test_several_requests_in_one_message_need_a_numbered_reply_subject(
    nats_server: NatsServer,
) -> None:
    async def scenario(system: System, client: Client) -> None:
        session = f"{int(time.time() * 1000)}-{secrets.token_hex(8)}"
        requests = [
            packed(envelope("deposit", {"amount": "1"}, session=session, n=n)) for n in (1, 2, 3)
        ]
        version, _, status, error = await ask(client, system, b"".join(requests))
        assert (version, status) == (VERSION, 400)
        assert ".m<number>" in error["message"]
        assert (await ask(client, system, packed(envelope("total", kind="query"))))[3] == "0"
        inbox = client.new_inbox()
        heard: list[Any] = []
        complete = asyncio.Event()

        async def hear(message: Any) -> None:
            unpacker = msgpack.Unpacker()
            unpacker.feed(message.data)
            heard.extend(unpacker)
            if len(heard) == 3:
                complete.set()

        await client.subscribe(f"{inbox}.*", cb=hear)  # pyright: ignore[reportUnknownMemberType]
        await client.publish(
            f"{system.namespace}.instance.v", b"".join(requests), reply=f"{inbox}.m40"
        )
        async with asyncio.timeout(20):
            await complete.wait()
        assert sorted(heard) == [
            [VERSION, 1, 200, "1", 40],
            [VERSION, 2, 200, "2", 41],
            [VERSION, 3, 200, "3", 42],
        ]

    over_nats(nats_server, scenario)


async def control(client: Client, system: System, operation: str, payload: Any) -> dict[str, Any]:
    reply = await client.request(f"{system.namespace}.ipc.{operation}", packed(payload), timeout=20)
    answer: dict[str, Any] = msgpack.unpackb(reply.data)
    return answer


def test_any_client_registers_queries_and_releases(nats_server: NatsServer) -> None:
    async def scenario(system: System, client: Client) -> None:
        gateway = {"service_name": "gateway", "instance_id": "gw-1", "timestamp": time.time()}
        answer = await control(client, system, "service.register", {**gateway, "trace_id": "t-1"})
        assert (answer["success"], answer["trace_id"]) == (True, "t-1")
        assert (await control(client, system, "service.register", gateway))["success"]
        other = {**gateway, "node_id": "another-process"}
        # Nothing answers at its address, so the newcomer may have the name.
        assert (await control(client, system, "service.register", other))["success"]
        refusals: list[tuple[Any, str]] = [
            ({**gateway, "instance_id": ""}, "instance_id"),
            ({"service_name": "gateway"}, "instance_id"),
            ({**gateway, "service_name": 5}, "service_name"),
            ({**gateway, "role": "boss"}, "role"),
            ([], "payload"),
        ]
        for wrong, field in refusals:
            refused = await control(client, system, "service.register", wrong)
            assert (refused["code"], refused["field"]) == (400, field)
        mine = {**other, "resource_ids": ["LINE-1", "LINE-2"]}
        answer = await control(client, system, "resource.register", mine)
        assert (answer["registered"], answer["conflicts"]) == (["LINE-1", "LINE-2"], {})
        rival = {"service_name": "gateway", "instance_id": "gw-2"}
        await control(client, system, "service.register", rival)
        theirs = {**rival, "resource_ids": ["LINE-2", "LINE-3"]}
        answer = await control(client, system, "resource.register", theirs)
        assert (answer["registered"], answer["conflicts"]) == (["LINE-3"], {"LINE-2": "gw-1"})
        where = {"service_name": "gateway", "resource_id": "LINE-2"}
        assert (await control(client, system, "resource.query", where))["instance_id"] == "gw-1"
        taken = {**rival, "resource_ids": ["LINE-1"]}
        refused = await control(client, system, "resource.release", taken)
        assert (refused["code"], refused["owner"]) == (403, "gw-1")
        answer = await control(client, system, "resource.register", {**taken, "force": True})
        assert (answer["registered"], answer["conflicts"]) == (["LINE-1"], {})
        released = await control(client, system, "resource.release", taken)
        assert released["released"] == ["LINE-1"]
        missing = {"service_name": "gateway", "resource_id": "LINE-1"}
        assert (await control(client, system, "resource.query", missing))["code"] == 404
        many = {**rival, "resource_ids": [f"N-{n}" for n in range(1001)]}
        refused = await control(client, system, "resource.register", many)
        assert (refused["code"], refused["limit"]) == (429, 1000)
        await control(client, system, "service.unregister", other)
        assert (await control(client, system, "resource.query", where))["code"] == 404
        await control(client, system, "service.unregister", rival)
        listed = await control(client, system, "service.query", {"service_name": "gateway"})
        assert listed["code"] == 404

    over_nats(nats_server, scenario)


def test_an_instance_that_is_alive_is_held_by_its_process(nats_server: NatsServer) -> None:
    async def scenario(system: System, client: Client) -> None:
        refused = await control(
            client,
            system,
            "service.register",
            {"service_name": "vault", "instance_id": "v", "node_id": "impostor"},
        )
        assert refused["code"] == 409
        assert refused["holder"] == system.nodes[0].node_id
        answer = await control(client, system, "service.query", {"service_name": "vault"})
        (service,) = answer["services"]
        assert [one["instance_id"] for one in service["instances"]] == ["v"]

    over_nats(nats_server, scenario)


def test_a_system_without_nodes_has_nobody_to_ask(nats_server: NatsServer) -> None:
    async def scenario(system: System) -> None:
        async with plain_client(nats_server) as client:
            with pytest.raises(nats.errors.NoRespondersError):
                await control(client, system, "service.query", {})

    Backend(nats_server.url).run(scenario)


@pytest.mark.parametrize(("namespace", "prefix"), [("aegis", "ipc"), ("uat", "uat.ipc")])
def test_control_subjects_are_prefixed_in_other_namespaces_only(
    namespace: str, prefix: str
) -> None:
    async def scenario() -> None:
        async with MemoryCluster(namespace=namespace) as memory:
            await memory.start_node((Vault, ["V-1"]), instance_id="v")
            asking = MemoryTransport(memory.broker)
            for operation, payload in (
                ("service.query", {"service_name": "vault"}),
                ("resource.query", {"service_name": "vault", "resource_id": "V-1"}),
                ("service.register", {"service_name": "feed", "instance_id": "f"}),
                ("resource.register", {**FEED, "resource_ids": ["F-1"]}),
                ("resource.release", {**FEED, "resource_ids": ["F-1"]}),
                ("service.unregister", FEED),
            ):
                reply = await asking.request(f"{prefix}.{operation}", packed(payload), timeout=5)
                answer = msgpack.unpackb(reply.payload)
                assert (answer.get("code"), answer["success"]) == (None, True), operation
            other = "uat.ipc" if prefix == "ipc" else "ipc"
            with pytest.raises(NoResponders):
                await asking.request(f"{other}.service.query", packed({}), timeout=5)

    run(scenario())
