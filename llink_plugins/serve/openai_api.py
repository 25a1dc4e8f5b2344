"""OpenAI's API: models, chat, completions and embeddings."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from llink import plugins
from llink.adapter.prompt import TASKS
from llink.errors import LlinkError
from llink.serving.chat import Foreign, Plain
from llink.serving.reader import AUTO
from llink.serving.scheduler import TokenCount
from llink_plugins.serve import failures, shapes
from llink_plugins.serve.passages import parts
from llink_plugins.serve.serving import Serving
from llink_plugins.serve.work import unless_gone

ENGLISH = "en"
Make = Callable[[threading.Event], Iterator[str]]


def routes(serving: Serving) -> APIRouter:
    """``/v1/…`` of one server."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.get("/models")
    def models() -> shapes.Models:
        """Each language and adapter, `auto`, and the decoder without any."""
        return shapes.Models(data=[_model(name) for name in serving.names.all()])

    @router.get("/models/{name}")
    def model(name: str) -> shapes.Model:
        """One of them."""
        serving.names.language(name, AUTO)
        return _model(name)

    @router.post("/chat/completions", response_model=shapes.ChatResponse)
    async def chat(asked: shapes.ChatRequest, request: Request) -> Any:
        """The next turn of a conversation; foreign text anywhere in it goes through slots."""
        asked.max_tokens = asked.max_completion_tokens or asked.max_tokens
        make, reader = _conversation(serving, asked)
        ident = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        if asked.stream:
            chunk = {**ident, "object": "chat.completion.chunk"}

            def piece(text: str | None, end: str | None) -> dict[str, Any]:
                delta = {"role": "assistant", "content": ""} if text is None and not end else {"content": text}
                choice = {"index": 0, "delta": {} if end else delta, "logprobs": None, "finish_reason": end}
                return {**chunk, "choices": [choice]}

            return await _events(serving, request, make, reader, asked, piece, chunk, opens=True)
        texts, job = await serving.answer(request, make, reader)
        choice = shapes.ChatChoice(message=shapes.Said(content="".join(texts)), finish_reason=_finish(job.usage))
        return shapes.ChatResponse(**ident, choices=[choice], usage=_used(job.usage))

    @router.post("/completions", response_model=shapes.CompletionResponse)
    async def complete(asked: shapes.CompletionRequest, request: Request) -> Any:
        """Each prompt as a message of its own."""
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        serving.must_be_short(prompts)
        made = [_conversation(serving, asked, prompt) for prompt in prompts]
        ident = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
        if asked.stream:
            if len(prompts) > 1:
                raise LlinkError("E556", "A stream answers one prompt.", "Ask for each of them.")
            chunk = {**ident, "object": "text_completion"}

            def piece(text: str | None, end: str | None) -> dict[str, Any]:
                choice = {"index": 0, "text": text or "", "logprobs": None, "finish_reason": end}
                return {**chunk, "choices": [choice]}

            return await _events(serving, request, *made[0], asked, piece, chunk)
        choices, usages = [], []
        for index, (make, reader) in enumerate(made):
            texts, job = await serving.answer(request, make, reader)
            choices.append(shapes.TextChoice(index=index, text="".join(texts), finish_reason=_finish(job.usage)))
            usages.append(job.usage)
        return shapes.CompletionResponse(**ident, choices=choices, usage=_used(*usages))

    @router.post("/embeddings")
    async def embed(asked: shapes.EmbeddingRequest, request: Request) -> shapes.Embeddings:
        """Vectors of texts, in one space for foreign and English ones of a model."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        serving.must_be_short(texts)
        [(vectors, tokens)], _ = await serving.answer(request, lambda _: _vectors(serving, asked, texts))
        data = [
            shapes.Embedding(index=i, embedding=base64.b64encode(v.tobytes()).decode() if packed else v.tolist())
            for packed in [asked.encoding_format == "base64"]
            for i, v in enumerate(vectors)
        ]
        used = shapes.Used(prompt_tokens=tokens, total_tokens=tokens)
        return shapes.Embeddings(data=data, model=asked.model, usage=used)

    return router


def _model(name: str) -> shapes.Model:
    try:
        called = plugins.select(name).called
    except LlinkError:
        called = ""
    return shapes.Model(id=name, name=called)


def _conversation(serving: Serving, asked: shapes.Asked, prompt: str | None = None) -> tuple[Make, str]:
    """How an answer is made, and which adapter is going to read the text.

    Args:
        prompt: of a completion; a chat has its messages.
    """
    language = serving.names.language(asked.model, asked.language)
    messages = [shapes.Message(role="user", content=prompt)] if prompt is not None else getattr(asked, "messages", [])
    serving.must_be_short(text for message in messages for text in _texts(message))
    options = {**asked.options(serving.settings.max_tokens), "timeout": serving.patience(asked.timeout)}
    engine = serving.engine
    if asked.task is not None:
        text = "\n".join(_texts(messages[-1]))
        reader = serving.reader(text, language)
        told = f"{TASKS[asked.task]}\n{text}" if language is None else text

        def make(cancel: threading.Event) -> Iterator[str]:
            return engine.stream(told, language, task=asked.task, cancel=cancel, **options)

    else:
        turns = [(_role(message), _contents(serving, message, language)) for message in messages]
        foreign = [part for _, own in turns for part in own if isinstance(part, Foreign)]
        reader = serving.reader(foreign[0].text, foreign[0].language) if foreign else "none"

        def make(cancel: threading.Event) -> Iterator[str]:
            told = [{"role": role, "content": own} for role, own in turns]
            return engine.stream_chat(told, cancel=cancel, **options)

    return lambda cancel: _until(make(cancel), asked.stops()), reader


def _role(message: shapes.Message) -> str:
    return "system" if message.role == "developer" else message.role


def _texts(message: shapes.Message) -> list[str]:
    content = message.content
    return [content] if isinstance(content, str) else [part.text for part in content]


def _contents(serving: Serving, message: shapes.Message, language: str | None) -> list[str | Foreign]:
    """The parts of a message, those that are foreign told apart; none is for the bare decoder."""
    given = message.content
    rows = [(given, None)] if isinstance(given, str) else [(part.text, part.language) for part in given]
    if language is None:
        return [Plain("\n".join(text for text, _ in rows))]
    found: list[str | Foreign] = []
    for text, own in rows:
        if own == ENGLISH:
            found.append(Plain(text))
        elif own:
            found.append(Foreign(text, own))
        else:
            found += [p if isinstance(p, Foreign) else Plain(p) for p in parts(text, language, serving.names.scripts())]
    return found


def _until(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Pieces of an answer up to the first of ``stops``."""
    most, held = max(map(len, stops), default=1) - 1, ""
    with closing(pieces):  # type: ignore[type-var]
        for piece in pieces:
            held += piece
            ends = [held.find(stop) for stop in stops if stop in held]
            if ends:
                yield held[: min(ends)]
                return
            if len(held) > most:
                yield held[: len(held) - most]
                held = held[len(held) - most :]
    if held:
        yield held


