"""LLINK: languages as modalities for a frozen decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llink.errors import LlinkError
    from llink.serving.chat import Foreign
    from llink.serving.engine import Engine

__version__ = "0.1.0"
__all__ = ["Engine", "Foreign", "LlinkError", "__version__"]


def __getattr__(name: str) -> Any:
    # torch is imported only when the engine is asked for, so that `llink --help` stays instant.
    if name == "Engine":
        from llink.serving.engine import Engine

        return Engine
    if name == "LlinkError":
        from llink.errors import LlinkError

        return LlinkError
    if name == "Foreign":
        from llink.serving.chat import Foreign

        return Foreign
    raise AttributeError(f"module 'llink' has no attribute '{name}'")
