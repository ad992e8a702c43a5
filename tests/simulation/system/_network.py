"""The network and the server of the simulated system, and what goes wrong with them.

What is modelled, and what is left out because NATS or TCP rule it out:

- A core message may be lost, late, overtaken and copied, and so may its answer. The copy
  of a *request* is an exception: NATS makes none, and a refusal of the copy would be no
  proof that the first did not run. Seeds with such copies do not judge refusals.
- An append may be lost or late, and so may its acknowledgement. Only appends to journals
  are copied: their conditions must stand that. The registry leans on there being no copies
  of a leader's write, since it waits for each and there is one connection.
- Between two ends messages keep their order unless one is late, as over one connection.
- A cut keeps a host from the server, in both directions or in one, or two hosts from one
  another. What is sent meanwhile is lost, or arrives when the cut ends, if the connection
  has survived: TCP repeats. Both ends notice a cut only by their pings, or never; a lease
  is over before the server does (`STALE_SECONDS`), which is a condition on its settings.
- The server closes a connection with one of the reasons that mean that its other side is
  closed only if that is so: the process was killed, or the client closed the socket, and
  then it has been told that it is disconnected. Events may be lost, and may be false.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from attrs import define, field

from aegis.actors._obituary import connection_name
from aegis.errors import Unavailable
from aegis.transport import (
    Append,
    AppendOutcome,
    Hop,
    Host,
    MemoryBroker,
    MemoryTransport,
    Refused,
    Stored,
    Unknown,
)
from tests.simulation.system._plan import Plan
from tests.simulation.system._world import World
from tests.support.virtual import pass_time

__all__ = ["Cut", "Network"]

STALE_SECONDS: Final = (2.05, 3.3)
"""When the server gives up a connection that is silent: two pings of 1 s."""

NOTICE_SECONDS: Final = (0.5, 3.3)
"""When a client does."""

LATE_ANSWER_SECONDS: Final = (0.5, 1.9)
"""How late answers to beats are while they are: a lease lasts 1 or 2 s."""

MAIL_SECONDS: Final = 0.005
"""So long, at most, a message of a mailbox takes in a read of many."""

_BROKER: Final = "broker"


@define(eq=False)
class Cut:
    """A host that is cut off, from the server or from one other host."""

    machine: str
    other: str = ""
    outward: bool = True
    inward: bool = True
    ends: float = 0.0
    stalls: bool = False
    """Whether what is sent meanwhile arrives at the end, and is not lost."""

    def stops(self, source: str, destination: str, both_ways: bool) -> bool:
        """Whether it stops what goes there; ``both_ways`` if an answer belongs to it."""
        if self.other:
            return {source, destination} == {self.machine, self.other}
        if both_ways:
            return self.machine in (source, destination)
        return (self.outward and source == self.machine) or (
            self.inward and destination == self.machine
        )


@define(eq=False)
class _Line:
    """One connection of one life of a host."""

    host: Host
    machine: str
    transport: MemoryTransport
    node_id: str = ""
    """Of a node's own connection."""
    ended: bool = field(default=False)


class _Connection(MemoryTransport):
    """One whose reads of mailboxes take their time, and may end in their middle."""

    breaks: Callable[[], bool]
    takes: Callable[[], float]
    """How long a message of a mailbox is on its way behind the one before, in seconds."""

    def read(
        self, subject: str, *, start: int = 1, until: int | None = None
    ) -> AsyncIterator[Stored]:
        whole = super().read(subject, start=start, until=until)
        return self._fragile(subject, self._slow(subject, whole))

    def follow(self, subject: str, *, start: int = 1) -> AsyncIterator[Stored]:
        return self._fragile(subject, super().follow(subject, start=start))

    async def _slow(self, subject: str, whole: Any) -> AsyncIterator[Stored]:
        async with aclosing(whole) as stored_ones:
            async for stored in stored_ones:
                if ".mailbox." in subject:
                    await pass_time(self.takes())
                yield stored

    async def _fragile(self, subject: str, whole: Any) -> AsyncIterator[Stored]:
        async with aclosing(whole) as stored_ones:
            async for stored in stored_ones:
                if ".mailbox." in subject and self.breaks():
                    raise Unavailable("the read ended")
                yield stored


