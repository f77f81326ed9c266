"""`Mover`: carries states between memory and their files, on threads of its own, while the engine steps on.

It asks the disk tier what to do, has it done, and tells how it went, all of that on the event loop; only the calls of
`StateFiles` are made elsewhere.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from engine.cache.disk import DiskTier, Load, Save
from engine.filing import FileDamaged, StateFiles

logger = logging.getLogger(__name__)

AFTER_TROUBLE_SECONDS = 30.0  # until the next try to write, when the disk is full
FLUSH_SECONDS = 5.0  # for what is not yet written when the engine closes


class Mover:
    """Moves for one disk tier. `on_loaded` is called when a state that somebody waits for has come, or not."""

    def __init__(self, disk: DiskTier, files: StateFiles, on_loaded: Callable[[], None]) -> None:
        self._disk = disk
        self._files = files
        self._on_loaded = on_loaded
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltaloop-write")
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltaloop-read")
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._loads: set[asyncio.Task[None]] = set()
        self._saving: asyncio.Task[None] | None = None
        self._trouble_until = 0.0

    def start(self) -> None:
        """Begin to write what is worth it."""
        self._saving = asyncio.create_task(self._save_all(), name="deltaloop-mover")

    def notice(self) -> None:
        """There may be more to write or remove."""
        self._news.set()

    def begin_loads(self) -> None:
        """Have those read that the scheduler asked for."""
        for load in self._disk.take_loads():
            task = asyncio.create_task(self._load(load))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    async def close(self) -> None:
        """Write what is not yet written, if that takes no more than a moment, and stop."""
        self._closing.set()
        self._news.set()
        if self._saving is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._saving), FLUSH_SECONDS)
            self._saving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._saving
        await asyncio.gather(*self._loads)
        self._writer.shutdown()
        self._reader.shutdown()

    # --- reading --------------------------------------------------------------------------------------------------

    async def _load(self, load: Load) -> None:
        damage: FileDamaged | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._reader, self._files.read, load.transfer)
        except FileDamaged as error:
            damage = error
            logger.warning("a kept state on disk cannot be used, its prompt is read again: %s", error)
        self._disk.loaded(load, damage)
        self._news.set()
        self._on_loaded()

    # --- writing --------------------------------------------------------------------------------------------------

    async def _save_all(self) -> None:
        while True:
            self._news.clear()
            await self._tidy()
            in_trouble = self._trouble_until - time.monotonic()
            save = self._disk.next_save(settled=not self._closing.is_set()) if in_trouble <= 0 else None
            if save is not None:
                await self._save(save)
                continue
            if self._closing.is_set():
                return
            pause = in_trouble if in_trouble > 0 else self._disk.next_save_in
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)

    async def _save(self, save: Save) -> None:
        in_thread, files = asyncio.get_running_loop().run_in_executor, self._files
        is_published = False
        try:
            await in_thread(self._writer, files.write, save.transfer)
            if self._disk.is_sound(save):
                await in_thread(self._writer, files.publish, save.transfer)
                is_published = True
        except OSError as error:
            logger.warning("a state could not be written to disk, the next try is in a while: %s", error)
            self._trouble_until = time.monotonic() + AFTER_TROUBLE_SECONDS
        finally:
            if not is_published:
                self._writer.submit(files.discard, save.transfer)
            self._disk.saved(save, is_published)

    async def _tidy(self) -> None:
        """Names of files that are not wanted any more go before anything is written under them."""
        states, blocks = self._disk.take_removed()
        used = self._disk.take_used()
        in_thread = asyncio.get_running_loop().run_in_executor
        if states or blocks:
            await in_thread(self._writer, self._files.remove, states, blocks)
        if used:
            await in_thread(self._writer, self._files.touch, used)
