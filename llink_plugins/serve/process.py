"""The process of a server: its models, its socket, its log, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import click
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from llink.errors import LlinkError
from llink.progress import track
from llink.serving.engine import Engine
from llink.store.registry import load_registry
from llink_plugins.serve.app import make_app
from llink_plugins.serve.names import installed
from llink_plugins.serve.settings import Settings

HEADER_TIMEOUT = 10.0
"""Seconds that a connection may be open without having asked for anything whole."""


class Protocol(H11Protocol):
    """HTTP/1.1 that lets go of a connection which does not say what it wants."""

    silent: Any = None
    """The last request's state, where there has been nothing new since the look before this one."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.look = self.loop.call_later(HEADER_TIMEOUT / 2, self.let_go)

    def let_go(self) -> None:
        # Between two requests uvicorn has a clock of its own, until the first byte of the next one.
        idle = (self.cycle is None or self.cycle.response_complete) and self.timeout_keep_alive_task is None
        state = (id(self.cycle),) if idle else None
        if idle and state == self.silent:
            self.transport.close()
            return
        self.silent = state
        self.look = self.loop.call_later(HEADER_TIMEOUT / 2, self.let_go)

    def connection_lost(self, exc: Exception | None) -> None:
        self.look.cancel()
        super().connection_lost(exc)


def run(settings: Settings, encoder: str | None, decoder: str | None, **options: Any) -> None:
    """Load, listen, and answer until told to end.

    Raises:
        LlinkError: E553 where it cannot listen there, and those of ``Engine.load``.
    """
    listening = listen(settings)
    encoder = encoder or load_registry().default.encoder
    engine = Engine.load(encoder, decoder, **options)
    warm(engine, encoder, options.get("max_resident"))
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.INFO)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"llink: listening on http://{shown}:{port}", err=True)
    try:
        asyncio.run(server(engine, settings, encoder).serve([listening]))
    except KeyboardInterrupt:
        pass  # uvicorn says again what it was told, once all is done
    finally:
        engine.close()


def server(engine: Engine, settings: Settings, encoder: str) -> uvicorn.Server:
    """Uvicorn around the application; its own log of requests has their queries in it, and so is not kept."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    config = uvicorn.Config(
        make_app(engine, settings, encoder),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.grace),
        backlog=1024,
    )
    return uvicorn.Server(config)


def listen(settings: Settings) -> socket.socket:
    """A socket that listens; E553 where that cannot be."""
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=1024,
        )
    except OSError as error:
        raise LlinkError(
            "E553",
            f"Nobody can listen on {settings.host}, port {settings.port}: {error.strerror}.",
            "Give another --port.",
        ) from None


def warm(engine: Engine, encoder: str, most: int | None) -> None:
    """Bring the installed adapters into memory, as many as may be there, and the encoder with the first."""
    names = installed(encoder, engine.decoder.name)[:most]
    with track("Adapters", total=len(names), unit="adapter") as advance:
        for name in names:
            engine.resident(name)
            advance(1)
    if not names:
        click.echo("llink: no adapter is installed for this pair of models; only the bare decoder answers.", err=True)
