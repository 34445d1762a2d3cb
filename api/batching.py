"""Questions that come one by one, asked together.

While one read is under way in a thread, further questions gather and are read
together after it. So a read begins after each of its questions was asked, no
question waits for company, and the more there are, the more share a read.
"""

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import Executor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Batches(Generic[K, V]):
    """`read` answers many keys at once, in a thread; a key that it leaves out has None."""

    def __init__(self, read: Callable[[Collection[K]], Mapping[K, V]], threads: Executor) -> None:
        self._read = read
        self._threads = threads
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._reader: asyncio.Task[None] | None = None  # kept, for tasks are weakly referenced

    async def get(self, key: K) -> V | None:
        """What a read that begins from now on says of the key. Raises what the read raises."""
        loop = asyncio.get_running_loop()
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = loop.create_future()
        if self._reader is None or self._reader.done():
            self._reader = loop.create_task(self._read_all())
        # Shielded, since others may wait for the same answer.
        return await asyncio.shield(answer)

    async def _read_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                # Starlette's pool takes twice as long to hand over as this.
                found = await loop.run_in_executor(self._threads, self._read, list(asked))
            except BaseException as error:
                _fail(asked.values(), error)
                if not isinstance(error, Exception):  # cancelled: the loop is closing
                    raise
            else:
                for key, answer in asked.items():
                    if not answer.done():
                        answer.set_result(found.get(key))


def _fail(answers: Collection["asyncio.Future[V | None]"], error: BaseException) -> None:
    for answer in answers:
        if isinstance(error, Exception) and not answer.done():
            answer.set_exception(error)
            answer.exception()  # looked at: whoever asked may be gone, and that is no warning
        else:
            answer.cancel()
