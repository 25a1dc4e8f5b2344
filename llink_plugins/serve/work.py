"""The engine's answers, which are made in threads, for the server, which waits in one: who may ask, and who has left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from llink.errors import LlinkError
from llink.serving.scheduler import TokenCount, asking
from llink_plugins.serve.settings import Settings

Piece = TypeVar("Piece")
Made = TypeVar("Made")
LEFT = 499
"""What the log says of a client that left before its answer; nobody is there to read it."""


class Gone(Exception):
    """The client has left."""


@dataclass
class Job(Generic[Piece]):
    """One answer on its way.

    Attributes:
        usage: what it took, and takes still. first, last: seconds until then.
    """

    work: Work
    client: str
    make: Callable[[threading.Event], Iterator[Piece]]
    usage: TokenCount = field(default_factory=TokenCount)
    first: float = 0.0
    last: float = 0.0

    async def pieces(self) -> AsyncIterator[Piece]:
        """As they are made; one who stops listening, or is cancelled, ends it at its next token.

        Raises:
            LlinkError: E557 where too much is asked for at once, and what the engine raises.
        """
        self.work.enter(self.client)
        loop, news, cancel = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()
        began = time.monotonic()

        def tell(item: Any) -> None:
            with suppress(RuntimeError):  # the loop has been closed over it
                loop.call_soon_threadsafe(news.put_nowait, item)

        def run() -> None:
            try:
                with asking(self.client) as self.usage:
                    for piece in self.make(cancel):
                        tell((piece,))
                tell(None)
            except BaseException as error:
                tell(error)
            finally:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self.work.leave, self.client)

        try:
            self.work.pool.submit(run)
        except RuntimeError:  # it is being shut down
            self.work.leave(self.client)
            raise LlinkError("E557", "The server is ending.", "Ask again in a moment.") from None
        try:
            while (item := await news.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                self.first = self.first or time.monotonic() - began
                yield item[0]
        finally:
            cancel.set()
            self.last = time.monotonic() - began


class Work:
    """Threads for as many answers as may be made at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="llink-serve")
        self.active: Counter[str] = Counter()
        self.named = set(settings.keys.names.values())

    def enter(self, client: str) -> None:
        """Count one more of a client's requests; E557 where that is one too many."""
        if self.active.total() >= self.settings.max_requests:
            raise LlinkError("E557", "The server answers as many requests as it can.", "Ask again in a moment.")
        if client in self.named and self.active[client] >= self.settings.per_key:
            raise LlinkError(
                "E557", f"{self.settings.per_key} requests with this key are being answered.", "Let one of them end."
            )
        self.active[client] += 1

    def leave(self, client: str) -> None:
        """It has ended, or its thread has."""
        self.active[client] -= 1
        self.active += Counter()  # forgets those with none


async def unless_gone(request: Request, making: Coroutine[Any, Any, Made]) -> Made:
    """What is made, or ``Gone`` as soon as the client is; the body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(making), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
