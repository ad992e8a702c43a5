"""`aegis top`: what it makes of beats, answers and events, and the view with its keys."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Static
from typer.testing import CliRunner

from aegis._inspect import NodeHealth
from aegis.actors._lease import Beat, InstanceLoad
from aegis.contracts import Role
from aegis.ops import _top, cli
from aegis.ops._histogram import Histogram
from aegis.ops._timings import WATCHED_SECONDS, WatchedTimings
from aegis.ops._top_app import TopApp
from aegis.ops._top_detail import describe
from aegis.ops._top_sampler import TopSampler
from aegis.ops._top_state import InstanceRow, TopState
from aegis.ops._top_tables import VIEWS, headline, shown_number
from tests.support.nats import NatsServer
from tests.support.poll import wait_until
from tests.support.services import Quoter, Vault
from tests.support.system import Backend, System
from tests.support.virtual import pass_time

INSTANCES, NODES, RESOURCES, FAILOVERS = VIEWS


def services(*instances: str) -> list[dict[str, Any]]:
    entries = [{"instance_id": name, "node_id": "n", "state": "healthy"} for name in instances]
    return [{"service_name": "vault", "instances": entries}]


def beat(progress: int, *, depth: int = 0, instance: str = "one") -> Beat:
    return Beat("n", 1, instances={instance: InstanceLoad(depth=depth, progress=progress)})


def node(*seconds: float) -> NodeHealth:
    histogram = Histogram()
    for value in seconds:
        histogram.observe(value)
    observed = {"handled": {"vault": histogram.buckets}, "commits": histogram.buckets}
    return NodeHealth("n", {"pid": 7, "host": "h", "leading": True, "observed": observed}, 0.001)


def promoted(*names: str, epoch: int = 5) -> dict[str, Any]:
    return {
        "event": "promoted",
        "service_name": "vault",
        "instance_id": "two",
        "node_id": "n2",
        "old_instance_id": "one",
        "old_node_id": "n",
        "cause": "death",
        "epochs": dict.fromkeys(names, epoch),
        "durations": {"detected": 0.02, "decided": 0.005},
    }


def serving(*names: str, covered_ms: float, epoch: int = 5) -> dict[str, Any]:
    epochs = dict.fromkeys(names, epoch)
    steps = {"fenced_ms": 1.0, "replayed_ms": 2.0, "covered_ms": covered_ms}
    return {"event": "serving", "service_name": "vault", "epochs": epochs, **steps}


# -- what it makes of what it hears ------------------------------------------------------


def test_the_rate_of_an_instance_is_what_its_beats_say_it_ended() -> None:
    state = TopState("aegis")
    state.looked(services("one"), [node()])
    assert state.instances()[0].rate is None
    for number in range(10):
        state.heard_beat(beat(100 * number, depth=number), now=0.5 * number)
    (row,) = state.instances()
    assert (row.rate, row.queue) == (200.0, 9)
    assert (state.totals().rate, state.nodes()[0].rate) == (200.0, 200.0)
    # Another process of that name counts from 0: nothing went backwards.
    state.heard_beat(beat(10), now=5.0)
    state.heard_beat(beat(20), now=5.5)
    assert state.instances()[0].rate == 20.0


def test_an_instance_that_is_silent_for_long_has_no_rate_any_more() -> None:
    state = TopState("aegis")
    state.looked(services("one"), [node()])
    state.heard_beat(beat(1), now=0.0)
    state.heard_beat(beat(2), now=1.0)
    state.heard_beat(beat(1, instance="two"), now=40.0)
    assert state.instances()[0].rate is None


def test_latencies_are_those_between_two_looks() -> None:
    state = TopState("aegis")
    state.looked(services("one"), [node(*[8.0] * 100)])
    assert state.instances()[0].p99_ms is None
    state.looked(services("one"), [node(*[8.0] * 100, *[0.0004] * 100)])
    p99 = state.instances()[0].p99_ms
    assert p99 is not None
    assert 0.25 < p99 <= 0.5
    assert state.totals().p99_ms == state.nodes()[0].p99_ms == p99
    # Nothing ran meanwhile.
    state.looked(services("one"), [node(*[8.0] * 100, *[0.0004] * 100)])
    assert state.instances()[0].p99_ms is None


def test_a_node_without_metrics_times_its_messages_while_somebody_watches() -> None:
    async def scenario(system: System) -> None:
        timings = WatchedTimings(system.clock)
        await system.start_node((Vault, ["V-1"]), instance_id="one", observer=timings)
        vault = system.cluster.actor(Vault, "V-1")
        await vault.deposit(amount=Decimal(1))
        assert timings.facts()["handled"] == {}, "nobody has watched"
        sampler = TopSampler(system.transport, system.subjects, system.clock)
        async with sampler.listening():
            await sampler.look(resources=False)
            await vault.deposit(amount=Decimal(1))
            await sampler.look(resources=False)
        assert sampler.problem == ""
        (row,) = sampler.state.instances()
        assert row.p99_ms is not None
        assert sampler.state.totals().p99_ms == row.p99_ms
        # Whoever watched has gone.
        await pass_time(WATCHED_SECONDS + 1)
        timings.facts()
        before = timings.commits.count
        await vault.deposit(amount=Decimal(1))
        assert sum(timings.facts()["handled"]["vault"]) == timings.commits.count == before == 1

    async def run(system: System) -> None:
        await scenario(system)

    Backend(None).run(run)


@pytest.mark.parametrize("observed", [None, {}, {"handled": {"vault": [1, 2]}}, {"handled": 3}])
def test_a_node_that_observes_nothing_or_otherwise_has_no_latency(observed: Any) -> None:
    state = TopState("aegis")
    for _ in range(2):
        state.looked(services("one"), [NodeHealth("n", {"observed": observed})])
    assert state.instances()[0].p99_ms is None


def test_quantiles_lie_in_the_bucket_that_has_them() -> None:
    histogram = Histogram()
    for value in [0.0002] * 98 + [0.03, 20.0]:
        histogram.observe(value)
    quantile = Histogram.quantile
    assert quantile(Histogram().buckets, 0.99) is None
    assert 0.0001 < (quantile(histogram.buckets, 0.5) or 0) < 0.00025
    assert quantile(histogram.buckets, 0.99) == pytest.approx(0.05)
    assert quantile(histogram.buckets, 1.0) == 10


@pytest.mark.parametrize("reports_first", [False, True])
def test_a_failover_is_over_when_all_its_resources_answer(reports_first: bool) -> None:
    state = TopState("aegis")
    told = [promoted("A", "B"), serving("A", covered_ms=10.0), serving("B", covered_ms=30.0)]
    for facts in told[1:] + told[:1] if reports_first else told:
        state.heard_event(facts, at=1.0)
    (row,) = state.failovers()
    assert (row.resources, row.first, row.old, row.new, row.cause) == (
        2,
        "A",
        "one",
        "two",
        "death",
    )
    assert row.total_ms == 55.0
    assert state.totals().failovers == 1


def test_a_failover_is_open_until_the_last_resource_answers() -> None:
    state = TopState("aegis")
    state.heard_event(promoted("A", "B"), at=1.0)
    state.heard_event(serving("A", covered_ms=10.0), at=1.0)
    state.heard_event(serving("B", covered_ms=10.0, epoch=4), at=1.0)  # of an earlier one
    assert state.failovers()[0].total_ms is None


def test_a_first_owner_is_no_failover() -> None:
    state = TopState("aegis")
    state.heard_event(promoted("A") | {"old_instance_id": ""}, at=1.0)
    state.heard_event({"event": "registered"}, at=1.0)
    assert state.failovers() == []


# -- tables ----------------------------------------------------------------------------------


def row(name: str, rate: float | None) -> InstanceRow:
    return InstanceRow("s", name, "n", "h:1", "healthy", "", 1, 0, 0, rate, None)


def test_rows_are_sorted_by_a_column_and_what_is_unknown_comes_last() -> None:
    rows = [row("b", 1.0), row("a", None), row("d", 9.0), row("c", 1.0)]
    column = [one.title for one in INSTANCES.columns].index("msg/s")
    for descending, names in ((True, "dbca"), (False, "bcda")):
        found = INSTANCES.sorted(rows, column, descending)
        assert "".join(one.instance_id for one in found if isinstance(one, InstanceRow)) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.1234, "0.123"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (123_456, "123k"),
    ],
)
def test_figures_have_three_digits_and_fit_their_column(value: float | None, text: str) -> None:
    assert shown_number(value) == text


def test_what_is_opened_and_gone_meanwhile_is_said_to_be_gone() -> None:
    assert describe(TopState("aegis"), RESOURCES, "vault/V-1") == "It is not there any more."


# -- the view ------------------------------------------------------------------------------

type Look = Callable[[System, TopApp, Pilot[None]], Awaitable[None]]


def view(server: NatsServer, look: Look) -> None:
    """Show a small system on a terminal of 80 by 24, and look at it."""

    async def scenario(system: System) -> None:
        held = (Vault, ["V-1", "V-2"])
        await system.start_node(held, instance_id="one")
        await system.start_node(held, instance_id="two", role=Role.STANDBY)
        await system.start_node(Quoter, instance_id="quoter")
        await system.cluster.actor(Vault, "V-1").deposit(amount=Decimal(1))
        sampler = TopSampler(system.transport, system.subjects)
        async with sampler.listening():
            await sampler.first_look(resources=True)
            app = TopApp(sampler, every=0.05)
            async with app.run_test(size=(80, 24)) as pilot:
                await look(system, app, pilot)

    Backend(server.url).run(scenario)


def shown(app: TopApp) -> list[list[str]]:
    """Return the table's cells."""
    table: DataTable[Text] = app.query_one("#table", DataTable)  # pyright: ignore
    return [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]


