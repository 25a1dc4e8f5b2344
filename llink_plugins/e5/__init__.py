"""Multilingual E5 as a frozen encoder: last layer, mean over the text's own tokens, the prefix ``query: ``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import Encoder, EncoderBackend


def load(path: Path, **options: Any) -> Encoder:
    """512 positions, less <s>, </s> and the three tokens of the prefix. arXiv 2402.05672."""
    from llink_plugins.huggingface.encoder import HuggingFaceEncoder

    return HuggingFaceEncoder(path, **{"max_tokens": 507, "prefix": "query: ", **options})


@hookimpl
def llink_encoders() -> list[EncoderBackend]:
    return [EncoderBackend("e5", load)]
