"""A thread pool that batches jobs: handing a job to a thread costs more than reading a small image."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class BatchingPool(Generic[Job, Result]):
    """Runs the jobs of one event loop in threads, jobs that wait together."""

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        threads: int,
        max_batch: int,
    ) -> None:
        """Start no thread yet.

        Args:
            work: returns for each job of a batch its result, or the exception to raise for it.
            threads: how many batches run at once.
            max_batch: the most jobs in a batch.
        """
        self._work, self._max_batch = work, max_batch
        self._pool = ThreadPoolExecutor(threads, "kilonet")
        self._free = threads
        self._waiting: deque[tuple[Job, asyncio.Future[Result]]] = deque()

    async def run(self, job: Job) -> Result:
        """Return the result of a job once a thread has done it, or raise its exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((job, future))
        # Not at once, so that jobs that arrive in the same turn of the loop share a batch.
        loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            done = asyncio.get_running_loop().run_in_executor(self._pool, self._work, [job for job, _ in batch])
            done.add_done_callback(partial(self._finish, [future for _, future in batch]))

    def _next_batch(self) -> list[tuple[Job, asyncio.Future[Result]]]:
        batch: list[tuple[Job, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            job, future = self._waiting.popleft()
            # Unless its request was cancelled.
            if not future.done():
                batch.append((job, future))
        return batch

    def _finish(
        self, futures: list[asyncio.Future[Result]], done: asyncio.Future[Sequence[Result | Exception]]
    ) -> None:
        self._free += 1
        error = done.exception()
        results = [error] * len(futures) if error else done.result()
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._start()
