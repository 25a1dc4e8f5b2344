"""What a client reads when it does not get an answer: a status, and the error in the shape that its API has."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llink.errors import LlinkError

RETRY = 2
"""Seconds after which one that was turned away may come again."""
LIBRETRANSLATE = ("/translate", "/detect", "/languages")
STATUS = {
    **dict.fromkeys(
        ("E201", "E501", "E502", "E503", "E504", "E509", "E510", "E511", "E516", "E517", "E518", "E541"), 422
    ),
    "E301": 404,
    "E512": 503,
    "E513": 429,
    "E514": 504,
    "E515": 404,
    "E555": 404,
    "E556": 422,
    "E557": 429,
    "E558": 403,
}
"""The status of each error that is not the server's own fault."""
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "server_error",
    504: "timeout_error",
}


def body(
    path: str, status: int, message: str, code: str | None = None, what: str = "", hint: str = ""
) -> dict[str, Any]:
    """The error as OpenAI's clients read it, or as LibreTranslate's do."""
    if path in LIBRETRANSLATE:
        return {"error": message}
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = {"message": message, "type": kind, "param": None, "code": code}
    return {"error": told | ({"what": what, "hint": hint} if what else {})}


def of(error: LlinkError, path: str = "") -> tuple[int, dict[str, Any]]:
    """Status and body of an error with a code; what the server has done wrong itself is not told in detail."""
    status = STATUS.get(error.code, 500)
    if path in LIBRETRANSLATE and status == 422:
        status = 400
    if status == 500:
        return status, body(path, status, "The server cannot answer; its log says why.", error.code)
    return status, body(path, status, str(error), error.code, error.message, error.hint)


def response(path: str, status: int, content: dict[str, Any]) -> JSONResponse:
    """A failure as it goes out."""
    headers = {"Retry-After": str(RETRY)} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, status, headers)


async def llink_error(request: Request, error: Exception) -> Response:
    """For ``LlinkError``."""
    assert isinstance(error, LlinkError)
    request.scope["llink.failed"] = error.code
    return response(request.url.path, *of(error, request.url.path))


async def http_error(request: Request, error: Exception) -> Response:
    """For addresses and methods that are not there."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    return response(path, error.status_code, body(path, error.status_code, str(error.detail)))


async def invalid(request: Request, error: Exception) -> Response:
    """For a body of another shape: which fields, without what was in them."""
    assert isinstance(error, RequestValidationError)
    rows = [
        f"{'.'.join(str(part) for part in e['loc'] if part != 'body') or 'body'}: {e['msg']}" for e in error.errors()
    ]
    path = request.url.path
    message = "; ".join(rows[:5]).encode("ascii", "backslashreplace").decode()[:500]
    return response(path, 422, body(path, 422, message, "E556"))


async def mistake(request: Request, error: Exception) -> Response:
    """For a mistake of ours, which the gate has in the log."""
    path = request.url.path
    return response(path, 500, body(path, 500, "The server made a mistake; its log says which."))
