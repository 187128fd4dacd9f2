"""Working on shards in several processes, with results in order and a bounded number of shards on their way.

Processes start only when there is enough to do: starting them takes seconds, in which thousands of rows are done.
"""

import gc
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from luthier.errors import Missing

FEW, ALONE, SECONDS = 2 << 20, 24 << 20, 4.0
"""Bytes of rows that are worked on before other processes are started: `ALONE`, or `FEW` where they took `SECONDS`."""

SELDOM = (100_000, 20, 100)
"""When a process of its own looks for garbage in circles: rows make none, and looking takes a twentieth of its time."""

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


class Spread:
    """Calls `work(common, shard)` for each shard; `common` goes to each process once. Use it in a `with`."""

    def __init__(self, work: Callable[[Any, Any], Any], common: Any, *, processes: int | None = None) -> None:
        self._work, self._common = work, common
        self._processes = processes or cores()
        self._pool: ProcessPoolExecutor | None = None
        self._done = 0
        self._spent = 0.0

    def __enter__(self) -> "Spread":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, shards: Iterable[tuple[T, Any, int]]) -> Iterator[tuple[T, Any]]:
        """For each shard its name and the result, in order.

        Args:
            shards: a name that stays here, what is worked on, and how many bytes of rows that is.

        Raises:
            Missing: a process was ended from outside, most likely for want of memory.
        """
        waiting: deque[tuple[T, Future[Any]]] = deque()
        try:
            for name, shard, size in shards:
                if self._pool is None and self._alone:
                    self._done += size
                    begun = time.process_time()
                    made = self._work(self._common, shard)
                    self._spent += time.process_time() - begun
                    yield name, made
                    continue
                waiting.append((name, self._start().submit(_call, shard)))
                if len(waiting) > 2 * self._processes:
                    yield waiting[0][0], waiting.popleft()[1].result()
            while waiting:
                yield waiting[0][0], waiting.popleft()[1].result()
        except BrokenProcessPool as error:
            raise Missing(
                "a process that worked on rows was ended from outside, most likely because memory ran out",
                fix="free some memory, then run the same command again: what was done so far is remembered",
            ) from error

    @property
    def _alone(self) -> bool:
        enough = self._done >= ALONE or (self._done >= FEW and self._spent >= SECONDS)
        return self._processes == 1 or not enough

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # forking a process with threads may hang
            self._pool = ProcessPoolExecutor(self._processes, context, _begin, (self._work, self._common))
        return self._pool


_here: tuple[Callable[[Any, Any], Any], Any] | None = None
"""In a process of its own: what to do, and what all shards have in common."""


def _begin(work: Callable[[Any, Any], Any], common: Any) -> None:
    global _here
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core is enough
    gc.freeze()
    gc.set_threshold(*SELDOM)
    _here = (work, common)


def _call(shard: Any) -> Any:
    assert _here is not None
    work, common = _here
    return work(common, shard)
