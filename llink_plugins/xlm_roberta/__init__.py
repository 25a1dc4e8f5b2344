"""XLM-RoBERTa as a frozen multilingual encoder, as in the paper: last layer, mean-pooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import Encoder, EncoderBackend


def load(path: Path, **options: Any) -> Encoder:
    """512 positions, two of them taken by <s> and </s>."""
    from llink_plugins.huggingface.encoder import HuggingFaceEncoder

    return HuggingFaceEncoder(path, **{"max_tokens": 510, **options})


@hookimpl
def llink_encoders() -> list[EncoderBackend]:
    return [EncoderBackend("xlm_roberta", load, ("XLMRobertaModel", "XLMRobertaForMaskedLM"))]
