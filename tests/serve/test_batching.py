"""Jobs that wait are taken together, each gets its own result, and large ones keep nobody waiting."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from kilonet.serve.together import Together
from service import in_loop

FAULT = 13


class Doubling:
    """Doubles numbers once it is let go, all but one; remembers what it was given together."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.taken: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        assert self.go.wait(10)
        self.taken.append(list(jobs))
        if FAULT in jobs:
            raise ZeroDivisionError
        return [ValueError(f"{job} is odd") if job % 2 else 2 * job for job in jobs]


def together(work: Doubling, threads: int = 1, most: int = 3) -> Together[int, int]:
    return Together(work, lambda job: job < 100, threads, most)


async def started(pool: Together[int, int], *jobs: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(pool.result(job)) for job in jobs]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_what_waits_is_taken_together_in_order_but_large_jobs_alone() -> None:
    async def run() -> None:
        pool = together(work)
        tasks = [*await started(pool, 0), *await started(pool, 2, 4, 6, 8, 200, 10)]
        work.go.set()
        assert await asyncio.gather(*tasks) == [0, 4, 8, 12, 16, 400, 20]

    work = Doubling()
    in_loop(run())
    assert work.taken == [[0], [2, 4, 6], [8], [200], [10]]


def test_an_error_is_raised_for_its_own_job() -> None:
    async def run() -> None:
        pool = together(work)
        first, second, third = await started(pool, 2, 3, 4)
        work.go.set()
        assert await first == 4
        with pytest.raises(ValueError, match="3 is odd"):
            await second
        assert await third == 8

    work = Doubling()
    in_loop(run())


def test_a_fault_is_raised_for_all_and_the_thread_goes_on() -> None:
    async def run() -> None:
        pool = together(work)
        first, *tasks = await started(pool, 2, FAULT, 4)
        work.go.set()
        for task in (first, *tasks):
            with pytest.raises(ZeroDivisionError):
                await task
        assert await pool.result(6) == 12

    work = Doubling()
    in_loop(run())


def test_nobody_computes_what_nobody_waits_for() -> None:
    async def run() -> None:
        pool = together(work)
        await started(pool, 2)
        left, stays = await started(pool, 4, 6)
        left.cancel()
        work.go.set()
        assert await stays == 12

    work = Doubling()
    in_loop(run())
    assert work.taken == [[2], [6]]
