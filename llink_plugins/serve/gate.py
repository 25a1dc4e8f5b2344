"""What every request passes before anything else: its host, key, size and pace; and what the log says of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import traceback
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llink_plugins.serve import failures
from llink_plugins.serve.settings import Settings
from llink_plugins.serve.work import Gone

OPEN = ("/health", "/ready", "/openapi.json", *failures.LIBRETRANSLATE)
"""What needs no key; LibreTranslate's clients have theirs in the body, and it is looked at there."""
SWALLOWED = 32 << 20
"""Bytes of a body that is too large which are still read, so that its sender hears why."""
log = logging.getLogger("llink.serve")


class Gate:
    """ASGI middleware around the whole application.

    Args:
        told: called with route, status and seconds of each request that ended.
        open_paths: the page and its parts, which need no key either.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        told: Callable[[str, int, float], None],
        open_paths: tuple[str, ...] = (),
    ) -> None:
        self.app, self.settings, self.told = app, settings, told
        self.open = {*OPEN, *open_paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            refused = await self._refused(scope, receive)
            if isinstance(refused, int):
                content = failures.body(scope["path"], refused, _REASONS[refused], "E556", _REASONS[refused])
                await failures.response(scope["path"], refused, content)(scope, receive, sent)
            else:
                await self.app(scope, refused, sent)
        except (Gone, ClientDisconnect):
            status = 0
        except Exception as error:
            self._tell(error)
        finally:
            took = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "other")
            # Neither the query nor anything of the body: these are people's texts.
            said = f" {scope['llink.failed']}" if "llink.failed" in scope else ""
            who = scope.get("llink.client", "-")
            log.info("%s %s %s%s %.0f ms, %s", scope["method"], route, status or "gone", said, took * 1000, who)
            self.told(route, status, took)

    async def _refused(self, scope: Scope, receive: Receive) -> int | Receive:
        """The status that a request is refused with, or where its body is read from."""
        headers, path = Headers(scope=scope), scope["path"]
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        # A page elsewhere may have its own name point here, or send a form here, in the browser of someone on this machine.
        if self.settings.loopback and host not in ("127.0.0.1", "localhost", "::1", self.settings.host):
            return 403
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403
        address = scope.get("client") or ("?", 0)
        scope["llink.client"] = f"{address[0]}:{address[1]}"
        if path.startswith("/admin/"):
            holder = self.settings.admin.holder(_bearer(headers))
            if holder is None:
                return 401 if self.settings.admin else 403
            scope["llink.client"] = holder
        elif self.settings.keys and path not in self.open:
            holder = self.settings.keys.holder(_bearer(headers))
            if holder is None:
                return 401
            scope["llink.client"] = holder
        try:
            # In one piece, at once: nobody's slow body keeps a thread or a row.
            body = await asyncio.wait_for(self._body(headers, receive), self.settings.body_timeout)
        except asyncio.TimeoutError:
            return 408
        return 413 if body is None else _replayed(_whole(body), receive)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """All of it; None where it is too large."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size <= self.settings.max_bytes:
                parts.append(part)
            elif size > SWALLOWED:
                break
        return b"".join(parts) if size <= self.settings.max_bytes else None

    def _tell(self, error: Exception) -> None:
        """In the log goes where a mistake of ours was made, and not what was said: that may hold a text."""
        if os.environ.get("LLINK_DEBUG", "") not in ("", "0"):
            log.exception("LLINK_DEBUG: texts may follow")
            return
        last = traceback.extract_tb(error.__traceback__)[-1]
        log.error("[bug] %s in %s, line %s of %s", type(error).__name__, last.name, last.lineno, last.filename)


_REASONS = {
    401: "This server wants a key: Authorization: Bearer KEY.",
    403: "Not from there.",
    408: "The request came too slowly.",
    413: "The request is too large.",
}


def _bearer(headers: Headers) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def _whole(body: bytes) -> bytes:
    """JSON in which half a character, which UTF-8 has no bytes for, is a question mark."""
    if b"\\ud" not in body.lower():
        return body
    try:
        return json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
