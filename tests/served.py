"""A server of this process for tests, on a port of its own: real HTTP over the tiny models."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llink import Engine
from llink_plugins.serve.process import listen, server
from llink_plugins.serve.serving import Serving
from llink_plugins.serve.settings import Settings


@dataclass
class Served:
    """Where it is, and what it is made of."""

    url: str
    engine: Engine
    serving: Serving

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def idle(self, seconds: float = 10.0) -> bool:
        """Whether all work ends within some seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.serving.work.active.total() and not len(self.engine._scheduler):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serve(engine: Engine, encoder: str, **settings: Any) -> Iterator[Served]:
    """A server until the block ends."""
    settings = {"port": 0, **settings}
    listening = listen(Settings(**settings))
    uvicorn = server(engine, Settings(**settings), encoder)
    app: Any = uvicorn.config.app
    thread = threading.Thread(target=lambda: asyncio.run(uvicorn.serve([listening])), daemon=True)
    thread.start()
    while not uvicorn.started:
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", engine, app.app.state.serving)
    finally:
        uvicorn.should_exit = True
        thread.join(20)
