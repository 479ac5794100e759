"""The throttle: it finds an endpoint's limit, stays there, and waits where everything is refused."""

import asyncio
import time

import pytest

from nbhelpers import throttle as module
from nbhelpers.throttle import Throttle, round_trips


class Endpoint:
    """Serves `limit` calls at once and refuses the rest."""

    def __init__(self, limit: int, *, seconds: float = 0.01, retry_after: float = 0.05) -> None:
        self.limit, self.seconds, self.retry_after = limit, seconds, retry_after
        self.now = self.peak = self.served = self.refused = 0

    async def call(self, throttle: Throttle) -> None:
        while True:
            await throttle.acquire()
            if self.now >= self.limit:
                self.refused += 1
                throttle.refused(self.retry_after)
                await asyncio.sleep(self.retry_after)
                continue
            self.now += 1
            self.peak = max(self.peak, self.now)
            await asyncio.sleep(self.seconds)
            self.now -= 1
            self.served += 1
            throttle.served()
            return


def work(endpoint: Endpoint, *, most: int, calls: int) -> tuple[Throttle, float]:
    async def main() -> tuple[Throttle, float]:
        throttle, started = Throttle(most), time.monotonic()
        await asyncio.gather(*(endpoint.call(throttle) for _ in range(calls)))
        return throttle, time.monotonic() - started

    return asyncio.run(main())


def test_all_places_are_used_where_the_endpoint_takes_them() -> None:
    endpoint = Endpoint(1000)
    throttle, _ = work(endpoint, most=16, calls=200)
    assert (endpoint.peak, endpoint.refused, throttle.places) == (16, 0, 16)


@pytest.mark.parametrize("limit", [1, 2, 5, 8])
def test_a_lower_limit_is_found_with_few_refusals(limit: int) -> None:
    endpoint = Endpoint(limit)
    throttle, seconds = work(endpoint, most=64, calls=400)
    assert endpoint.served == 400
    assert endpoint.peak == limit
    assert endpoint.refused <= 20
    assert throttle.under_way == 0
    assert seconds < 1.5 * 400 * endpoint.seconds / limit + 0.5


def test_a_limit_that_is_lifted_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRY_ONE_MORE_AFTER", 4)
    endpoint = Endpoint(3, seconds=0.002)

    async def main() -> Throttle:
        throttle = Throttle(10)
        await asyncio.gather(*(endpoint.call(throttle) for _ in range(60)))
        endpoint.limit = 1000
        await asyncio.gather(*(endpoint.call(throttle) for _ in range(1500)))
        return throttle

    assert asyncio.run(main()).places == 10


def test_what_is_known_of_an_endpoint_is_where_the_next_time_begins() -> None:
    endpoint = Endpoint(6)

    async def main(known: int | None, calls: int) -> tuple[Throttle, int]:
        throttle = Throttle(64, known=known)
        before, endpoint.peak = endpoint.refused, 0
        await asyncio.gather(*(endpoint.call(throttle) for _ in range(calls)))
        return throttle, endpoint.refused - before

    few, refused = asyncio.run(main(None, 2))
    assert (few.known, refused) == (None, 0)  # too few calls to know
    first, refused = asyncio.run(main(None, 60))
    assert refused >= 1
    second, refused = asyncio.run(main(first.known, 30))
    assert (first.known, second.known, refused, endpoint.peak) == (6, 6, 0, 6)


def test_where_nothing_is_served_all_wait() -> None:
    endpoint = Endpoint(0, retry_after=0.2)

    async def main() -> Throttle:
        throttle = Throttle(8)
        calls = [asyncio.create_task(endpoint.call(throttle)) for _ in range(8)]
        await asyncio.sleep(0.15)
        assert endpoint.refused <= 8
        endpoint.limit = 100
        await asyncio.gather(*calls)
        return throttle

    throttle = asyncio.run(main())
    assert endpoint.served == 8
    assert throttle.under_way == 0


def test_a_cancelled_wait_gives_its_place_back() -> None:
    async def main() -> Throttle:
        throttle = Throttle(1)
        await throttle.acquire()
        waiting = asyncio.create_task(throttle.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        throttle.release()
        await asyncio.wait_for(throttle.acquire(), 1)
        return throttle

    assert asyncio.run(main()).under_way == 1


@pytest.mark.parametrize(
    ("calls", "most", "known", "trips"),
    [
        (0, 16, None, 0),
        (1, 16, None, 1),
        (38, 16, None, 4),
        (38, 16, 16, 3),
        (98, 16, None, 8),
        (20, 64, 8, 3),
        (9, 2, None, 5),
    ],
)
def test_calls_take_as_many_round_trips_as_there_are_places(
    calls: int, most: int, known: int | None, trips: int
) -> None:
    assert round_trips(calls, most=most, known=known) == trips
