"""The shared adapter (code ``mul``): any language that the encoder reads, where there is no adapter of its own."""

from llink.hookspecs import hookimpl
from llink.interfaces import Language
from llink_shared.spoken import Shared


@hookimpl
def llink_languages() -> list[Language]:
    return [Shared("mul", "mul", "Shared", (), __name__)]