def titles(app: TopApp) -> list[str]:
    table: DataTable[Text] = app.query_one("#table", DataTable)  # pyright: ignore
    return [str(column.label) for column in table.ordered_columns]


def text_of(app: TopApp, name: str) -> str:
    return str(app.screen.query_one(name, Static).render())


def test_each_table_is_a_key_away_and_rows_can_be_sorted_filtered_and_opened(
    nats_server: NatsServer,
) -> None:
    async def look(system: System, app: TopApp, pilot: Pilot[None]) -> None:
        assert sorted(cells[1] for cells in shown(app)) == ["one", "quoter", "two"]
        assert "instances 3  resources 2" in text_of(app, "#head")
        # Sorting, there and back.
        await pilot.press("s", "s", "s", "less_than_sign", "less_than_sign", "less_than_sign")
        assert "msg/s v" in titles(app)
        await pilot.press("r")
        assert "msg/s ^" in titles(app)
        # Resources, and one of them.
        await pilot.press("3")
        names = [cells[0] for cells in shown(app)]
        assert names == ["vault/V-1", "vault/V-2"]
        await pilot.press("down", "enter")
        opened = text_of(app, "#text")
        assert "resource   V-2" in opened
        assert "active     one  healthy" in opened
        assert "standby    two  healthy" in opened
        await pilot.press("escape")
        # Only some rows; while it is typed, keys are letters.
        await pilot.press("slash", "v", "minus", "1", "enter")
        assert [cells[0] for cells in shown(app)] == ["vault/V-1"]
        await pilot.press("escape")
        assert len(shown(app)) == 2
        await pilot.press("2")
        await wait_until(
            lambda: sorted(c[2] for c in shown(app)) == ["could lead", "could lead", "leader"],
            what="all nodes answer",
            timeout=30,
        )
        await pilot.press("question_mark")
        assert "hold the picture" in text_of(app, "#text")
        await pilot.press("escape", "q")
        assert not app.is_running

    view(nats_server, look)


