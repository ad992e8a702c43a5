"""What a caller of `aegis chaos` does with durable messages: deals, letters, bells."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from aegis._cluster import Cluster
from aegis.contracts import Receipt
from aegis.errors import AegisError, DeadlineExpired, OutcomeUnknown
from aegis.ops._chaos_ledger import Ledger
from aegis.ops._chaos_mail_ledger import BellStory, DealStory, LetterStory, MailStory
from aegis.ops._chaos_mail_services import PENDING, UNKNOWN_BELL, Bell, Tray
from aegis.ops._chaos_saga_services import Desk, Order, Phase
from aegis.ops._chaos_work import RESOURCES

__all__ = ["MailCaller"]

DEAL_WORKERS: Final = 3
LETTER_WORKERS: Final = 3
BELL_WORKERS: Final = 3

MAX_SHARES: Final = 300
MAX_PRICE: Final = 30
DEAL_PATIENCE: Final = (0.02, 3.0)
"""Seconds until a deal expires: some are shorter than what they take without any fault."""

RING_AFTER: Final = (0.0, 3.0)
SHARE_TAKEN_BACK: Final = 0.3
OVERDUE_SECONDS: Final = 20.0
"""An owner that serves and says so long after its time that a bell is to ring has lost it."""

PATIENCE: Final = 10.0
IMPATIENCE: Final = (0.05, 0.5)
SHARE_IMPATIENT: Final = 0.15

PAUSE_SECONDS: Final = 0.1
LOOK_SECONDS: Final = (0.02, 0.2)

_ENDS: Final = tuple(phase for phase in Phase if phase not in (Phase.CASH, Phase.SHARES))


class MailCaller:
    """Works until told to end; ``story`` is what its ledger told of earlier lives.

    Times in the ledger are readings of ``clock``, one for all callers.
    """

    def __init__(
        self,
        name: str,
        story: MailStory,
        cluster: Cluster,
        ledger: Ledger,
        seed: int,
        ending: asyncio.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._story = story
        self._cluster = cluster
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._ending = ending
        self._clock = clock
        self._life = story.lives + 1
        self._deals: dict[str, int] = defaultdict(int)
        self._attempts: dict[str, int] = defaultdict(int)
        self._open_deals: dict[str, set[int]] = defaultdict(set)
        self._letters: dict[str, int] = defaultdict(int)
        self._posting: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._bells: dict[str, int] = defaultdict(int)
        self._open_bells: dict[str, set[int]] = defaultdict(set)
        for deal in story.deals.values():
            self._deals[deal.desk] = max(self._deals[deal.desk], deal.number)
            self._attempts[deal.desk] = max(self._attempts[deal.desk], 0, *deal.attempts)
            if not deal.end:
                self._open_deals[deal.desk].add(deal.number)
        for bell in story.bells.values():
            self._bells[bell.bell] = max(self._bells[bell.bell], bell.number)
            if not bell.end and bell.was_set is not False:
                self._open_bells[bell.bell].add(bell.number)

    async def work(self) -> None:
        """End what was begun before, and begin more until told to end; then end that too."""
        await self._ledger.write("life")
        story = self._story
        await asyncio.gather(
            *(self._carry_on(deal) for deal in story.deals.values() if not deal.end),
            *(self._learn(letter) for letter in story.letters.values() if _is_waited_for(letter)),
            *(self._hear(bell) for bell in story.bells.values() if _may_ring(bell)),
            *(self._deal() for _ in range(DEAL_WORKERS)),
            *(self._write_letters() for _ in range(LETTER_WORKERS)),
            *(self._set_bells() for _ in range(BELL_WORKERS)),
        )

    def _timeout(self) -> float:
        impatient = self._rng.random() < SHARE_IMPATIENT
        return self._rng.uniform(*IMPATIENCE) if impatient else PATIENCE

    async def _pause(self) -> None:
        await asyncio.sleep(PAUSE_SECONDS * self._rng.random())

    async def _ask(self, service: type[Any], resource: str, method: str, **params: Any) -> Any:
        """Return the answer to a query, or None if there is none."""
        try:
            return await self._cluster.call(
                service.service, method, params, resource_id=resource, timeout=PATIENCE
            )
        except AegisError:
            return None

    # -- deals -------------------------------------------------------------------------------

    async def _deal(self) -> None:
        rng = self._rng
        while not self._ending.is_set():
            desk = rng.choice(RESOURCES)
            buyer, seller = rng.sample(RESOURCES, 2)
            self._deals[desk] += 1
            number = self._deals[desk]
            self._open_deals[desk].add(number)
            deal = DealStory(
                desk,
                number,
                self._clock(),
                buyer,
                seller,
                rng.randint(1, MAX_SHARES),
                rng.randint(1, MAX_PRICE),
                rng.uniform(*DEAL_PATIENCE),
            )
            await self._ledger.write(
                "deal",
                *(desk, number, deal.asked_at, buyer, seller),
                *(deal.shares, deal.price, deal.patience),
            )
            await self._carry_on(deal)
            await self._pause()

    async def _carry_on(self, deal: DealStory) -> None:
        """Place a deal until the desk knows it; return when it is at its end."""
        key = deal.desk, deal.number
        placed = False
        while True:
            if not placed:
                await self._place(deal)
            view = await self._ask(Desk, deal.desk, "look", caller=self._name, number=deal.number)
            if view is not None:
                placed = view["phase"] != ""
                if view["phase"] in _ENDS and not view["open"]:
                    break
            await asyncio.sleep(self._rng.uniform(*LOOK_SECONDS))
        await self._ledger.write("dealt", *key, self._clock(), view["phase"])
        self._open_deals[deal.desk].discard(deal.number)

    async def _place(self, deal: DealStory) -> None:
        self._attempts[deal.desk] += 1
        attempt = self._attempts[deal.desk]
        await self._ledger.write("place", deal.desk, deal.number, attempt)
        order = Order(
            self._name,
            attempt,
            deal.number,
            min(self._open_deals[deal.desk]),
            deal.buyer,
            deal.seller,
            deal.shares,
            deal.price,
            deal.patience,
        )
        try:
            receipt = await self._cluster.send(
                Desk, "place", {"order": order}, resource_id=deal.desk, timeout=self._timeout()
            )
            await self._cluster.result(receipt, timeout=self._timeout())
        except AegisError as error:
            await self._ledger.write("unread", f"{type(error).__name__} of a deal")
        else:
            await self._ledger.write("placed", deal.desk, deal.number, attempt)

    # -- letters -----------------------------------------------------------------------------

    async def _write_letters(self) -> None:
        while not self._ending.is_set():
            tray = self._rng.choice(RESOURCES)
            async with self._posting[tray]:
                # What is written down first is sent first: that order must hold.
                self._letters[tray] += 1
                letter = LetterStory(tray, self._life, self._letters[tray])
                await self._ledger.write("post", tray, letter.life, letter.number)
                sending = asyncio.ensure_future(self._post(letter))
            await sending
            if letter.sequence:
                await self._learn(letter)
            await self._pause()

    async def _post(self, letter: LetterStory) -> None:
        key = letter.tray, letter.life, letter.number
        page = f"{self._name}-{letter.life}"
        try:
            receipt = await self._cluster.send(
                Tray,
                "take",
                {"caller": page, "number": letter.number},
                resource_id=letter.tray,
                timeout=self._timeout(),
            )
        except OutcomeUnknown:
            await self._ledger.write("unread", "OutcomeUnknown of a letter")
        except AegisError as error:
            await self._ledger.write("unposted", *key, type(error).__name__)
        else:
            letter.sequence, letter.message_id = receipt.sequence, receipt.message_id
            await self._ledger.write("posted", *key, receipt.sequence, receipt.message_id)

    async def _learn(self, letter: LetterStory) -> None:
        """Ask what came of a letter, for a while."""
        receipt = Receipt(letter.message_id, Tray.service, letter.tray, letter.sequence)
        try:
            place = await self._cluster.result(receipt, timeout=self._timeout())
        except AegisError as error:
            await self._ledger.write("unread", f"{type(error).__name__} of a letter")
        else:
            await self._ledger.write("taken", letter.tray, letter.life, letter.number, place)

    # -- bells -------------------------------------------------------------------------------

    async def _set_bells(self) -> None:
        while not self._ending.is_set():
            bell = self._rng.choice(RESOURCES)
            self._bells[bell] += 1
            number = self._bells[bell]
            self._open_bells[bell].add(number)
            story = BellStory(bell, number, self._clock(), self._rng.uniform(*RING_AFTER))
            await self._ledger.write("set", bell, number, story.asked_at, story.after)
            await self._set(story)
            if story.was_set:
                if self._rng.random() < SHARE_TAKEN_BACK:
                    await asyncio.sleep(self._rng.uniform(0, story.after))
                    await self._take_back(story)
                await self._hear(story)
            elif story.was_set is False:
                self._open_bells[bell].discard(number)
            await self._pause()

    async def _set(self, story: BellStory) -> None:
        params = {"low": min(self._open_bells[story.bell]), "after": story.after}
        try:
            await self._call(story, "set", **params)
        except OutcomeUnknown:
            return
        except AegisError:
            story.was_set = False
        else:
            story.was_set = True
        await self._ledger.write("was_set", story.bell, story.number, story.was_set)

    async def _take_back(self, story: BellStory) -> None:
        await self._ledger.write("take_back", story.bell, story.number)
        try:
            in_time = await self._call(story, "take_back")
        except AegisError:
            return
        await self._ledger.write("taken_back", story.bell, story.number, in_time)

    async def _call(self, story: BellStory, method: str, **params: Any) -> Any:
        """Call a bell; what is unknown is resolved. `OutcomeUnknown` if that is too old."""
        params |= {"caller": self._name, "number": story.number}
        try:
            return await self._cluster.call(
                Bell.service, method, params, resource_id=story.bell, timeout=self._timeout()
            )
        except OutcomeUnknown as error:
            unknown = error
        while True:
            try:
                return await self._cluster.resolve(unknown, timeout=PATIENCE)
            except DeadlineExpired:
                raise
            except OutcomeUnknown:
                await asyncio.sleep(self._rng.uniform(*LOOK_SECONDS))
            except AegisError:
                raise unknown from None

    async def _hear(self, story: BellStory) -> None:
        """Return when a bell has rung, or was taken back, or never will."""
        due_by = self._clock() + story.after
        while True:
            how = await self._ask(Bell, story.bell, "look", caller=self._name, number=story.number)
            if how == UNKNOWN_BELL and not story.was_set:
                break  # It was killed while it set this one, which may come or not.
            is_overdue = self._clock() > due_by + OVERDUE_SECONDS
            if how is not None and (how != PENDING or is_overdue):
                await self._ledger.write("rang", story.bell, story.number, self._clock(), how)
                break
            await asyncio.sleep(self._rng.uniform(*LOOK_SECONDS))
        self._open_bells[story.bell].discard(story.number)


def _is_waited_for(letter: LetterStory) -> bool:
    return letter.sequence > 0 and not letter.place


def _may_ring(bell: BellStory) -> bool:
    return not bell.end and bell.was_set is not False