def _finish(usage: TokenCount) -> Any:
    return "length" if usage.cut else "stop"


def _used(*usages: TokenCount) -> shapes.Used:
    prompt, answer, slots, raw = (sum(getattr(u, n) for u in usages) for n in ("prompt", "answer", "slots", "raw"))
    return shapes.Used(
        prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer, slots=slots, raw_tokens=raw
    )


class Events(StreamingResponse):
    """Server-sent events; where the client leaves, whoever makes them hears of it at once."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        body: Any = self.body_iterator
        async with aclosing(body):
            await super().stream_response(send)


async def _events(
    serving: Serving,
    request: Request,
    make: Make,
    reader: str,
    asked: shapes.Asked,
    piece: Callable[[str | None, str | None], dict[str, Any]],
    chunk: dict[str, Any],
    opens: bool = False,
) -> Events:
    """A stream that begins with its first piece: what goes wrong before it has its own status."""
    job = serving.job(request, make)
    pieces = job.pieces()
    first = await unless_gone(request, _next(pieces))

    async def told() -> AsyncIterator[str]:
        try:
            async with aclosing(pieces):  # type: ignore[type-var]
                if opens:
                    yield _event(piece(None, None))
                if first is not None:
                    yield _event(piece(first, None))
                async for text in pieces:
                    yield _event(piece(text, None))
            yield _event(piece(None, _finish(job.usage)))
            if asked.stream_options and asked.stream_options.include_usage:
                yield _event({**chunk, "choices": [], "usage": _used(job.usage)})
            yield "data: [DONE]\n\n"
        except LlinkError as error:
            yield _event(failures.of(error)[1])
        finally:
            serving.metrics.count(job.usage, reader, job.first, job.last)

    return Events(told(), headers={"Cache-Control": "no-store"})


async def _next(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


def _event(content: dict[str, Any]) -> str:
    plain = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in content.items()}
    return f"data: {json.dumps(plain)}\n\n"


def _vectors(serving: Serving, asked: shapes.EmbeddingRequest, texts: Sequence[str]) -> Iterator[Any]:
    """The vectors of texts as arrays, and the tokens that the encoder read."""
    engine = serving.engine
    english = asked.language == ENGLISH
    language = serving.names.language(asked.model, AUTO if english else asked.language)
    if language is None:
        raise LlinkError("E555", f"The model '{asked.model}' makes no vectors.", "Take one with an adapter.")
    kinds: dict[int, str | None] = {}
    for i, text in enumerate(texts):
        scripts = serving.names.scripts()
        plain = english or (asked.language == AUTO and all(isinstance(p, str) for p in parts(text, AUTO, scripts)))
        kinds[i] = None if plain and text.strip() else engine.adapter_of(text, language)
    codes = [code for code in kinds.values() if code]
    if not codes and language == AUTO:
        raise LlinkError(
            "E556", "English texts have their vectors beside those of a language.", "Say which by `model`."
        )
    home = codes[0] if codes else language
    found: dict[int, Any] = {}
    for code in dict.fromkeys(kinds.values()):
        mine = [i for i in kinds if kinds[i] == code]
        own = [texts[i] for i in mine]
        vectors = engine.embed_english(own, home) if code is None else engine.embed(own, code)
        found |= dict(zip(mine, vectors.float().cpu().tolist(), strict=True))
    tokens = engine.reader.passages(texts, engine.resident(str(home)))
    yield [array("f", found[i]) for i in range(len(texts))], sum(len(piece.tokens) for piece in tokens)
