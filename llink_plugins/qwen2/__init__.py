"""Qwen2 and Qwen2.5 instruction-tuned decoders: a judge that needs no hub, and a bigger decoder."""

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
    return [DecoderBackend("qwen2", load, ("Qwen2ForCausalLM",))]
