"""SmolLM2-Instruct: the embedded default decoder, a Llama architecture that reads English only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import Decoder, DecoderBackend


def load(path: Path, **options: Any) -> Decoder:
    """The generic decoder does it all: the family differs in its weights and template only."""
    from llink_plugins.huggingface.decoder import HuggingFaceDecoder

    return HuggingFaceDecoder(path, **options)


@hookimpl
def llink_decoders() -> list[DecoderBackend]:
    return [DecoderBackend("smollm2", load, ())]
