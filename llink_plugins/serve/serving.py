"""What all routes share: the engine, the settings, the names of the models, the threads and the counters."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from llink.errors import LlinkError
from llink.serving.engine import Engine
from llink.serving.reader import AUTO, MAX_CHARS
from llink_plugins.serve.metrics import Metrics
from llink_plugins.serve.names import Names
from llink_plugins.serve.settings import Settings
from llink_plugins.serve.work import Job, Piece, Work, unless_gone


class Serving:
    """One server.

    Args:
        encoder: name of the encoder, by which adapters are found.
    """

    def __init__(self, engine: Engine, settings: Settings, encoder: str) -> None:
        self.engine, self.settings = engine, settings
        self.names, self.work, self.metrics = Names(engine, encoder), Work(settings), Metrics(engine)

    def must_be_short(self, texts: Iterable[str]) -> None:
        """Refuse more text than a request may have; E511. What one text may have is for the engine to say."""
        count = sum(map(len, texts))
        if count > self.settings.max_chars:
            raise LlinkError(
                "E511",
                f"The texts have {count:,} characters; {self.settings.max_chars:,} is the limit of a request.",
                "Send them in several.",
            )

    def patience(self, asked: float | None = None) -> float:
        """Seconds that an answer may take."""
        return self.settings.timeout if asked is None else min(asked, self.settings.timeout)

    def reader(self, text: str, language: str | None) -> str:
        """Which adapter is going to read a text, for the counters: ``none`` for none."""
        if language is None or len(text) > MAX_CHARS:
            return "none"
        try:
            return self.engine.adapter_of(text, language)
        except LlinkError:
            return "none"

    def job(self, request: Request, make: Callable[[threading.Event], Iterator[Piece]]) -> Job[Piece]:
        """An answer for whoever sent this request."""
        return Job(self.work, request.scope["llink.client"], make)

    async def answer(
        self, request: Request, make: Callable[[threading.Event], Iterator[Piece]], reader: str = AUTO
    ) -> tuple[list[Piece], Job[Piece]]:
        """A whole answer, counted; one whose client leaves is given up."""
        job = self.job(request, make)
        try:
            return await unless_gone(request, _whole(job.pieces())), job
        finally:
            self.metrics.count(job.usage, reader, job.first, job.last)


async def _whole(pieces: AsyncIterator[Any]) -> list[Any]:
    async with aclosing(pieces) as closing:  # type: ignore[type-var]
        return [piece async for piece in closing]
