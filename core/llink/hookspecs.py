"""The pluggy hooks: what a plugin may register."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from llink.interfaces import DecoderBackend, EncoderBackend, InjectorKind, Language, LossTerm, PairReader, ProjectorKind

if TYPE_CHECKING:
    import click

hookspec = pluggy.HookspecMarker("llink")
hookimpl = pluggy.HookimplMarker("llink")


@hookspec
def llink_languages() -> list[Language]:  # type: ignore[empty-body]
    """Languages that this plugin brings."""


@hookspec
def llink_encoders() -> list[EncoderBackend]:  # type: ignore[empty-body]
    """Encoder backends that this plugin brings."""


@hookspec
def llink_decoders() -> list[DecoderBackend]:  # type: ignore[empty-body]
    """Decoder backends that this plugin brings."""


@hookspec
def llink_readers() -> list[PairReader]:  # type: ignore[empty-body]
    """Formats of parallel text that this plugin reads."""


@hookspec
def llink_losses() -> list[LossTerm]:  # type: ignore[empty-body]
    """Losses that recipes may weight."""


@hookspec
def llink_projectors() -> list[ProjectorKind]:  # type: ignore[empty-body]
    """Projectors that recipes may choose."""


@hookspec
def llink_injectors() -> list[InjectorKind]:  # type: ignore[empty-body]
    """Slot injectors that recipes may choose."""


@hookspec
def llink_commands(cli: click.Group) -> None:
    """Commands for ``llink``, added to ``cli``; what they need is imported when they run."""
