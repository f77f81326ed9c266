"""`Mover`: carries states between memory and their files, on threads of its own, while the engine steps on.

It asks a lower tier what to do, has it done, and tells how it went, all of that on the event loop; only the calls of
`StateFiles` are made elsewhere. Whatever goes wrong there costs a state, never a request.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.cache.lower_tier import Load, LowerTier, Save
from engine.filing import StateFiles

logger = logging.getLogger(__name__)

AFTER_TROUBLE_SECONDS = 30.0  # until the next try to write, when the disk is full
MOST_LOAD_SECONDS = 60.0  # that anybody waits for the disk
FLUSH_SECONDS = 5.0  # for what is not yet written when the engine closes


class Mover:
    """Moves for one lower tier. `on_loaded` is called when a state that somebody waits for has come, or not."""

    def __init__(self, tier: LowerTier, files: StateFiles, on_loaded: Callable[[], None]) -> None:
        self._tier = tier
        self._files = files
        self._on_loaded = on_loaded
        names = ("write", "read", "tidy")
        self._writer, self._reader, self._tidier = (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"deltaloop-{name}") for name in names
        )
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._tidying = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._saving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write what is worth it."""
        self._saving = asyncio.create_task(self._save_all(), name="deltaloop-mover")

    def notice(self) -> None:
        """There may be more to write."""
        self._news.set()

    def begin_loads(self) -> None:
        """Have those read that the scheduler asked for."""
        for load in self._tier.take_loads():
            self._spawn(self._load(load))

    def tidy(self) -> None:
        """Have those files removed that are not wanted any more, whatever is being written."""
        self._spawn(self._tidy())

    async def close(self) -> None:
        """Write what is not yet written, if that takes no more than a moment, and stop."""
        self._closing.set()
        self._news.set()
        under_way = [*self._tasks, *filter(None, [self._saving])]
        if under_way:
            await asyncio.wait(under_way, timeout=FLUSH_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tidy(), FLUSH_SECONDS)
        for task in under_way:
            task.cancel()
        self._files.close()
        for executor in (self._writer, self._reader, self._tidier):
            executor.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, executor: ThreadPoolExecutor, call: Callable[..., None], *given: Any) -> Exception | None:
        """Have something done; what went wrong."""
        try:
            await asyncio.get_running_loop().run_in_executor(executor, call, *given)
        except Exception as error:
            return error
        return None

    # --- reading --------------------------------------------------------------------------------------------------

    async def _load(self, load: Load) -> None:
        reading = asyncio.ensure_future(self._attempt(self._reader, self._files.read, load.transfer))
        await asyncio.wait([reading], timeout=MOST_LOAD_SECONDS)
        if not reading.done():
            logger.warning("%s takes very long to bring a state: its prompt is read again", self._tier.tier)
            load.under_way = False
            self._on_loaded()
        failure = await reading  # until then nobody else may have the memory that it goes to
        if failure is not None:
            logger.warning("a state kept in %s cannot be used, its prompt is read again: %s", self._tier.tier, failure)
        try:
            self._tier.loaded(load, failure)
        finally:
            self._on_loaded()
        await self._tidy()

    # --- writing --------------------------------------------------------------------------------------------------

    async def _save_all(self) -> None:
        while True:
            self._news.clear()
            await self._tidy()
            save = self._tier.next_save(settled=not self._closing.is_set())
            if save is not None:
                await self._tidy()  # what it takes the place of
                if not await self._save(save):
                    if self._closing.is_set():
                        return
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), AFTER_TROUBLE_SECONDS)
            elif self._closing.is_set():
                return
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), self._tier.next_save_in)

    async def _save(self, save: Save) -> bool:
        """Whether nothing went wrong."""
        is_published = False
        failure = await self._attempt(self._writer, self._files.write, save.transfer)
        if failure is None and self._tier.is_sound(save):
            failure = await self._attempt(self._writer, self._files.publish, save.transfer)
            is_published = failure is None
        if not is_published:
            await self._attempt(self._writer, self._files.discard, save.transfer)
        self._tier.saved(save, is_published, is_worth_another_try=failure is not None)
        if failure is not None:
            logger.warning(
                "a state could not be written to %s, the next try is in a while: %s", self._tier.tier, failure
            )
        return failure is None

    async def _tidy(self) -> None:
        """Names of files that are not wanted any more go before anything else is planned under them."""
        async with self._tidying:
            states, blocks = self._tier.take_removed()
            used = self._tier.take_used()
            if states or blocks:
                await self._attempt(self._tidier, self._files.remove, states, blocks)
            if used:
                await self._attempt(self._tidier, self._files.touch, used)
