"""Leader election (sans-I/O): one leader at a time, by compare-and-set on one record.

Whoever writes ``registry.leader`` last leads. It may be written only with the sequence
of the record before as its condition, and every other write of a leader carries the
condition that its own record still stands, so a deposed leader can change nothing.
The leader renews a lease on another subject; whoever sees neither a new leader nor a
renewal for `leader_timeout` tries to take over.

A leader whose write had no answer rewrites its own record before it does anything else:
the write that may still be on its way then fails. And a leader, new or rewritten, acts
only when it has read the registry up to its own record.

Leaders of before may go on answering beats for a while: these are its *rivals*. An
earlier leader does so only within `leader_timeout` of sending its last acknowledged
renewal, and that was written before the next leader's record. So a leader's rivals are
the one before it and, of that one's own rivals, those whose time was not over yet; and
`leader_timeout` after its takeover, with a margin for clocks that run unequally, it has
none. The leader's record and its renewals say who they are at that moment: whoever
takes over next knows them from what is written, however young it is itself.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from attrs import Factory, define, field, frozen

__all__ = ["Claim", "Election", "ElectionOptions", "Renew", "Standing"]

DEFAULT_LEADER_TIMEOUT: Final = 1.0


def _quarter_of_leader_timeout(options: ElectionOptions) -> float:
    return options.leader_timeout / 4


@frozen
class ElectionOptions:
    """Seconds of the election; ``renew_interval`` defaults to a quarter of the timeout.

    ``jitter`` is this candidate's own delay before it takes over, so that not all of
    them try at once.
    """

    leader_timeout: float = DEFAULT_LEADER_TIMEOUT
    renew_interval: float = field(default=Factory(_quarter_of_leader_timeout, takes_self=True))
    retry_interval: float = 0.1
    jitter: float = 0.0
    clock_margin: float = 0.05
    """By how much, in parts of a time, another host's clock may run slower."""


class Standing(Enum):
    """What this candidate is at the moment."""

    FOLLOWING = "following"
    CLAIMING = "claiming"
    """Its claim is under way, or its outcome is unknown."""
    CATCHING_UP = "catching up"
    """Its record stands, and it reads the registry up to it."""
    LEADING = "leading"


@frozen
class Claim:
    """Write the leader's record, if the one at sequence ``expect`` still stands."""

    expect: int
    record: dict[str, Any]


@frozen
class Renew:
    """Write the renewal, on the condition that the leader's record is still mine."""


