"""The page of a server: three files of this package, which nothing is fetched for from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from llink_plugins.serve.serving import Serving

FOLDER = Path(__file__).parent / "web"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PATHS = tuple(FILES)
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What the browser may do for it: read these files and ask this server, whatever an answer says."""


def routes(serving: Serving) -> APIRouter:
    """``/`` and what it needs."""
    router = APIRouter(include_in_schema=False)
    for path, (name, kind) in FILES.items():
        router.add_api_route(path, _giving((FOLDER / name).read_bytes(), kind), methods=["GET"])
    return router


def _giving(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

    async def file() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

    return file
