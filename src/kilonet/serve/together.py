"""Threads that take together what waits together: handing work to a thread costs more than reading a small image."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Together(Generic[Job, Result]):
    """Hands jobs from one event loop to threads."""

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        is_small: Callable[[Job], bool],
        threads: int,
        most: int,
    ) -> None:
        """Start no thread yet.

        Args:
            work: gives the result of each of several jobs, or what is raised for it.
            is_small: whether a job may be taken with others; all others are taken alone.
            threads: how many may work at once.
            most: jobs that are taken together.
        """
        self._work, self._is_small, self._most = work, is_small, most
        self._pool = ThreadPoolExecutor(threads, "kilonet")
        self._free = threads
        self._waiting: deque[tuple[Job, asyncio.Future[Result]]] = deque()

    async def result(self, job: Job) -> Result:
        """Have a job done."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((job, future))
        # Not at once: what else has come by now goes with it.
        loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        while self._free and (taken := self._taken()):
            self._free -= 1
            done = asyncio.get_running_loop().run_in_executor(self._pool, self._work, [job for job, _ in taken])
            done.add_done_callback(partial(self._finish, [future for _, future in taken]))

    def _taken(self) -> list[tuple[Job, asyncio.Future[Result]]]:
        taken: list[tuple[Job, asyncio.Future[Result]]] = []
        while self._waiting and len(taken) < self._most:
            job, future = self._waiting[0]
            if taken and not self._is_small(job):
                break
            self._waiting.popleft()
            if future.done():
                # Nobody waits for it any more.
                continue
            taken.append((job, future))
            if not self._is_small(job):
                break
        return taken

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
