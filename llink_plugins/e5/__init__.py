"""Multilingual E5 as a frozen encoder: the mean of the last layer over the text's own tokens, the prefix ``query: ``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import Encoder, EncoderBackend


def load(path: Path, **options: Any) -> Encoder:
    """512 positions, less <s>, </s> and the three tokens of the prefix (arXiv 2402.05672).

    ``layer`` is that of the token states; what is pooled is the last layer, which was trained for it, whatever ``layer``.
    """
    from transformers import AutoConfig

    from llink_plugins.huggingface.encoder import HuggingFaceEncoder

    depth = AutoConfig.from_pretrained(path, local_files_only=True).num_hidden_layers
    return HuggingFaceEncoder(path, **{"max_tokens": 507, "prefix": "query: ", "pooled_layer": depth, **options})


@hookimpl
def llink_encoders() -> list[EncoderBackend]:
    return [EncoderBackend("e5", load)]
