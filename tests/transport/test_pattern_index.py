"""The index finds what a look at each pattern would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aegis.transport._pattern_index import PatternIndex
from aegis.transport._subject import matches

TOKEN = st.sampled_from(["a", "b", "c"])

SUBJECTS = st.lists(TOKEN, min_size=1, max_size=4).map(".".join)


def _joined(tokens: list[str], rest: str) -> str:
    return ".".join(tokens) + rest


PATTERNS = st.builds(
    _joined,
    st.lists(TOKEN | st.just("*"), min_size=1, max_size=4),
    st.sampled_from(["", ".>"]),
)


@given(st.lists(PATTERNS | SUBJECTS, max_size=12), SUBJECTS | PATTERNS)
def test_the_index_finds_what_matches_and_nothing_else(patterns: list[str], subject: str) -> None:
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(patterns):
        index.add(pattern, number)
    expected = [n for n, pattern in enumerate(patterns) if matches(pattern, subject)]
    assert sorted(index.find(subject)) == expected


@given(st.lists(PATTERNS | SUBJECTS, max_size=12), SUBJECTS, st.data())
def test_what_was_removed_is_found_no_more(
    patterns: list[str], subject: str, data: st.DataObject
) -> None:
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(patterns):
        index.add(pattern, number)
    removed = {n for n in range(len(patterns)) if data.draw(st.booleans())}
    for number in removed:
        index.remove(patterns[number], number)
    expected = [
        n for n, pattern in enumerate(patterns) if n not in removed and matches(pattern, subject)
    ]
    assert sorted(index.find(subject)) == expected


def test_what_is_for_a_subject_alone_comes_first() -> None:
    index: PatternIndex[str] = PatternIndex()
    for pattern in ("a.b.>", "a.*.c", "a.b.c"):
        index.add(pattern, pattern)
    assert index.find("a.b.c") == ["a.b.c", "a.b.>", "a.*.c"]
