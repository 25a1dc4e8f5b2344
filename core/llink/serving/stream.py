"""An answer in pieces, as the decoder makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from llink.serving.scheduler import Request, Row


def streamed(
    parts: Sequence[Row | str],
    request: Request,
    submit: Callable[[Request], Any],
    text: Callable[[Sequence[int]], str],
) -> Iterator[str]:
    """The answers of rows and what stands in the place of others, a space between; joined they are the whole answer.

    Args:
        parts: in order; those that are rows are the request's.
        submit: begins with the request.
        text: of the ids of an answer.

    Raises:
        LlinkError: what ended the request. One that nobody listens to any more is given up.
    """
    news: SimpleQueue[None] = SimpleQueue()
    for row in request.rows:
        row.on_tokens = lambda: news.put(None)
    request.future.add_done_callback(lambda _: news.put(None))
    if request.rows:
        submit(request)
    try:
        for number, part in enumerate(parts):
            if number:
                yield " "
            yield from [part] if isinstance(part, str) else _growing(part, request, news, text)
        if request.rows:
            request.result()
    finally:
        request.give_up()


def _growing(
    row: Row, request: Request, news: SimpleQueue[None], text: Callable[[Sequence[int]], str]
) -> Iterator[str]:
    said = ""
    while not row.done:
        with suppress(Empty):
            news.get(timeout=request.patience)
        if request.given_up() and not row.done:
            request.result()  # raises what ended it
        now = text(row.ids)
        # A character may still be half there, and white space at the end may be cut off with the answer.
        if now.startswith(said) and not now.endswith("\ufffd") and now != said:
            yield now[len(said) :]
            said = now
    now = text(row.ids)
    if now.startswith(said) and now != said:
        yield now[len(said) :]
