"""What the ledger of a caller of `aegis chaos` tells of deals, letters and bells."""

from __future__ import annotations

from typing import Any

from attrs import define, field

__all__ = ["BellStory", "DealStory", "LetterStory", "MailStory"]

type Key = tuple[str, int]
"""A resource, and a number of the caller there."""


@define
class DealStory:
    """One deal; ``end`` is how its caller was told that it ended, or empty."""

    desk: str
    number: int
    asked_at: float
    buyer: str
    seller: str
    shares: int
    price: int
    patience: float
    attempts: set[int] = field(factory=set[int])
    acknowledged: set[int] = field(factory=set[int])
    """Attempts whose result was told."""
    end: str = ""
    told_at: float = 0.0


@define
class LetterStory:
    """One letter of one life of the caller."""

    tray: str
    life: int
    number: int
    sequence: int = 0
    """What its receipt says, or 0."""
    message_id: str = ""
    place: int = 0
    """What its result says, or 0."""
    refused: str = ""
    """Why nothing was sent, if that is sure."""


@define
class BellStory:
    """One reminder. None is what nobody was told."""

    bell: str
    number: int
    asked_at: float
    after: float
    was_set: bool | None = None
    is_unwanted: bool = False
    """Whether it was asked to be taken back."""
    was_taken_back: bool | None = None
    end: str = ""
    told_at: float = 0.0


@define
class MailStory:
    """All that one caller's ledger tells of durable messages."""

    lives: int = 0
    deals: dict[Key, DealStory] = field(factory=dict[Key, DealStory])
    letters: dict[tuple[str, int, int], LetterStory] = field(
        factory=dict[tuple[str, int, int], LetterStory]
    )
    """By tray, life and number."""
    bells: dict[Key, BellStory] = field(factory=dict[Key, BellStory])

    def note(self, line: list[Any]) -> bool:
        """Take note of one line of the file, if it is of these."""
        kind, *rest = line
        match kind:
            case "life":
                self.lives += 1
            case "deal":
                self.deals[rest[0], rest[1]] = DealStory(*rest)
            case "place":
                desk, number, attempt = rest
                self.deals[desk, number].attempts.add(attempt)
            case "placed":
                desk, number, attempt = rest
                self.deals[desk, number].acknowledged.add(attempt)
            case "dealt":
                desk, number, told_at, end = rest
                deal = self.deals[desk, number]
                deal.end, deal.told_at = end, told_at
            case "post":
                self.letters[rest[0], rest[1], rest[2]] = LetterStory(*rest)
            case "posted":
                tray, life, number, sequence, message_id = rest
                letter = self.letters[tray, life, number]
                letter.sequence, letter.message_id = sequence, message_id
            case "unposted":
                tray, life, number, why = rest
                self.letters[tray, life, number].refused = why
            case "taken":
                tray, life, number, place = rest
                self.letters[tray, life, number].place = place
            case "set":
                self.bells[rest[0], rest[1]] = BellStory(*rest)
            case "was_set":
                bell, number, was_set = rest
                self.bells[bell, number].was_set = was_set
            case "take_back":
                self.bells[rest[0], rest[1]].is_unwanted = True
            case "taken_back":
                bell, number, in_time = rest
                self.bells[bell, number].was_taken_back = in_time
            case "rang":
                bell, number, told_at, end = rest
                story = self.bells[bell, number]
                story.end, story.told_at = end, told_at
            case _:
                return False
        return True
