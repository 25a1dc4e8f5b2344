"""LibreTranslate's API, for the clients that speak it: translate, detect, languages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import parse_qsl

from fastapi import APIRouter
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from llink import plugins
from llink.errors import LlinkError
from llink.language.text import script_counts
from llink.serving.answers import answer_all
from llink.serving.reader import AUTO
from llink_plugins.serve import failures
from llink_plugins.serve.serving import Serving

ENGLISH = "en"


class Translate(BaseModel):
    """What is to be translated; to English is all there is."""

    q: str | list[str]
    source: str = Field(AUTO, max_length=200)
    target: str = Field(ENGLISH, max_length=200)
    format: Literal["text"] = "text"
    api_key: str = Field("", max_length=500)


class Detect(BaseModel):
    """What it is in."""

    q: str
    api_key: str = Field("", max_length=500)


class Found(BaseModel):
    """A language that a text may be in, and how surely, of 100."""

    confidence: float
    language: str


class Translated(BaseModel):
    """One text, or a list where a list was asked for."""

    translatedText: str | list[str]
    detectedLanguage: Found | list[Found] | None = None


class Spoken(BaseModel):
    """A language, and what it is translated to."""

    code: str
    name: str
    targets: list[str] = [ENGLISH]


class Failure(BaseModel):
    """What went wrong."""

    error: str


def routes(serving: Serving) -> APIRouter:
    """The three addresses of one server."""
    router = APIRouter(tags=["LibreTranslate"], responses={c: {"model": Failure} for c in (400, 403, 429)})

    def accepts(shape: type[BaseModel]) -> dict[str, Any]:
        content = {kind: {"schema": shape.model_json_schema()} for kind in ("application/json", _FORM)}
        return {"requestBody": {"content": content, "required": True}}

    @router.get("/languages")
    async def languages(request: Request) -> list[Spoken]:
        """Those that have an adapter, and English."""
        known = plugins.languages()
        own = [Spoken(code=code, name=known[code].name) for code in serving.names.languages() if code in known]
        return [*own, Spoken(code=ENGLISH, name="English")]

    @router.post("/detect", response_model=list[Found], openapi_extra=accepts(Detect))
    async def detect(request: Request) -> Any:
        """By its script, and by the detectors of languages where several are written in it."""
        asked = await _read(serving, request, Detect)
        if isinstance(asked, JSONResponse):
            return asked
        serving.must_be_short([asked.q])
        [found], _ = await serving.answer(request, lambda _: iter([_detected(serving, asked.q)]))
        return found

    @router.post(
        "/translate", response_model=Translated, response_model_exclude_none=True, openapi_extra=accepts(Translate)
    )
    async def translate(request: Request) -> Any:
        """To English, line by line."""
        asked = await _read(serving, request, Translate)
        if isinstance(asked, JSONResponse):
            return asked
        if asked.target != ENGLISH:
            return _refused(400, f"{asked.target} is not supported as a target: English is all that comes out.")
        if asked.source not in (AUTO, ENGLISH) and asked.source not in serving.names.languages():
            return _refused(400, f"{asked.source} is not supported.")
        texts = [asked.q] if isinstance(asked.q, str) else asked.q
        serving.must_be_short(texts)
        lines = [text.split("\n") for text in texts]
        if asked.source == ENGLISH:
            return {"translatedText": asked.q}

        def make(cancel: Any) -> Iterator[Any]:
            options = {"task": "translate", "timeout": serving.patience(), "cancel": cancel}
            flat = [line for own in lines for line in own]
            yield answer_all(lambda _: serving.engine, flat, asked.source, **options)

        reader = serving.reader(texts[0] if texts else "", asked.source)
        [answers], _ = await serving.answer(request, make, reader)
        for answer in answers:
            if answer.error:
                raise answer.error
        said = iter([answer.output for answer in answers])
        outputs = ["\n".join(next(said) for _ in own) for own in lines]
        made: dict[str, Any] = {"translatedText": outputs[0] if isinstance(asked.q, str) else outputs}
        if asked.source == AUTO:
            found = [(_detected(serving, text) or [Found(confidence=0, language=ENGLISH)])[0] for text in texts]
            made["detectedLanguage"] = found[0] if isinstance(asked.q, str) else found
        return made

    return router


_FORM = "application/x-www-form-urlencoded"


async def _read(serving: Serving, request: Request, shape: type[Any]) -> Any:
    """What was asked, as JSON or as a form, by one who has a key where there is one; or why not."""
    kind, body = request.headers.get("content-type", "").partition(";")[0].strip().lower(), await request.body()
    try:
        if kind == "application/json":
            fields = json.loads(body)
        else:
            pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000)
            fields = dict(pairs)
            many = [value for name, value in pairs if name == "q"]
            if len(many) > 1:
                fields["q"] = many
        asked = shape.model_validate(fields)
    except ValidationError as error:
        rows = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        return _refused(400, "; ".join(rows[:5]).encode("ascii", "backslashreplace").decode()[:500])
    except (ValueError, RecursionError):
        return _refused(400, "The body is neither JSON nor a form in UTF-8.")
    bearer = request.headers.get("authorization", "").partition(" ")[2].strip()
    if serving.settings.keys:
        holder = serving.settings.keys.holder(asked.api_key or bearer)
        if holder is None:
            return _refused(403, "Invalid API key")
        request.scope["llink.client"] = holder
    return asked


def _refused(status: int, message: str) -> JSONResponse:
    return failures.response("", status, {"error": message})


def _detected(serving: Serving, text: str) -> list[Found]:
    try:
        code = serving.engine.detect(text)
    except LlinkError:
        letters = script_counts(text)
        return [Found(confidence=50, language=ENGLISH)] if set(letters) == {"LATIN"} else []
    likelihood = plugins.languages()[code].likelihood(text)
    return [Found(confidence=100.0 * (1.0 if likelihood is None else likelihood), language=code)]
