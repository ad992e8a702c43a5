"""W3C trace contexts: their form, their descent, and what is no trace context."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from aegis._trace import (
    TraceContext,
    current_trace_id,
    current_traceparent,
    enter_trace,
    outgoing_traceparent,
    parse_traceparent,
    trace_id_of,
    traceparent_of,
    use_trace,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_a_new_trace_has_the_form_of_the_recommendation() -> None:
    made = {outgoing_traceparent() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", text) for text in made)


@pytest.mark.parametrize("parent", [PARENT, PARENT[:-2] + "00"])
def test_what_leaves_inside_a_trace_carries_the_span_that_is_known(parent: str) -> None:
    with use_trace(parent):
        assert outgoing_traceparent() == current_traceparent() == parent
        assert current_trace_id() == TRACE
    assert trace_id_of(parent) == TRACE
    assert current_trace_id() == ""


def test_a_new_trace_says_that_no_span_stands_behind_it() -> None:
    begun, given = parse_traceparent(outgoing_traceparent()), parse_traceparent(PARENT)
    assert begun is not None
    assert given is not None
    assert (begun.has_span, given.has_span) == (False, True)


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    later = f"01-{TRACE}-b7ad6b7169203331-01-more"
    assert parse_traceparent(later) == TraceContext(TRACE, "b7ad6b7169203331", sampled=True)
    with use_trace(later):
        assert current_traceparent() == PARENT


def test_a_trace_that_is_known_by_its_id_alone_goes_on_and_other_text_is_none() -> None:
    assert trace_id_of(traceparent_of(TRACE)) == TRACE
    for text in ("", "request 7", TRACE.upper(), "0" * 32):
        assert len({traceparent_of(text) for _ in range(2)}) == 2  # new ones


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        PARENT.upper(),
        PARENT + "-more",
        PARENT[:-1],
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-b7ad6b7169203331-0x",
    ],
)
def test_what_is_no_traceparent_starts_no_trace(text: str) -> None:
    assert parse_traceparent(text) is None
    with use_trace(text):
        assert current_traceparent() == ""


async def test_each_task_has_its_own_trace() -> None:
    async def work() -> str:
        enter_trace(outgoing_traceparent())
        before = current_trace_id()
        await asyncio.gather(*(asyncio.create_task(asyncio.Event().wait()) for _ in range(0)))
        return before if before == current_trace_id() else ""

    seen = await asyncio.gather(*(asyncio.create_task(work()) for _ in range(10)))
    assert len(set(seen)) == 10
    assert "" not in seen
    assert current_trace_id() == ""


def test_a_forked_child_does_not_repeat_ids() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, outgoing_traceparent().encode())
        os._exit(0)
    mine = outgoing_traceparent()
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != mine
    os.close(reader)
    os.close(writer)
