"""LLINK's own address: as many answers as texts, as ``llink.serving.answers.answer_all`` gives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from llink import plugins
from llink.errors import LlinkError
from llink.serving.answers import answer_all
from llink.serving.reader import AUTO
from llink_plugins.serve.serving import Serving
from llink_plugins.serve.shapes import Shape


class Question(Shape):
    """Texts, and what is asked about each."""

    texts: Annotated[list[str], Field(max_length=256)]
    language: str = Field(AUTO, max_length=200)
    task: Literal["translate", "summarize", "title", "keypoints", "qa"] | None = "translate"
    instruction: str | None = Field(None, max_length=10_000)
    max_new_tokens: int = Field(128, ge=1, le=1 << 20)
    verbatim: bool = True
    loop_guard: bool = True


class Refusal(BaseModel):
    """Why a text was refused."""

    code: str
    message: str
    hint: str


class One(BaseModel):
    """What became of a text, see ``llink.serving.answers.Answer``."""

    output: str
    language: str | None
    adapter: str | None
    note: str | None
    error: Refusal | None


class Answers(BaseModel):
    """In the order of the texts."""

    answers: list[One]


def routes(serving: Serving) -> APIRouter:
    """``/v1/answers`` of one server."""
    router = APIRouter(prefix="/v1", tags=["LLINK"])

    @router.post("/answers")
    async def answers(asked: Question, request: Request) -> Answers:
        """An answer for each text; what needs no reading passes through, and a bad text is refused by itself."""
        serving.must_be_short(asked.texts)
        language = AUTO if asked.language == AUTO else str(plugins.select(asked.language))
        options = asked.model_dump(exclude={"texts", "language", "max_new_tokens"})
        options["max_new_tokens"] = min(asked.max_new_tokens, serving.settings.max_tokens)

        def make(cancel: threading.Event) -> Iterator[list[One]]:
            more = {"timeout": serving.patience(), "cancel": cancel}
            found = answer_all(lambda _: serving.engine, asked.texts, language, **options, **more)
            yield [
                One(output=a.output, language=a.language, adapter=a.adapter, note=a.note, error=_refusal(a.error))
                for a in found
            ]

        reader = serving.reader(asked.texts[0] if asked.texts else "", language)
        [found], _ = await serving.answer(request, make, reader)
        return Answers(answers=found)

    return router


def _refusal(error: LlinkError | None) -> Refusal | None:
    return Refusal(code=error.code, message=error.message, hint=error.hint) if error else None
