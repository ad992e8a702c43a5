"""Which faults a seed has, how often and how long: drawn once, at its start."""

from __future__ import annotations

import random
from typing import Final

from attrs import evolve, frozen

__all__ = [
    "Plan",
    "draw_plan",
    "with_frozen_leaders",
    "with_lone_owners",
    "with_mail",
    "with_splits",
]

MAX_DRIFT: Final = 0.005
"""How much too fast or slow a clock may run. A lease of 2 s has a margin of 50 ms, and a
new leader's wait of 3 s too, so two clocks may differ by 1.6 %."""


@frozen
class Plan:
    """The mix of faults of one seed. Rates are occurrences a second."""

    nodes: int
    resources: int
    callers: int
    hot: float
    """The share of the calls that go to one resource."""
    first_active: bool
    """Whether resources are first registered as active, else all begin as standbys."""
    supervisor_only: bool
    no_supervisor: bool
    """Whether one of the nodes carries no supervisor."""
    system_account: bool
    halved: bool
    """Whether all intervals of beats and leases are half of the defaults."""
    small_snapshots: bool
    seconds: float
    """How long the faults last."""
    load: float
    """Mean seconds between the end of one call of a caller and its next."""
    slow_handler: float
    slow_seconds: float
    # What happens to messages: probabilities for each.
    loss: float
    late: float
    late_seconds: float
    copies: float
    request_copies: float
    append_loss: float
    acknowledgement_loss: float
    # What happens to hosts and connections.
    kill_rate: float
    freeze_rate: float
    freeze_seconds: float
    cut_rate: float
    cut_seconds: float
    pair_cut_rate: float
    split_rate: float
    """Of the whole system into two halves that both reach the stream, and of what an
    operator, the system account and the leader then get wrong."""
    split_seconds: float
    reconnect_rate: float
    restart_rate: float
    """Of the server."""
    outage_rate: float
    outage_seconds: float
    again: float
    """Share of appends that are told to try again."""
    drain_rate: float
    evict_rate: float
    force_rate: float
    caller_kill_rate: float
    caller_freeze_rate: float
    clock_jump_rate: float
    event_loss: float
    false_event_rate: float
    drift: float
    skew_seconds: float
    lone_owner_rate: float
    """Of answers to an owner's beats that come late, right before only a caller that reads
    hears of it any more."""
    mail: bool
    """Whether callers send, too, and bounds of mailboxes are small."""
    feed_breaks: float
    """Share of the messages of mailboxes at which a read of them ends with an error."""


def draw_plan(seed: int) -> Plan:
    """Draw a mix: each fault is absent in many seeds, so that it cannot hide others."""
    rng = random.Random(f"plan {seed}")

    def some(limit: float, *, share: float = 0.5) -> float:
        return rng.random() ** 2 * limit if rng.random() < share else 0.0

    # Dice of their own: all else is as without mail.
    mail = random.Random(f"mail {seed}")
    has_mail = mail.random() < 0.1
    halved = rng.random() < 0.6
    scale = 0.5 if halved else 1.0
    nodes = rng.choice([2, 2, 3, 3, 4])
    return Plan(
        nodes=nodes,
        resources=rng.choice([2, 2, 3, 4, 5]),
        callers=rng.choice([1, 2, 2, 3]),
        hot=rng.choice([0.0, 0.5, 0.8]),
        first_active=rng.random() < 0.7,
        supervisor_only=nodes > 2 and rng.random() < 0.3,
        no_supervisor=rng.random() < 0.3,
        system_account=rng.random() < 0.7,
        halved=halved,
        small_snapshots=rng.random() < 0.4,
        seconds=rng.uniform(3.0, 6.0) * (1.0 if halved else 1.6),
        load=rng.choice([0.05, 0.1, 0.3]),
        slow_handler=some(0.3),
        slow_seconds=rng.choice([0.005, 0.05, 0.7]),
        loss=some(0.1, share=0.4),
        late=some(0.2, share=0.4),
        late_seconds=rng.choice([0.01, 0.3, 2.5]),
        copies=some(0.2, share=0.3),
        request_copies=some(0.2, share=0.15),
        append_loss=some(0.05, share=0.25),
        acknowledgement_loss=some(0.05, share=0.3),
        kill_rate=some(0.7, share=0.7),
        freeze_rate=some(0.8, share=0.6),
        freeze_seconds=rng.choice([0.3, 1.2, 2.5, 4.0]) * scale,
        cut_rate=some(0.6),
        cut_seconds=rng.choice([0.4, 2.0, 4.0]) * scale,
        pair_cut_rate=some(0.8, share=0.4),
        split_rate=some(1.5, share=0.4),
        split_seconds=rng.choice([1.5, 2.5, 4.0]) * scale,
        reconnect_rate=some(0.6, share=0.4),
        restart_rate=some(0.3, share=0.3),
        outage_rate=some(0.4, share=0.3),
        outage_seconds=rng.choice([0.1, 0.8, 2.0]),
        again=some(0.15, share=0.3),
        drain_rate=some(0.3, share=0.4),
        evict_rate=some(0.3, share=0.3),
        force_rate=some(0.5, share=0.4),
        caller_kill_rate=some(0.3, share=0.4),
        caller_freeze_rate=some(0.4, share=0.3),
        clock_jump_rate=some(0.5, share=0.3),
        event_loss=some(0.8, share=0.3),
        false_event_rate=some(1.0, share=0.4),
        drift=MAX_DRIFT if rng.random() < 0.4 else 0.0,
        skew_seconds=rng.choice([0.0, 0.0, 2.0, 300.0]),
        lone_owner_rate=some(4.0, share=0.3),
        mail=has_mail,
        feed_breaks=mail.choice([0.0, 0.02, 0.1]) if has_mail else 0.0,
    )


def with_mail(plan: Plan) -> Plan:
    """Return a mix in which callers send."""
    return evolve(plan, mail=True, feed_breaks=0.1)


def with_splits(plan: Plan) -> Plan:
    """Return a mix in which the system is split, with callers on both sides, and hears of it."""
    return evolve(
        plan,
        callers=max(2, plan.callers),
        system_account=True,
        event_loss=0.0,
        split_rate=1.0,
        split_seconds=max(plan.split_seconds, 2.5 * (0.5 if plan.halved else 1.0)),
    )


def with_lone_owners(plan: Plan) -> Plan:
    """Return a mix in which owners are left alone with who only reads, and little else happens."""
    return evolve(
        plan,
        callers=max(2, plan.callers),
        lone_owner_rate=1.5,
        split_rate=0.0,
        cut_rate=0.0,
        pair_cut_rate=0.0,
        kill_rate=0.0,
        freeze_rate=0.0,
        caller_kill_rate=0.0,
        outage_rate=0.0,
    )


def with_frozen_leaders(plan: Plan) -> Plan:
    """Return a mix in which the only leader there can be is frozen, and little else happens."""
    return evolve(
        plan,
        nodes=2,
        no_supervisor=True,
        supervisor_only=False,
        freeze_rate=1.0,
        freeze_seconds=4.0 * (0.5 if plan.halved else 1.0),
        kill_rate=0.0,
        again=0.0,
        outage_rate=0.0,
        late=0.0,
        cut_rate=0.0,
        append_loss=0.0,
    )
