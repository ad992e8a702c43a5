"""What a caller hears where the NATS server does not let it do what it wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from aegis import AccessDenied, OutcomeUnknown
from aegis._cluster import Cluster
from aegis.contracts import Kind
from aegis.transport import NatsOptions, Transport, connect_nats
from tests.aegis.test_finality import GOOD, scripted
from tests.support.nats import NatsServer
from tests.support.services import Vault
from tests.support.system import Backend, System

USERS = """
accounts { APP { jetstream: enabled, users: [
  { user: app, password: app }
  { user: caller, password: caller, permissions: { publish: { deny: ["*.instance.>"] } } }
  { user: deaf, password: deaf, permissions: { subscribe: { deny: ["_INBOX.>"] } } }
] } }
"""


GO: tuple[str, str, dict[str, object]] = ("script", "go", {})


async def test_a_denied_call_says_at_once_that_it_did_not_run_and_what_misses(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path, USERS)
    server.start()
    user = "app"

    async def open_transport() -> Transport:
        return await connect_nats(NatsOptions((server.url,), user=user, password=user))

    system = System(open_transport)
    try:
        await system.open()
        await system.start_node((Vault, ["V-1"]))
        user = "caller"
        caller = await system.caller()
        async with asyncio.timeout(30):
            with pytest.raises(AccessDenied, match=r"publish to .*instance") as caught:
                await caller.call(
                    "vault", "deposit", {"amount": 1}, resource_id="V-1", timeout=300.0
                )
        assert caught.value.facts["permission"] == "publish"
        assert await system.cluster.actor(Vault, "V-1").total() == Decimal(0)
        user = "deaf"
        with pytest.raises(AccessDenied, match=r"inbox_prefix: .*_INBOX"):
            await open_transport()
    finally:
        await system.close()
        server.stop()


def denied_after(cluster: Cluster, attempts: list[int], count: int, denials: int) -> None:
    """Let the transport say, once ``count`` attempts have come, that so many were denied."""
    transport = cluster.transport

    def denied(subject: str) -> int:
        return denials if len(attempts) >= count else 0

    transport.denied = denied  # type: ignore[method-assign]


def in_memory(scenario: Callable[[System], object]) -> None:
    Backend(None).run(scenario)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "denials", "expected"),
    [
        # Two messages were published, and one was denied: the first attempt may have run.
        (Kind.COMMAND, 1, OutcomeUnknown),
        (Kind.COMMAND, 2, AccessDenied),
        # What only reads may be judged by its last attempt.
        (Kind.QUERY, 1, AccessDenied),
    ],
)
def test_a_denial_is_final_only_if_no_earlier_attempt_can_have_run(
    kind: Kind, denials: int, expected: type[Exception]
) -> None:
    async def scenario(system: System) -> None:
        await system.start_node()  # for its supervisor
        async with scripted(system, [GOOD, None]) as attempts:
            caller = await system.caller()
            client = caller._client
            assert await client.call(*GO, kind=kind, resource="S-1", timeout=60.0) == "good"
            denied_after(caller, attempts, 2, denials)
            with pytest.raises((AccessDenied, OutcomeUnknown)) as caught:
                await client.call(*GO, kind=kind, resource="S-1", timeout=60.0)
            assert type(caught.value) is expected
            assert len(attempts) == 2

    in_memory(scenario)
