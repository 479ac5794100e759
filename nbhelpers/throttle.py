"""How many calls may be under way: as many as the endpoint takes, found out from its refusals (429).

It begins with a few and lets one more begin with each answer, so the number doubles with every round trip. A refusal
sets it to what the endpoint was serving at that moment; later one more is tried again, ever more rarely while that
fails. Where nothing is being served any more, as under a limit by the minute, everything waits for as long as the
endpoint asks, and begins anew. After TCP's slow start and congestion avoidance (RFC 5681).
"""

import asyncio
import time

FIRST_PLACES = 4
TRY_ONE_MORE_AFTER = 32  # answers, at a number that works
TRY_ONE_MORE_AFTER_MOST = 1024


def round_trips(calls: int, *, most: int, known: int | None = None) -> int:
    """How many answers long it takes to make so many calls, where each takes as long and none is refused.

    Args:
        calls: how many.
        most, known: as for `Throttle`.
    Example: 38 calls, 16 at most -> 4, with 4, 8, 16 and 10 calls at once; 16 known to be taken -> 3.
    """
    places, limit, trips = min(known or FIRST_PLACES, most), min(known or most, most), 0
    while calls > 0:
        calls, places, trips = calls - places, min(2 * places, limit), trips + 1
    return trips


class Throttle:
    """Gives out places for calls, `most` at once; for one event loop.

    It begins with as many as are `known` from an earlier time to be taken, or with a few. After `await acquire()` comes
    exactly one of `served()`, `refused()` and `release()`.
    """

    def __init__(self, most: int, *, known: int | None = None) -> None:
        self.most = most
        self.places = min(known or FIRST_PLACES, most)
        self.under_way = 0
        self._free = asyncio.Semaphore(self.places)
        self._too_many_free = 0  # places in the semaphore that are no more
        self._known_limit = min(known or most, most)
        self._answers = 0  # since the number last changed
        self._wait_answers = TRY_ONE_MORE_AFTER
        self._paused_until = 0.0

    @property
    def known(self) -> int | None:
        """How many calls at once the endpoint takes; None while that is still being found out."""
        return self.places if self.places >= self._known_limit else None

    async def acquire(self) -> None:
        """Waits for a place."""
        while True:
            await self._free.acquire()
            if not self._too_many_free:
                break
            self._too_many_free -= 1
        self.under_way += 1
        try:
            while (pause := self._paused_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
        except BaseException:
            self.release()
            raise

    def served(self) -> None:
        """The call was answered: gives its place back and, where more may be possible, adds one."""
        self._answers += 1
        if self.places < self._known_limit:
            self._add_place()
        elif self.places < self.most and self._answers >= self._wait_answers:
            self._known_limit += 1
            self._add_place()
            self._answers = 0
        self.release()

    def refused(self, seconds: float) -> None:
        """The call was one too many: gives its place back, and no more are out than are being served.

        Args:
            seconds: how long the endpoint asks to wait.
        """
        others = self.under_way - 1
        if others == 0:
            self._paused_until = time.monotonic() + seconds
            self._known_limit, self._wait_answers = self.most, TRY_ONE_MORE_AFTER
            self._resize(min(FIRST_PLACES, self.most))
        elif others < self.places:
            if self.places == others + 1 and self._answers < self._wait_answers:  # the one more that was tried
                self._wait_answers = min(2 * self._wait_answers, TRY_ONE_MORE_AFTER_MOST)
            self._known_limit = others
            self._resize(others)
        self._answers = 0
        self.release()

    def release(self) -> None:
        """Gives a place back, with nothing learned."""
        self.under_way -= 1
        self._free.release()

    def _add_place(self) -> None:
        self.places += 1
        if self._too_many_free:
            self._too_many_free -= 1
        else:
            self._free.release()

    def _resize(self, places: int) -> None:
        while self.places < places:
            self._add_place()
        self._too_many_free += self.places - places
        self.places = places
