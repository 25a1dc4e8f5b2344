"""The application: every route behind the gate, over one engine."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from llink import __version__
from llink.errors import LlinkError
from llink.serving.engine import Engine
from llink_plugins.serve import admin, answers, failures, libretranslate, openai_api, page
from llink_plugins.serve.gate import Gate
from llink_plugins.serve.serving import Serving
from llink_plugins.serve.settings import Settings


def make_app(engine: Engine, settings: Settings, encoder: str) -> Gate:
    """The server as an ASGI application.

    Args:
        encoder: name of the encoder, by which adapters are found.
    """
    serving = Serving(engine, settings, encoder)
    app = FastAPI(
        title="LLINK",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        description="A small English language model answers about text in a language it cannot read.",
    )
    app.state.serving = serving
    app.add_exception_handler(LlinkError, failures.llink_error)
    app.add_exception_handler(HTTPException, failures.http_error)
    app.add_exception_handler(RequestValidationError, failures.invalid)
    app.add_exception_handler(Exception, failures.mistake)
    for part in (openai_api, libretranslate, answers, admin, page):
        app.include_router(part.routes(serving))

    @app.get("/health", tags=["server"])
    async def health() -> dict[str, str]:
        """It runs."""
        return {"status": "ok"}

    @app.get("/ready", tags=["server"])
    async def ready() -> Any:
        """It answers: models are loaded, and it is not ending."""
        closed = engine.closed
        return JSONResponse({"status": "ending" if closed else "ready"}, 503 if closed else 200)

    @app.get("/metrics", tags=["server"])
    def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(serving.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Gate(app, settings, serving.metrics.ended, page.PATHS)
