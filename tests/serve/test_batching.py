"""Waiting jobs share a batch, and each gets its own result."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from kilonet.serve.batching import BatchingPool
from service import in_loop

FAULT = 13


class Doubling:
    """Doubles even numbers once `go` is set, fails on FAULT, and remembers the batches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        assert self.go.wait(10)
        self.batches.append(list(jobs))
        if FAULT in jobs:
            raise ZeroDivisionError
        return [ValueError(f"{job} is odd") if job % 2 else 2 * job for job in jobs]


def batching(work: Doubling, threads: int = 1, max_batch: int = 3) -> BatchingPool[int, int]:
    return BatchingPool(work, threads, max_batch)


async def started(pool: BatchingPool[int, int], *jobs: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(pool.run(job)) for job in jobs]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_jobs_that_wait_share_batches_in_order() -> None:
    async def run() -> None:
        pool = batching(work)
        tasks = [*await started(pool, 0), *await started(pool, 2, 4, 6, 8, 10)]
        work.go.set()
        assert await asyncio.gather(*tasks) == [0, 4, 8, 12, 16, 20]

    work = Doubling()
    in_loop(run())
    assert work.batches == [[0], [2, 4, 6], [8, 10]]


def test_an_error_is_raised_for_its_own_job() -> None:
    async def run() -> None:
        pool = batching(work)
        first, second, third = await started(pool, 2, 3, 4)
        work.go.set()
        assert await first == 4
        with pytest.raises(ValueError, match="3 is odd"):
            await second
        assert await third == 8

    work = Doubling()
    in_loop(run())


def test_a_fault_is_raised_for_the_whole_batch_and_the_pool_goes_on() -> None:
    async def run() -> None:
        pool = batching(work)
        first, *tasks = await started(pool, 2, FAULT, 4)
        work.go.set()
        for task in (first, *tasks):
            with pytest.raises(ZeroDivisionError):
                await task
        assert await pool.run(6) == 12

    work = Doubling()
    in_loop(run())


def test_a_cancelled_job_is_not_run() -> None:
    async def run() -> None:
        pool = batching(work)
        await started(pool, 2)
        left, stays = await started(pool, 4, 6)
        left.cancel()
        work.go.set()
        assert await stays == 12

    work = Doubling()
    in_loop(run())
    assert work.batches == [[2], [6]]