def test_what_changes_is_drawn_and_the_cursor_stays_with_its_row(nats_server: NatsServer) -> None:
    async def look(system: System, app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("s", "s", "s", "s")  # by instance, at last
        while "instance ^" not in titles(app):
            await pilot.press("s")
        await pilot.press("down", "down")
        assert shown(app)[2][1] == "two"
        await system.start_node(Quoter, instance_id="another")
        await wait_until(lambda: len(shown(app)) == 4, what="it is drawn", timeout=30)
        table: DataTable[Text] = app.query_one("#table", DataTable)  # pyright: ignore
        assert shown(app)[table.cursor_row][1] == "two"

    view(nats_server, look)


def test_a_failover_is_shown_and_a_held_picture_does_not_change(nats_server: NatsServer) -> None:
    async def look(system: System, app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("4")
        assert shown(app) == []
        await pilot.press("p")
        await system.stop_node(system.nodes[0])
        await wait_until(
            lambda: [one.total_ms for one in app.sampler.state.failovers()] not in ([], [None]),
            what="the failover is over",
            timeout=30,
        )
        await pilot.pause()
        assert shown(app) == []
        assert "PAUSED" in text_of(app, "#head")
        await pilot.press("p")
        ((_, what, old, new, _, _),) = shown(app)
        assert (what.startswith("vault/V-"), old, new) == (True, "one", "two")

    view(nats_server, look)


def test_where_nobody_answers_the_last_picture_stays_and_the_reason_is_told(
    nats_server: NatsServer,
) -> None:
    async def look(system: System, app: TopApp, pilot: Pilot[None]) -> None:
        for node in list(system.nodes):
            await system.kill_node(node)
        # The one that was under way may have been given up on.
        await wait_until(
            lambda: "no node answers" in text_of(app, "#head"), what="a look fails", timeout=30
        )
        await pilot.pause()
        assert len(shown(app)) == 3

    view(nats_server, look)


# -- the command -----------------------------------------------------------------------------


def test_all_that_is_printed_can_be_read_by_programs() -> None:
    state = TopState("aegis")
    state.looked(services("one"), [node()])
    state.heard_event(promoted("A"), at=1.0)
    told = _top.document(state, more_resources=False)
    assert (told["totals"]["nodes"], told["totals"]["leader"]) == (1, "h:7")
    assert [one["instance_id"] for one in told["instances"]] == ["one"]
    assert told["failovers"][0]["total_ms"] is None
    assert "nodes 1" in headline(state.totals())


@pytest.mark.usefixtures("logging_restored")
def test_without_the_extra_the_live_view_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "textual.app", None)
    monkeypatch.delitem(sys.modules, "aegis.ops._top_app", raising=False)
    monkeypatch.setattr(_top, "is_terminal", lambda: True)
    result = CliRunner().invoke(cli.app, ["top"])
    assert result.exit_code == 2
    assert "install aegis-actors[top], or give --once" in result.stderr
