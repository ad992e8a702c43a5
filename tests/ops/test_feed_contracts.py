"""Contracts page by page, as `aegis feed contracts` reads them."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.errors import Unavailable
from aegis.ops._feed import all_pages

pytestmark = pytest.mark.asyncio

PAGE = 3


class Lists:
    """What a market knows each time it is asked; the last of it from then on."""

    def __init__(self, *lists: str) -> None:
        self.lists = list(lists)
        self.asked: list[int] = []

    async def page(self, first: int) -> dict[str, Any]:
        self.asked.append(first)
        known = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        return {
            "version": known,
            "total": len(known),
            "first": first,
            "contracts": [*known[first : first + PAGE]],
        }


@pytest.mark.parametrize(
    ("known", "limit", "shown", "asked"),
    [
        ("abcdefgh", 100, "abcdefgh", [0, 3, 6]),
        ("abcdefgh", 5, "abcde", [0, 3]),
        ("abcdefgh", 3, "abc", [0]),
        ("ab", 1, "a", [0]),
        ("", 100, "", [0]),
    ],
)
async def test_as_many_are_read_as_are_asked_for(
    known: str, limit: int, shown: str, asked: list[int]
) -> None:
    lists = Lists(known)
    found = await all_pages(lists.page, limit)
    assert ("".join(found["contracts"]), found["total"]) == (shown, len(known))
    assert lists.asked == asked


async def test_a_list_that_changed_between_two_pages_is_read_from_the_beginning() -> None:
    lists = Lists("abcde", "xabcde")
    found = await all_pages(lists.page, 100)
    assert "".join(found["contracts"]) == "xabcde"
    assert lists.asked == [0, 3, 0, 3]


async def test_a_list_that_changes_all_the_time_is_not_read_for_ever() -> None:
    lists = Lists(*(f"abcd{n}" for n in range(10)))
    with pytest.raises(Unavailable, match="ask again"):
        await all_pages(lists.page, 100)
