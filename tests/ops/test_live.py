"""The live page's stream over a whole system in memory: what viewers see, and what they cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from aegis import Unavailable
from aegis._node import Node
from aegis.actors._failover_reporter import GATHER_SECONDS
from aegis.contracts import Role
from aegis.ops import _live_sampler, _live_stream
from aegis.ops._live_sampler import LiveSampler
from aegis.ops._live_stream import LiveStream
from aegis.ops._metrics import NodeMetrics
from aegis.transport import Append, Appended
from aegis.transport._codec import decode_value
from tests.support.poll import wait_until
from tests.support.services import Vault
from tests.support.system import Backend, System
from tests.support.virtual import pass_time


class Browser:
    """A viewer: takes what the stream sends, and puts it together as the page does."""

    def __init__(self, sampler: LiveSampler, last_event_id: str = "") -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.samples: list[Any] = []
        self.messages: list[dict[str, Any]] = []
        self.heads: list[dict[str, Any]] = []
        self.last_event_id = last_event_id
        self.takes = asyncio.Event()
        """Whether anything is taken; cleared, the stream is stuck."""
        self.takes.set()
        self.ended = False
        self._leaves = asyncio.Event()
        self._task = asyncio.ensure_future(self._watch(sampler))

    async def _watch(self, sampler: LiveSampler) -> None:
        headers = [(b"last-event-id", self.last_event_id.encode())] if self.last_event_id else []
        await LiveStream(sampler)({"headers": headers}, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.start":
            self.heads.append(message)
            return
        self.ended = not message["more_body"]
        for line in message["body"].decode().splitlines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_event_id = value
            elif name == "data":
                self._take(json.loads(value))

    def _take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message["reset"]:
            self.tables, self.samples = {}, []
        for name, rows in message["rows"].items():
            self.tables.setdefault(name, {}).update(rows)
        for name, keys in message["gone"].items():
            for key in keys:
                self.tables.get(name, {}).pop(key, None)
        self.samples += message["samples"]

    def rows(self, table: str) -> dict[str, Any]:
        return self.tables.get(table, {})

    def problems(self, severity: str) -> list[str]:
        return [p["text"] for p in self.rows("problems").values() if p["severity"] == severity]

    async def leave(self) -> None:
        self._leaves.set()
        await self._task

    async def wait_ended(self) -> None:
        await self._task


@asynccontextmanager
async def watched(
    system: System, *services: Any, role: Role = Role.ACTIVE, instance_id: str
) -> AsyncGenerator[tuple[Node, LiveSampler]]:
    metrics = NodeMetrics(system.clock)
    node = await system.start_node(*services, observer=metrics, role=role, instance_id=instance_id)
    metrics.attach(node)
    sampler = LiveSampler(node, metrics)
    async with sampler.sampling():
        yield node, sampler


def in_memory(scenario: Callable[[System], Awaitable[None]]) -> None:
    async def run(system: System) -> None:
        await scenario(system)

    Backend(None).run(run)


def test_the_first_message_has_the_whole_system() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1", "V-2"]), instance_id="one") as (node, sampler):
            await system.start_node((Vault, ["V-1"]), instance_id="two", role="standby")
            browser = Browser(sampler)
            await wait_until(lambda: len(browser.rows("instances")) == 2, what="all is told")
            (head,) = browser.heads
            assert (b"content-type", b"text/event-stream; charset=utf-8") in head["headers"]
            (whole,) = browser.rows("system").values()
            assert whole["connected"] is True
            assert whole["leader"] == whole["node_id"] == node.node_id
            assert len(browser.rows("nodes")) == 2
            one, two = browser.rows("instances")["one"], browser.rows("instances")["two"]
            assert (one["role"], one["state"], one["resources"]) == ("active", "healthy", 2)
            assert (two["role"], two["state"], two["standby_for"]) == ("standby", "healthy", 1)
            assert browser.rows("services")["vault"]["resources"] == 2
            assert browser.problems("critical") == browser.problems("warning") == []
            await wait_until(
                lambda: browser.problems("notice") != [], what="what has no standby is counted"
            )
            assert browser.problems("notice")[0].startswith("1 resource without a standby")
            await browser.leave()

    in_memory(scenario)


def test_rates_queues_and_latencies_are_sampled_each_second_whoever_watches() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            vault = system.cluster.actor(Vault, "V-1")
            for _ in range(130):
                await vault.deposit(amount=Decimal(1))
                await pass_time(0.1)
            browser = Browser(sampler)
            await wait_until(lambda: len(browser.samples) > 8, what="the past is told")
            ats = [sample[0] for sample in browser.samples]
            assert all(0.9 < later - at < 1.5 for at, later in pairwise(ats))
            _, rate, depth, *_ = browser.samples[-2]
            assert 8 < rate < 12
            assert depth == 0
            known = [sample for sample in browser.samples[-6:-1] if sample[3] is not None]
            assert len(known) == 5, "handlers are timed also while nobody watches"
            assert all(sample[3] <= sample[4] for sample in known)
            assert all(sample[5] is not None for sample in known)
            await browser.leave()

    in_memory(scenario)


def test_a_failover_is_shown_while_it_is_under_way_and_when_it_is_over() -> None:
    async def scenario(system: System) -> None:
        names = ["V-1", "V-2", "V-3"]
        async with watched(system, instance_id="none") as (_, sampler):
            owner = await system.start_node((Vault, names), instance_id="one")
            await system.start_node((Vault, names[:2]), instance_id="two", role="standby")
            browser = Browser(sampler)
            await wait_until(lambda: "two" in browser.rows("instances"), what="all is told")
            await system.kill_node(owner)
            await wait_until(lambda: browser.rows("failovers") != {}, what="the failover is told")
            await wait_until(
                lambda: all(f["total_ms"] for f in browser.rows("failovers").values()),
                what="the failover is over",
            )
            (failover,) = browser.rows("failovers").values()
            assert (failover["resources"], failover["serving"]) == (2, 2)
            assert failover["resource_ids"] == ["V-1", "V-2"]
            assert (failover["old_instance_id"], failover["new_instance_id"]) == ("one", "two")
            steps = [failover[f"{step}_ms"] for step in ("fenced", "replayed", "covered")]
            assert steps == sorted(steps)
            # Nobody stood by for the third one: it stays with the dead, then with nobody.
            await wait_until(lambda: browser.rows("orphans") != {}, what="V-3 has no owner")
            (lost,) = browser.rows("orphans").values()
            assert (lost["resource_ids"], lost["instance_id"]) == (["V-3"], "one")
            assert any("V-3" in text for text in browser.problems("critical"))
            # Whoever takes it, ends that.
            await system.start_node((Vault, ["V-3"]), instance_id="three")
            await wait_until(lambda: browser.rows("orphans") == {}, what="V-3 has an owner")
            assert browser.problems("critical") == []
            await browser.leave()

    in_memory(scenario)


def test_a_node_that_starts_later_tells_the_failovers_before_it() -> None:
    async def scenario(system: System) -> None:
        heard = await system.overhear("event.failed_over")
        first = await system.start_node()
        owner = await system.start_node((Vault, ["V-1"]), instance_id="one", no_supervisor=True)
        standby = await system.start_node((Vault, ["V-1"]), instance_id="two", role="standby")
        await system.kill_node(owner)
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        await wait_until(lambda: heard != [], what="the failover is told as a whole")
        (told,) = [decode_value(message.payload) for message in heard]

        async def see() -> None:
            async with watched(system, instance_id="late") as (node, sampler):
                browser = Browser(sampler)
                await wait_until(lambda: browser.rows("failovers") != {}, what="it is told")
                (failover,) = browser.rows("failovers").values()
                assert failover["trace_id"] == told["trace_id"] != ""
                assert (failover["old_instance_id"], failover["serving"]) == ("one", 1)
                assert failover["covered_ms"] == round(1000 * told["durations"]["covered"], 1)
                await wait_until(lambda: browser.problems("critical") == [], what="it is over")
                await browser.leave()
                await system.stop_node(node)

        # From those who were there.
        await see()
        # And when nobody is left who was: from the registry.
        await pass_time(2 * GATHER_SECONDS)
        await system.stop_node(standby)
        await system.stop_node(first)
        await see()

    in_memory(scenario)


def test_what_is_told_does_not_grow_with_the_number_of_resources() -> None:
    sizes: dict[int, tuple[int, int]] = {}

    def scenario_of(number: int) -> Callable[[System], Awaitable[None]]:
        async def scenario(system: System) -> None:
            names = [f"V-{one:05}" for one in range(number)]
            async with watched(system, (Vault, names), instance_id="one") as (_, sampler):
                await system.start_node((Vault, names), instance_id="two", role="standby")
                browser = Browser(sampler)
                await wait_until(
                    lambda: any("without a standby" in t for t in browser.problems("notice"))
                    or len(browser.messages) > 8,
                    what="some seconds are told",
                )
                assert browser.rows("services")["vault"]["resources"] == number
                first, *later = (len(json.dumps(message)) for message in browser.messages)
                sizes[number] = (first, sum(later) // len(later))
                await browser.leave()

        return scenario

    for number in (10, 1_000):
        in_memory(scenario_of(number))
    (first, update), (more_first, more_update) = sizes[10], sizes[1_000]
    assert more_first < first + 1_000
    assert more_update < update + 200


def test_who_comes_back_is_told_what_changed_and_no_more() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            browser = Browser(sampler)
            await wait_until(lambda: "one" in browser.rows("instances"), what="all is told")
            await browser.leave()
            await system.start_node((Vault, ["V-1"]), instance_id="two", role="standby")
            again = Browser(sampler, browser.last_event_id)
            await wait_until(lambda: "two" in again.rows("instances"), what="the change is told")
            assert not any(message["reset"] for message in again.messages)
            assert "one" not in again.rows("instances"), "nothing of it has changed"
            stranger = Browser(sampler, "another.7")
            await wait_until(lambda: "two" in stranger.rows("instances"), what="all is told")
            assert stranger.messages[0]["reset"] is True
            await again.leave()
            await stranger.leave()

    in_memory(scenario)


def test_a_viewer_that_takes_nothing_is_dropped_and_holds_up_nobody() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            stuck, other = Browser(sampler), Browser(sampler)
            await wait_until(lambda: stuck.messages != [], what="it took something at first")
            stuck.takes.clear()
            seen = len(other.messages)
            await stuck.wait_ended()
            assert len(other.messages) - seen >= _live_stream.SEND_SECONDS - 1
            assert sampler.viewers == 1
            await other.leave()
            assert sampler.viewers == 0

    in_memory(scenario)


def test_a_slow_viewer_gets_fewer_messages_and_misses_nothing() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            slow, other = Browser(sampler), Browser(sampler)
            await wait_until(lambda: slow.messages != [], what="it took something at first")
            slow.takes.clear()
            await pass_time(_live_stream.SEND_SECONDS - 2)
            await system.start_node((Vault, ["V-1"]), instance_id="two", role="standby")
            slow.takes.set()
            await wait_until(lambda: "two" in slow.rows("instances"), what="it has caught up")
            await wait_until(lambda: slow.samples == other.samples, what="no sample is missing")
            assert len(slow.messages) < len(other.messages) - 4
            await slow.leave()
            await other.leave()

    in_memory(scenario)


def test_there_are_as_many_viewers_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live_sampler, "MAX_VIEWERS", 1)

    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            sampler.check_room()
            browser = Browser(sampler)
            await wait_until(lambda: browser.messages != [], what="it watches")
            with pytest.raises(Unavailable, match="1 viewers watch this node already"):
                sampler.check_room()
            await browser.leave()

    in_memory(scenario)


def test_viewers_are_sent_away_when_the_node_ends() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            browser = Browser(sampler)
            await wait_until(lambda: browser.messages != [], what="it watches")
        await browser.wait_ended()
        assert browser.ended

    in_memory(scenario)


def test_a_lost_connection_is_told_and_does_not_end_the_stream() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (node, sampler):
            browser = Browser(sampler)
            await wait_until(lambda: "one" in browser.rows("instances"), what="all is told")
            node.transport.disconnect()  # type: ignore[attr-defined]
            await wait_until(
                lambda: any(
                    "no connection to NATS" in text for text in browser.problems("critical")
                ),
                what="the page says so",
            )
            assert "one" in browser.rows("instances"), "what was known stays"
            node.transport.reconnect()  # type: ignore[attr-defined]
            await wait_until(lambda: browser.problems("critical") == [], what="all is well")
            await browser.leave()

    in_memory(scenario)


def test_a_dead_letter_appears_and_goes() -> None:
    async def scenario(system: System) -> None:
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            browser = Browser(sampler)
            mailbox = system.subjects.mailbox("vault", "V-1")
            wrong = await system.transport.append(Append(mailbox, b"\xc1"), timeout=10)
            assert isinstance(wrong, Appended)
            await wait_until(lambda: browser.rows("letters") != {}, what="the letter is told")
            (letter,) = browser.rows("letters").values()
            assert (letter["service_name"], letter["resource_id"]) == ("vault", "V-1")
            assert letter["sequence"] == wrong.sequence
            assert browser.problems("warning")[0].startswith("1 message could not be processed")
            (stored,) = [s async for s in system.transport.read(system.subjects.dead_letters)]
            dropped = Append(stored.subject, b"", expect=stored.sequence, rollup=True)
            assert isinstance(await system.transport.append(dropped, timeout=10), Appended)
            await wait_until(lambda: browser.rows("letters") == {}, what="it has gone")
            assert browser.problems("warning") == []
            await browser.leave()

    in_memory(scenario)


def test_while_nobody_watches_the_system_is_asked_seldom() -> None:
    async def scenario(system: System) -> None:
        asked = await system.overhear("ipc.service.query")
        async with watched(system, (Vault, ["V-1"]), instance_id="one") as (_, sampler):
            await pass_time(10)
            before = len(asked)
            await pass_time(60)
            idle = len(asked) - before
            browsers = [Browser(sampler) for _ in range(20)]
            await pass_time(60)
            watched_ = len(asked) - before - idle
            assert idle <= 60 / _live_sampler.IDLE_SECONDS + 1
            assert 55 <= watched_ <= 65, "twenty viewers cost what one does"
            for browser in browsers:
                await browser.leave()

    in_memory(scenario)
