"""``aegis demo``: an exchange of real processes, a kill, and the books checked afterwards.

It starts a server of its own in a temporary folder and six nodes: accounts and order
books with a standby each, and two for prices. Some dozens of traders send orders, and in
the middle an active node (and later another) is killed with SIGKILL. Its standby takes
over; it is started again and stands by. Then an independent ledger is asked whether every
command took effect exactly once. Whatever happens, nothing is left: no process, no file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import structlog
from attrs import define, field, frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aegis._cluster import connect
from aegis._inspect import Inspector
from aegis.contracts import Role
from aegis.errors import AegisError
from aegis.ops._arguments import LineParser
from aegis.ops._demo_failover import Outage, addresses_of, wait_serving
from aegis.ops._demo_nodes import Node, account_names, make_nodes
from aegis.ops._demo_orders import Intent, generate_orders
from aegis.ops._demo_report import Report, latency_of, print_report
from aegis.ops._demo_traders import Exchange, Fault, Trader, read_accounts, read_books
from aegis.ops._ledger import Ledger
from aegis.ops._node_processes import stop_all, wait_standing_by
from aegis.transport._server import ServerOptions, ensure_server

__all__ = ["DEFAULT_ORDERS", "DEFAULT_SEED", "KillPlan", "main", "run_demo"]

DEFAULT_ORDERS: Final = 1_500
DEFAULT_SEED: Final = 1

MAX_ORDERS: Final = 1_000_000
TRADERS: Final = 64

START_TIMEOUT: Final = 90.0
"""Seconds in which the nodes must serve."""

STALL_TIMEOUT: Final = 45.0
"""Seconds without any finished order after which the run is given up."""

_WATCH_INTERVAL: Final = 0.5

_INTERRUPTED: Final = 130
"""What shells expect of a program that Ctrl-C ended."""


@frozen
class KillPlan:
    """Which node dies when this part of the orders is done."""

    node: str
    share: float


DEFAULT_KILLS: Final = (KillPlan("order-books-1", 0.35), KillPlan("accounts-1", 0.7))


class _Failed(Exception):
    """The demo cannot go on; the message says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run ``aegis demo`` with these command-line arguments; return the exit code."""
    parser = LineParser(
        prog="aegis demo",
        description="Run a trading system, kill active nodes under load, and check the books.",
    )
    parser.add_argument(
        "--orders",
        type=int,
        default=DEFAULT_ORDERS,
        metavar="N",
        help=f"how many orders the traders send (default {DEFAULT_ORDERS})",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=DEFAULT_SEED,
        metavar="N",
        help=f"which orders: each seed has its own (default {DEFAULT_SEED})",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if not 1 <= options.orders <= MAX_ORDERS:
        parser.error(f"argument --orders: {options.orders} is not from 1 to {MAX_ORDERS}")
    return run_demo(orders=options.orders, seed=options.seed, json_output=options.json)


def run_demo(
    *,
    orders: int = DEFAULT_ORDERS,
    seed: int = DEFAULT_SEED,
    json_output: bool = False,
    traders: int = TRADERS,
    kills: Sequence[KillPlan] = DEFAULT_KILLS,
    fault: Fault | None = None,
    console: Console | None = None,
) -> int:
    """Run the demo; return the exit code: 0 if all is well, 1 if anything is not.

    ``fault`` plants a mistake that the check must find; it is there for tests.
    """
    out = console or Console()
    errors = Console(stderr=True)
    try:
        with _quiet_logs(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            demo = _Demo(orders, seed, account_names(traders), kills, fault, out, json_output)
            report = runner.run(demo.run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        errors.print("Interrupted; all that was started has been stopped.")
        return _INTERRUPTED
    except (_Failed, AegisError) as error:
        errors.print(f"The demo failed: {error}", markup=False, highlight=False)
        return 1
    if json_output:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_report(report, out)
    return 0 if report.ok else 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@define(eq=False)
class _Demo:
    """One run."""

    orders: int
    seed: int
    accounts: list[str]
    kills: Sequence[KillPlan]
    fault: Fault | None
    console: Console
    quiet: bool
    ledger: Ledger = field(factory=Ledger)
    finished: int = 0
    _changed: asyncio.Event = field(factory=asyncio.Event)
    _down: set[Node] = field(factory=set[Node])

    async def run(self) -> Report:
        begun = time.monotonic()
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        with self._progress() as progress:
            bar = progress.add_task("starting", total=self.orders)
            async with self._nodes() as nodes:
                async with connect(data_dir=nodes[0].folder / "server") as cluster:
                    exchange = Exchange(cluster, self.ledger)
                    inspector = Inspector(cluster.transport, cluster.subjects)
                    await self._start(nodes, exchange, inspector)
                    exchange.fault = self.fault
                    progress.update(bar, description="trading")
                    started = time.monotonic()
                    outages = await self._trade(
                        exchange,
                        inspector,
                        nodes,
                        lambda: progress.update(bar, completed=self.finished),
                    )
                    ended = time.monotonic()
                    progress.update(bar, description="checking the books")
                    books = await read_books(exchange)
                    states = await read_accounts(exchange, self.accounts)
                progress.update(bar, description="stopping")
        findings = await asyncio.to_thread(self.ledger.check, states, books)
        cash = sum((Decimal(state["cash"]) for state in states.values()), Decimal(0))
        fees = sum((Decimal(state["fees"]) for state in states.values()), Decimal(0))
        return Report(
            seed=self.seed,
            orders=self.orders,
            seconds=round(time.monotonic() - begun, 2),
            trading_seconds=round(ended - started, 2),
            nodes=[node.name for node in nodes],
            sent=exchange.sent,
            acknowledged=exchange.acknowledged,
            rejected=exchange.rejected,
            refused=exchange.refused,
            unanswered=exchange.unanswered,
            queries=exchange.queries,
            latency=latency_of([sample.seconds for sample in exchange.samples]),
            latency_undisturbed=latency_of(
                [
                    sample.seconds
                    for sample in exchange.samples
                    if not any(outage.overlaps(sample) for outage in outages)
                ]
            ),
            kills=[outage.report(exchange.samples) for outage in outages],
            trades=sum(book["trades"] for book in books.values()),
            open_orders=sum(len(book["open_orders"]) for book in books.values()),
            accounts=len(self.accounts),
            cash=f"{cash:,.2f}",
            fees=f"{fees:,.2f}",
            findings=findings,
        )

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        )

    # -- processes --------------------------------------------------------------------

    @asynccontextmanager
    async def _nodes(self) -> AsyncGenerator[list[Node]]:
        """Start the server and make nodes; end all of it, whatever happens."""
        folder = Path(tempfile.mkdtemp(prefix="aegis-demo-"))
        nodes: list[Node] = []
        try:
            nodes = make_nodes(folder, self.accounts)
            async with await ensure_server(ServerOptions(data_dir=folder / "server")) as server:
                watch = asyncio.create_task(server.watch())
                try:
                    yield nodes
                finally:
                    await stop_all(nodes)
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _start(self, nodes: list[Node], exchange: Exchange, inspector: Inspector) -> None:
        """Start all nodes, and return when each serves or stands by.

        The active ones come first: a standby of what nobody owns is promoted at once.
        """
        active = [node for node in nodes if node.role is Role.ACTIVE]
        standby = [node for node in nodes if node.role is Role.STANDBY]
        try:
            async with asyncio.timeout(START_TIMEOUT):
                for node in active:
                    await node.start()
                for node in active:
                    await self._while_running(node, wait_serving(node, exchange))
                for node in standby:
                    await node.start()
                for node in standby:
                    await self._while_running(node, _wait_standing_by(node, inspector))
        except TimeoutError:
            raise _Failed(
                f"the nodes were not ready within {START_TIMEOUT:.0f} s\n"
                + "\n".join(filter(None, (node.last_words() for node in nodes)))
            ) from None

    async def _while_running(self, node: Node, work: Coroutine[Any, Any, None]) -> None:
        """Wait for ``work`` as long as the node lives."""
        task = asyncio.create_task(work)
        end = asyncio.create_task(node.wait_ended())
        try:
            await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Failed(f"the node {node.name} ended by itself:\n{node.last_words()}")
            await task
        finally:
            for future in (task, end):
                future.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    # -- trading ----------------------------------------------------------------------

    async def _trade(
        self,
        exchange: Exchange,
        inspector: Inspector,
        nodes: list[Node],
        show: Callable[[], None],
    ) -> list[Outage]:
        def on_done() -> None:
            self.finished += 1
            self._changed.set()
            if self.finished % 10 == 0:
                show()

        rng = random.Random(self.seed + 1)
        wanted: dict[str, list[Intent]] = defaultdict(list)
        for intent in generate_orders(self.orders, self.seed, self.accounts):
            wanted[intent.account].append(intent)
        traders = [Trader(exchange, account, on_done) for account in self.accounts]
        await asyncio.gather(*(trader.fund(rng) for trader in traders))
        try:
            async with asyncio.TaskGroup() as group:
                watchdog = group.create_task(self._watch(nodes))
                killer = group.create_task(self._kill(exchange, inspector, nodes, group))
                work = [group.create_task(t.trade(wanted[t.account])) for t in traders]
                await asyncio.wait([killer, *work])
                watchdog.cancel()
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        return killer.result()

    async def _kill(
        self,
        exchange: Exchange,
        inspector: Inspector,
        nodes: list[Node],
        group: asyncio.TaskGroup,
    ) -> list[Outage]:
        """Kill nodes when their time has come, see how long it takes, start them again."""
        exchange.on_open = self._changed.set
        outages: list[Outage] = []
        by_name = {node.name: node for node in nodes}
        for plan in sorted(self.kills, key=lambda plan: plan.share):
            node = by_name[plan.node]
            outages.append(await self._fail_over(plan, node, exchange, nodes))
            group.create_task(self._return(node, inspector))
        return outages

    async def _fail_over(
        self, plan: KillPlan, node: Node, exchange: Exchange, nodes: list[Node]
    ) -> Outage:
        successor = next(other for other in nodes if node.is_partner(other))
        addresses = addresses_of(node)
        # At a moment when the node has work under way: that is what is at risk.
        while self.finished < plan.share * self.orders or (
            not exchange.open_at(addresses) and self.finished < self.orders
        ):
            self._changed.clear()
            await self._changed.wait()
        at_risk = exchange.open_at(addresses)
        outage = Outage(node, successor, self.finished, at_risk, node.pid)
        self._down.add(node)
        node.send_signal(signal.SIGKILL)
        await node.wait_ended()
        outage.died = time.monotonic()
        await self._while_running(successor, wait_serving(node, exchange))
        outage.end = time.monotonic()
        return outage

    async def _return(self, node: Node, inspector: Inspector) -> None:
        """Start a node again that was killed: it stands by for its successor."""
        node.role = Role.STANDBY
        await node.start()
        self._down.discard(node)
        await self._while_running(node, _wait_standing_by(node, inspector))

    async def _watch(self, nodes: list[Node]) -> None:
        """Fail the run if a node ends that nobody killed, or if nothing goes on any more."""
        finished, since = self.finished, time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            for node in nodes:
                if not node.is_running and node not in self._down:
                    raise _Failed(f"the node {node.name} ended by itself:\n{node.last_words()}")
            now = time.monotonic()
            if finished != self.finished:
                finished, since = self.finished, now
            elif now - since > STALL_TIMEOUT:
                words = "\n".join(filter(None, (node.last_words() for node in nodes)))
                raise _Failed(f"no order was finished for {STALL_TIMEOUT:.0f} s\n{words}")


async def _wait_standing_by(node: Node, inspector: Inspector) -> None:
    await wait_standing_by(
        inspector, node.service, len(node.resources), node.name, check=node.check_running
    )


@contextmanager
def _quiet_logs() -> Generator[None]:
    """Keep what client and server log off the screen: here a lost node is no news."""
    before = structlog.get_config()
    disabled = logging.root.manager.disable
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.disable(disabled)