@define
class Election:
    """One candidate's view of who leads. Times are boot-clock seconds.

    Inputs are ``saw_*`` (records as the stream delivers them, in order), the outcomes
    of what `due` asked for, and the clock.
    """

    node_id: str
    options: ElectionOptions = field(factory=ElectionOptions)
    standing: Standing = Standing.FOLLOWING
    leader: str = ""
    term: int = 0
    sequence: int = 0
    """Of the leader's record that was seen last, or of this candidate's own."""
    led_since: float = 0.0
    """When this candidate took over; a rewrite of its own record does not change it."""
    _rivals: frozenset[str] | None = None
    """Those of the leader on record; None if nobody knows them."""
    _resigned: bool = False
    _silent_since: float = 0.0
    _replayed_to: int = 0
    _replayed: bool = False
    _renewed: float | None = None
    _connected_since: float = float("-inf")
    _renewal_due: float = 0.0
    _claim_due: float = 0.0
    _continuing: bool = False
    _ticked: float | None = None

    # -- what the stream says -----------------------------------------------------------

    def replayed(self, now: float, *, sequence: int) -> None:
        """All that stood in the registry at the start was seen: claims may begin."""
        self._replayed = True
        self._silent_since = now
        self.saw(sequence, now)

    def saw(self, sequence: int, now: float) -> None:
        """The registry is read up to ``sequence``."""
        self._replayed_to = max(self._replayed_to, sequence)
        if self.standing is Standing.CATCHING_UP and self._replayed_to >= self.sequence:
            self.standing = Standing.LEADING
            self._renewal_due = now

    def saw_leader(self, sequence: int, record: dict[str, Any], now: float) -> None:
        """A leader's record was delivered."""
        if sequence <= self.sequence:
            return
        leader = str(record.get("node", ""))
        if leader == self.node_id and self._replayed:
            # A claim whose answer was lost, or is behind this delivery.
            self._won(sequence, record, now)
            return
        self.leader = leader
        self._rivals = _rivals_of(record)
        self._resigned = False
        self.term = int(record.get("term", 0))
        self.sequence = sequence
        self._silent_since = now
        self._fall()

    def saw_renewal(self, record: dict[str, Any], now: float) -> None:
        """A renewal was delivered; one that ``resigned`` invites the others at once."""
        if record.get("node") != self.leader or record.get("term") != self.term:
            return
        self._silent_since = now
        if self.standing is Standing.FOLLOWING:
            self._rivals = _rivals_of(record)
        if record.get("resigned"):
            self._resigned = True
            self.suspect(now)

    def suspect(self, now: float) -> None:
        """The leader is believed to be gone: do not wait for its silence.

        Being wrong costs a change of leader and nothing else.
        """
        if self.standing is Standing.FOLLOWING:
            self._silent_since = min(self._silent_since, now - self.options.leader_timeout)

    def silence(self, now: float) -> float:
        """Return for how many seconds the leader has not been seen."""
        return now - self._silent_since

    def blind(self, now: float) -> None:
        """This candidate could not see the leader until now: its silence starts anew."""
        self._silent_since = max(self._silent_since, now)

    def disconnected(self, now: float) -> None:
        """The connection is lost: answer no beats before another renewal is durable.

        Others may take that for this leader's death.
        """
        self._renewed = None
        self._connected_since = now
        if self.standing is Standing.LEADING:
            self._renewal_due = now

    # -- what to do ---------------------------------------------------------------------

    def due(self, now: float) -> Claim | Renew | None:
        """Return what to write now, if anything; to be called at least every tick.

        After a gap between calls it was this candidate that paused, not the leader.
        """
        if self._ticked is not None and now - self._ticked > self.options.leader_timeout / 2:
            self.blind(now)
        self._ticked = now
        match self.standing:
            case Standing.FOLLOWING:
                if self._replayed and now >= self.next_due() and now >= self._claim_due:
                    return self._claim(now)
            case Standing.CLAIMING:
                if now >= self._claim_due:
                    return self._claim(now)
            case Standing.LEADING:
                if now >= self._renewal_due:
                    self._renewal_due = now + self.options.renew_interval
                    return Renew()
            case Standing.CATCHING_UP:
                pass
        return None

    def renew_soon(self, now: float) -> None:
        """The renewal has something to tell: do not wait for its time."""
        if self.standing is Standing.LEADING:
            self._renewal_due = min(self._renewal_due, now)

    def next_due(self) -> float:
        """Return when `due` may have something, if nothing happens before."""
        match self.standing:
            case Standing.FOLLOWING:
                if self.sequence == 0:
                    return max(self._claim_due, self._silent_since)
                silence = self._silent_since + self.options.leader_timeout + self.options.jitter
                return max(self._claim_due, silence)
            case Standing.CLAIMING:
                return self._claim_due
            case _:
                return self._renewal_due

    def _claim(self, now: float) -> Claim:
        self.standing = Standing.CLAIMING
        self._claim_due = now + self.options.retry_interval
        rivals = self.rivals(now) if self._continuing else self._rivals_of_claim()
        record: dict[str, Any] = {"node": self.node_id, "term": self.term + 1}
        if rivals is not None:
            record["rivals"] = sorted(rivals)
        return Claim(self.sequence, record)

    def _rivals_of_claim(self) -> frozenset[str] | None:
        """Return the rivals of whoever takes over from the leader that is on record."""
        if self.sequence == 0:
            return frozenset()
        if self._rivals is None:
            return None
        # Who resigns has answered its last beat before.
        latest: frozenset[str] = frozenset() if self._resigned else frozenset({self.leader})
        return (self._rivals | latest) - {self.node_id}

    # -- outcomes -----------------------------------------------------------------------

    def claimed(self, claim: Claim, sequence: int, now: float) -> None:
        """The claim is durable at ``sequence``."""
        if sequence > self.sequence:
            self._won(sequence, claim.record, now)

    def claim_refused(self, now: float) -> None:
        """Another record stands there; it will be delivered and say whose it is.

        It may be the first copy of this claim, the one whose answer was lost.
        """
        if self.standing is Standing.CLAIMING:
            self._fall()
            self._claim_due = now + self.options.leader_timeout

    def claim_unknown(self, now: float) -> None:
        """No answer: the identical claim is tried again."""
        self._claim_due = now + self.options.retry_interval

    def _won(self, sequence: int, record: dict[str, Any], now: float) -> None:
        continuing = self._continuing or self.standing in (Standing.LEADING, Standing.CATCHING_UP)
        self.leader = self.node_id
        self.term = int(record.get("term", 0))
        self._rivals = self._rivals if continuing else _rivals_of(record)
        self._resigned = False
        self.sequence = sequence
        self._renewed = self._renewed if continuing else None
        self.led_since = self.led_since if continuing else now
        self._continuing = True
        self.standing = Standing.CATCHING_UP
        self.saw(0, now)

    def renewed(self, sent_at: float) -> None:
        """The renewal that was sent at ``sent_at`` is durable."""
        if self.standing is Standing.LEADING and sent_at >= self._connected_since:
            self._renewed = sent_at

    def write_unknown(self, now: float) -> None:
        """A conditional write had no answer: rewrite the own record before all else."""
        if self.standing is Standing.LEADING:
            self.standing = Standing.CLAIMING
            self._claim_due = now

    def deposed(self, now: float) -> None:
        """A conditional write was refused: another leads, and will be seen."""
        if self.standing is Standing.LEADING:
            self._fall()
            self._silent_since = now

    def _fall(self) -> None:
        self.standing = Standing.FOLLOWING
        self._continuing = False
        self._renewed = None

    # -- what it may do -----------------------------------------------------------------

    @property
    def rivals_until(self) -> float:
        """Until when earlier leaders may still answer beats, while this one reigns."""
        return self.led_since + self.options.leader_timeout * (1 + self.options.clock_margin)

    def rivals(self, now: float) -> frozenset[str] | None:
        """Return which earlier leaders may still answer beats; None if nobody knows them.

        Only for a candidate that reigns.
        """
        return frozenset() if now >= self.rivals_until else self._rivals

    @property
    def leading(self) -> bool:
        """Whether this candidate leads and has read all that it must know."""
        return self.standing is Standing.LEADING

    @property
    def reigning(self) -> bool:
        """Whether nobody else can lead, though this candidate may have to rewrite."""
        return self._continuing

    def may_answer_beats(self, now: float) -> bool:
        """Whether leases may be extended now.

        Only for `leader_timeout` from when the last acknowledged renewal was *sent*:
        a renewal that is acknowledged was written before any successor's record, so
        `leader_timeout` after a takeover the predecessor answers no more.
        """
        return (
            self.standing is Standing.LEADING
            and self._renewed is not None
            and now < self._renewed + self.options.leader_timeout
        )


def _rivals_of(record: dict[str, Any]) -> frozenset[str] | None:
    rivals = record.get("rivals")
    return None if rivals is None else frozenset(map(str, rivals))
