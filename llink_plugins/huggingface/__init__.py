"""Encoder and decoder backends for any Hugging Face checkpoint that no other plugin claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import Decoder, DecoderBackend, Encoder, EncoderBackend


def load_encoder(path: Path, **options: Any) -> Encoder:
    """An ``AutoModel``, last layer unless ``layer`` says otherwise."""
    from llink_plugins.huggingface.encoder import HuggingFaceEncoder

    return HuggingFaceEncoder(path, **options)


def load_decoder(path: Path, **options: Any) -> Decoder:
    """An ``AutoModelForCausalLM`` with a chat template."""
    from llink_plugins.huggingface.decoder import HuggingFaceDecoder

    return HuggingFaceDecoder(path, **options)


@hookimpl
def llink_encoders() -> list[EncoderBackend]:
    return [EncoderBackend("huggingface", load_encoder)]


@hookimpl
def llink_decoders() -> list[DecoderBackend]:
    return [DecoderBackend("huggingface", load_decoder)]
