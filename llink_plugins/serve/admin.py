"""Adapters that come and go while the server runs, for those who have an admin key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from llink.adapter.files import MANIFEST, adapters_in
from llink.errors import LlinkError
from llink_plugins.serve import failures
from llink_plugins.serve.serving import Serving
from llink_plugins.serve.shapes import Shape


class Adapter(Shape):
    """One that is in memory, and how many requests hold it."""

    name: str
    bytes: int
    users: int


class Adapters(Shape):
    """What is in memory, and what may be brought there."""

    loaded: list[Adapter]
    available: list[str]


class Wanted(Shape):
    """Which adapter a name is to stand for."""

    adapter: str | None = Field(
        None, max_length=200, description="A folder in one that the server was started with; else the installed one"
    )


def routes(serving: Serving) -> APIRouter:
    """``/admin/adapters`` of one server."""
    router, engine = APIRouter(prefix="/admin/adapters", tags=["admin"]), serving.engine

    @router.get("")
    def adapters() -> Adapters:
        """Those in memory, and the folders that may be named."""
        own = [Adapter(name=name, **sizes) for name, sizes in engine.stats()["adapters"].items()]
        roots = serving.settings.adapters
        return Adapters(loaded=own, available=sorted({folder.name for root in roots for folder in adapters_in(root)}))

    @router.put("/{name}", response_model=Adapters)
    def put(name: str, wanted: Wanted, request: Request) -> Any:
        """Load an adapter under CODE or CODE@NAME, or in the place of the one there; requests in flight end with that one."""
        folder = None if wanted.adapter is None else allowed(serving.settings.adapters, wanted.adapter)
        try:
            engine.add(name, folder)
        except LlinkError as error:
            if not error.code.startswith("E31"):
                raise
            path = request.url.path  # damaged, or made for other models: not the server's fault
            return failures.response(
                path, 422, failures.body(path, 422, str(error), error.code, error.message, error.hint)
            )
        return adapters()

    @router.delete("/{name}")
    def remove(name: str) -> Adapters:
        """Take one out of memory; requests in flight end with it."""
        engine.remove(name)
        return adapters()

    return router


def allowed(roots: tuple[Path, ...], name: str) -> Path:
    """The folder of an adapter by name, directly in one of the configured folders; E558 for any other."""
    if re.fullmatch(r"\w[\w.@-]*", name):
        for root in roots:
            place = (root / name).resolve()
            if place.parent == root.resolve() and os.path.isfile(place / MANIFEST):
                return place
    raise LlinkError(
        "E558",
        "There is no such adapter in the folders that the server was started with.",
        "GET /admin/adapters lists them.",
    )
