"""Which faults a seed has, and how small its limits are: drawn once, at its start."""

from __future__ import annotations

import random

from attrs import frozen

from aegis.actors._owner import OwnerLimits

__all__ = ["Faults", "Link", "draw_faults", "draw_limits"]


@frozen
class Link:
    """How bad one kind of connection is. Values are probabilities a message."""

    name: str
    loss: float
    duplicate: float
    slow: float
    slow_seconds: float


@frozen
class Faults:
    """The mix of faults of one seed. Rates are occurrences a second."""

    call: Link
    """Between callers and nodes."""
    request: Link
    """From nodes to the store. An append under way outlives its sender."""
    acknowledgement: Link
    """From the store to nodes."""
    group: Link
    """From callers to service groups; in a slow seed it delays for hours."""
    control: Link
    """From the supervisor to nodes."""
    crash_at_step: float
    crash_rate: float
    pause_rate: float
    pause_seconds: float
    promote_rate: float
    race: float
    actor_restart_rate: float
    outage_rate: float
    outage_seconds: float
    reconnect_rate: float
    again: float
    lagging_read: float
    let_go_rate: float
    """How often the topic lets go of its oldest messages."""
    stale_lookup: float
    slow_handler: float
    slow_handler_seconds: float
    skew_seconds: float
    stash: float
    """How often a handler puts its message aside."""
    seconds: float
    """How long the faults last."""
    load: float
    """Mean seconds between two calls of one caller."""


def draw_faults(rng: random.Random) -> Faults:
    """Draw a mix: each fault is absent in many seeds, so that it cannot hide others."""

    def some(limit: float, *, share: float = 0.5) -> float:
        return rng.random() ** 2 * limit if rng.random() < share else 0.0

    def link(name: str, *, slow_seconds: float, copies: float = 0.3) -> Link:
        return Link(
            name,
            loss=some(0.25),
            duplicate=some(0.3, share=copies),
            slow=some(0.3),
            slow_seconds=slow_seconds,
        )

    late = rng.choice([0.05, 0.5, 2.0])
    hours = rng.random() < 0.25
    return Faults(
        call=link("call", slow_seconds=rng.choice([0.02, 0.3, 3.0])),
        request=link("append", slow_seconds=late),
        acknowledgement=link("acknowledgement", slow_seconds=late, copies=0.1),
        group=Link(
            "group call",
            loss=some(0.25),
            duplicate=some(0.3, share=0.5),
            slow=0.15 if hours else some(0.2),
            slow_seconds=7200.0 if hours else 2.0,
        ),
        control=link("control", slow_seconds=rng.choice([0.02, 0.5, 1.5])),
        crash_at_step=some(0.03),
        crash_rate=some(2.0),
        pause_rate=some(4.0),
        pause_seconds=rng.choice([0.1, 0.7, 2.0]),
        promote_rate=some(8.0, share=0.7),
        race=some(1.0),
        actor_restart_rate=some(2.0, share=0.3),
        outage_rate=some(0.7, share=0.3),
        outage_seconds=rng.choice([0.05, 0.4, 1.5]),
        reconnect_rate=some(2.0, share=0.3),
        again=some(0.2, share=0.3),
        lagging_read=some(0.3, share=0.3),
        let_go_rate=some(3.0, share=0.3),
        stale_lookup=some(0.5),
        slow_handler=some(0.4),
        slow_handler_seconds=rng.choice([0.003, 0.05, 0.6]),
        skew_seconds=rng.choice([0.0, 0.0, 2.0, 300.0, 900.0]),
        stash=some(0.5, share=0.4),
        seconds=rng.uniform(2.0, 5.0),
        load=rng.choice([0.01, 0.03, 0.1]),
    )


def draw_limits(rng: random.Random) -> OwnerLimits:
    """Draw limits so small that cuts, snapshots and floors happen all the time."""
    return OwnerLimits(
        group_bytes=rng.choice([120, 250, 600, 256 * 1024]),
        record_bytes=rng.choice([400, 1500, 8 * 1024 * 1024]),
        snapshot_every_records=rng.choice([2, 3, 6, 15, 512]),
        snapshot_min_bytes=rng.choice([300, 2000, 128 * 1024]),
        snapshot_growth=rng.choice([2, 4]),
        max_sessions=rng.choice([1, 2, 3, 50]),
        max_kept_reply_bytes=64,
        max_kept_bytes=rng.choice([100, 400, 1024 * 1024]),
        window=rng.choice([2, 4, 256]),
        max_mail_replies=rng.choice([1, 3, 1000]),
        mail_ahead=rng.choice([1, 2, 3, 6]),
    )
