"""W3C trace contexts: their form, their descent, and what is no trace context."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from aegis._trace import (
    TraceContext,
    child_of,
    current_trace_id,
    current_traceparent,
    enter_trace,
    new_traceparent,
    parse_traceparent,
    trace_id_of,
    use_trace,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_a_new_trace_has_the_form_of_the_recommendation() -> None:
    made = {new_traceparent() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", text) for text in made)


def test_work_inside_a_trace_has_its_trace_id_and_spans_of_its_own() -> None:
    with use_trace(PARENT):
        child = new_traceparent()
        assert current_traceparent() == PARENT
        assert current_trace_id() == TRACE
    assert trace_id_of(child) == TRACE
    assert child != PARENT
    assert current_trace_id() == ""


def test_a_child_keeps_trace_and_sampling() -> None:
    context = parse_traceparent(child_of(PARENT[:-2] + "00"))
    assert context is not None
    assert (context.trace_id, context.sampled) == (TRACE, False)
    assert context.span_id != "b7ad6b7169203331"
    assert trace_id_of(child_of("nonsense")) != TRACE


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    later = f"01-{TRACE}-b7ad6b7169203331-01-more"
    assert parse_traceparent(later) == TraceContext(TRACE, "b7ad6b7169203331", sampled=True)
    with use_trace(later):
        assert current_traceparent() == PARENT


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
        enter_trace(new_traceparent())
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
        os.write(writer, new_traceparent().encode())
        os._exit(0)
    mine = new_traceparent()
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != mine
    os.close(reader)
    os.close(writer)