class Network:
    """Decides on every hop, and cuts and restores connections."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.broker = MemoryBroker(fate=self._fate)
        self.broker.store_fate = self._store_fate
        self.cuts: list[Cut] = []
        self.late_answers_to = ""
        """The machine to which the answers to its beats come late."""
        self._lines: dict[str, _Line] = {}
        self._arrivals: dict[tuple[str, str, str], float] = {}
        self._server = MemoryTransport(self.broker, name="server")
        self._copied = bool(plan.copies or plan.request_copies)
        self._down = False
        self._outage = ""

    # -- connections --------------------------------------------------------------------

    def connect(self, host: Host, machine: str, *, name: str, node_id: str = "") -> MemoryTransport:
        """Return a new connection of a host."""
        make = _Connection if self.plan.mail else MemoryTransport
        transport = host.context.copy().run(partial(make, self.broker, name=name))
        if isinstance(transport, _Connection):
            transport.breaks = self._feed_breaks
            transport.takes = lambda: self.world.rng.random() * MAIL_SECONDS
        self._lines[name] = _Line(host, machine, transport, node_id)
        return transport

    def _feed_breaks(self) -> bool:
        if not self.world.chance(self.plan.feed_breaks):
            return False
        self.world.count("feed: broken")
        return True

    @property
    def up(self) -> bool:
        """Whether the server runs, so that a new connection can be made."""
        return not self._down

    def is_cut(self, machine: str) -> bool:
        """Whether a host is cut off from the server at this moment."""
        return any(cut.machine == machine and not cut.other for cut in self.cuts)

    def killed(self, host: Host) -> None:
        """A process has ended at this instant: its sockets are closed, by its kernel."""
        for line in self._of_host(host):
            line.ended = True
            if self.is_cut(line.machine) or self._down:
                # The server does not hear of that; it waits for the pings.
                delay = self._draw(STALE_SECONDS)
                self.world.later(delay, self._detach, line, "Stale Connection")
            else:
                self.world.later(0.001, self._detach, line, "Client Closed")

    def left(self, host: Host) -> None:
        """A process has ended in good order, its connections closed."""
        for line in self._of_host(host):
            line.ended = True
            self._detach(line, "Client Closed")

    def _of_host(self, host: Host) -> list[_Line]:
        return [line for line in self._lines.values() if line.host is host and not line.ended]

    def _of_machine(self, machine: str) -> list[_Line]:
        return [line for line in self._lines.values() if line.machine == machine and not line.ended]

    def _detach(self, line: _Line, reason: str) -> None:
        """The server gives a connection up and tells the system account."""
        line.transport.detach()
        if line.ended:
            self._lines.pop(line.transport.name, None)
        if line.node_id:
            self.tell_disconnected(line.node_id, reason)

    def tell_disconnected(self, node_id: str, reason: str) -> None:
        """Tell the system account of a connection that has ended, or say so falsely."""
        if self._down or self.world.over:
            return
        if self.world.chance(self.plan.event_loss):
            self.world.count("disconnect event lost")
            return
        self.world.note("disconnected: %s (%s)", node_id, reason, host="server")
        event = {"client": {"name": connection_name(node_id)}, "reason": reason}
        self._server.publish("$SYS.ACCOUNT.APP.DISCONNECT", json.dumps(event).encode())

    def reconnect(self, machine: str, *, seconds: float) -> None:
        """A host's clients close their connections and find the server again."""
        for line in self._of_machine(machine):
            line.host.call_soon(self._close, line, seconds)

    def _close(self, line: _Line, seconds: float) -> None:
        """The client closes its side, and looks for the server ``seconds`` later.

        It runs on the host: a frozen one does it, and knows of it, when it goes on.
        """
        if line.ended or not line.transport.connected:
            return
        self._return_later(line, seconds)
        was_attached = line.transport.attached
        line.transport.disconnect()
        if line.node_id and was_attached and not self.is_cut(line.machine):
            delay = self.world.rng.choice([0.001, 0.003, 0.3])
            self.world.later(delay, self.tell_disconnected, line.node_id, "Client Closed")

    def _return_later(self, line: _Line, delay: float) -> None:
        self.world.later(delay, self._return, line)

    def _return(self, line: _Line) -> None:
        """Let a client that has lost its connection find the server, if it can."""
        if line.ended or line.transport.connected:
            return
        if self._down or self.is_cut(line.machine):
            self._return_later(line, 0.1)
            return
        line.host.call_soon(self._reconnect, line)

    def _reconnect(self, line: _Line) -> None:
        # Only now, as the host runs: meanwhile the server may have gone again.
        if line.ended or line.transport.connected:
            return
        if self._down or self.is_cut(line.machine):
            self._return_later(line, 0.1)
            return
        self.world.note("reconnects %s", line.transport.name)
        line.transport.reconnect()

    # -- cuts ---------------------------------------------------------------------------

    def cut(self, cut: Cut, seconds: float) -> None:
        """Cut a host off for a while."""
        world = self.world
        cut.ends = world.loop.now + seconds
        self.cuts.append(cut)
        direction = "" if cut.outward and cut.inward else " outward" if cut.outward else " inward"
        world.note(
            "cut off%s%s for %.2f s%s",
            direction,
            f" from {cut.other}" if cut.other else "",
            seconds,
            ", stalling" if cut.stalls else "",
            host=cut.machine,
        )
        if not cut.other:
            for line in self._of_machine(cut.machine):
                stale, notice = self._draw(STALE_SECONDS), self._draw(NOTICE_SECONDS)
                if stale < seconds:
                    cut.stalls = False
                    world.later(stale, self._grow_stale, cut, line, line.transport.connection)
                if notice < seconds and world.rng.random() < 0.8:
                    cut.stalls = False
                    world.later(notice, self._notice, cut, line, line.transport.connection)
        world.later(seconds, self.mend, cut)

    def mend(self, cut: Cut) -> None:
        """End a cut; whoever lost its connection finds the server again."""
        if cut not in self.cuts:
            return
        self.cuts.remove(cut)
        self.world.note("cut mended", host=cut.machine)
        for line in self._of_machine(cut.machine):
            if not line.transport.attached and line.transport.connected:
                # What it sends now is answered by a reset.
                line.host.call_soon(self._close, line, 0.01)

    def _grow_stale(self, cut: Cut, line: _Line, connection: int) -> None:
        if cut in self.cuts and line.transport.connection == connection and not line.ended:
            self._detach(line, "Stale Connection")

    def _notice(self, cut: Cut, line: _Line, connection: int) -> None:
        if cut in self.cuts and line.transport.connection == connection and not line.ended:
            line.host.call_soon(self._close, line, 0.05)

    def frozen(self, host: Host, seconds: float) -> None:
        """A host does not answer pings: the server may give its connections up."""
        for line in self._of_host(host):
            stale = self._draw(STALE_SECONDS)
            if stale < seconds:
                self.world.later(stale, self._frozen_too_long, line)

    def _frozen_too_long(self, line: _Line) -> None:
        if line.host.frozen and not line.ended and line.transport.attached:
            self._detach(line, "Stale Connection")
            line.host.call_soon(self._close, line, 0.01)

    # -- the server ---------------------------------------------------------------------

    def restart(self, seconds: float) -> None:
        """The server dies and comes back; all that was stored is there again."""
        if self._down:
            return
        self.world.note("dies for %.2f s", seconds, host="server")
        self._down = True
        for line in list(self._lines.values()):
            line.transport.detach()
            line.host.call_soon(self._close, line, seconds + self.world.rng.uniform(0.0, 0.1))
        self.world.later(seconds, self._come_back)

    def _come_back(self) -> None:
        self._down = False
        self.world.note("is back", host="server")
        if self.world.chance(0.5):
            # Another server of a cluster would have told so of all that know it.
            for line in list(self._lines.values()):
                if line.node_id and not line.transport.connected:
                    self.tell_disconnected(line.node_id, "Client Closed")

    def outage(self, seconds: float, kind: str) -> None:
        """The store does not take appends: ``refuse`` them, or be ``silent``."""
        if self._outage:
            return
        self.world.note("store: %s for %.2f s", kind, seconds, host="server")
        self._outage = kind
        self.world.later(seconds, self.end_outage)

    def end_outage(self) -> None:
        """The store works again."""
        self._outage = ""

    def heal(self) -> None:
        """End all cuts and outages."""
        for cut in list(self.cuts):
            self.mend(cut)
        self.end_outage()

    def end(self) -> None:
        """Nothing arrives anywhere any more."""

        def lost(_: Hop) -> Sequence[float]:
            return ()

        self.broker.fate = lost
        for line in self._lines.values():
            line.transport.detach()

    def _store_fate(self, append: Append) -> AppendOutcome | None:
        if self._down or self._outage == "silent":
            return Unknown("nobody is there")
        if self._outage == "refuse":
            return Refused(conflict=False, again=True, code=503, reason="no leader")
        if self.world.chance(self.plan.again):
            self.world.count("append: again")
            return Refused(again=True, code=10164, reason="another one is under way")
        return None

    # -- hops ---------------------------------------------------------------------------

    def _fate(self, hop: Hop) -> Sequence[float]:
        world, plan, rng = self.world, self.plan, self.world.rng
        kind = hop.kind
        delay = 0.0002 + rng.random() * 0.0008
        if world.detailed:
            world.mix(f"{world.loop.now:.6f} {kind} {hop.source} {hop.destination} {hop.subject}")
        if self.cuts:
            source, destination = self._machine(hop.source), self._machine(hop.destination)
            both_ways = kind == "control" or (kind == "message" and hop.source == _BROKER)
            for cut in self.cuts:
                if cut.stops(source, destination, both_ways):
                    if not cut.stalls:
                        world.count(f"{kind}: stopped by a cut")
                        return ()
                    delay += max(0.0, cut.ends - world.loop.now)
        if kind == "read" and self._outage:
            return ()
        copies = 1
        if world.faulty and kind != "control":
            if (loss := self._loss(kind)) and world.chance(loss):
                world.count(f"{kind}: lost")
                return ()
            if self.late_answers_to and self._is_late_answer(hop):
                world.count("answer to a beat: late")
                return (delay + self._draw(LATE_ANSWER_SECONDS),)
            if plan.late and world.chance(plan.late):
                world.count(f"{kind}: late")
                return (delay + rng.random() * plan.late_seconds,)
            if self._copied and self._may_be_copied(hop) and world.chance(self._copies(hop)):
                world.count(f"{kind}: copied")
                copies = 2
        # What is not late keeps its place among what goes the same way.
        way = (kind, hop.source, hop.destination)
        at = max(world.loop.now + delay, self._arrivals.get(way, 0.0))
        self._arrivals[way] = at
        delay = at - world.loop.now
        if copies == 1:
            return (delay,)
        return (delay, delay + rng.choice([0.0, 0.001, plan.late_seconds]))

    def _loss(self, kind: str) -> float:
        if kind == "append":
            return self.plan.append_loss
        return self.plan.acknowledgement_loss if kind == "acknowledgement" else self.plan.loss

    def _copies(self, hop: Hop) -> float:
        return self.plan.request_copies if self.is_request(hop) else self.plan.copies

    def _may_be_copied(self, hop: Hop) -> bool:
        match hop.kind:
            case "message" | "acknowledgement":
                return True
            case "append":
                return hop.subject.startswith(f"{self.world.subjects.namespace}.journal.")
            case _:
                return False

    def _is_late_answer(self, hop: Hop) -> bool:
        return (
            hop.kind == "message"
            and ".beat." in hop.subject
            and self._machine(hop.destination) == self.late_answers_to
        )

    def is_request(self, hop: Hop) -> bool:
        """Whether a message is a call on its way to an instance."""
        return hop.subject.startswith(f"{self.world.subjects.namespace}.instance.")

    def _machine(self, name: str) -> str:
        line = self._lines.get(name)
        return name if line is None else line.machine

    def _draw(self, bounds: tuple[float, float]) -> float:
        return self.world.rng.uniform(*bounds)
