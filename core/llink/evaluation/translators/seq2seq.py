"""A translation model run by transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink.evaluation.translators import LIMIT, Spec, Translator, load, spoken, way

if TYPE_CHECKING:
    from llink.interfaces import Language


class Seq2SeqTranslator(Translator):
    """Decodes as the model's own generation config says, beams included, but without sampling.

    Args:
        device: where it computes, in the number format that suits it.

    Raises:
        LlinkError: E532 and E533, as ``open_translator``.
    """

    def __init__(self, spec: Spec, language: Language, device: str) -> None:
        from llink.store.models import default_dtype

        self.language, self.name = language, spec.model
        self.tokenizer = load(spec, "AutoTokenizer")
        self.way = way(self.tokenizer, language, spec.source)
        dtype = default_dtype(device)
        self.model = load(spec, "AutoModelForSeq2SeqLM", dtype=dtype).eval().to(device)
        self.bytes = sum(p.nbytes for p in self.model.parameters())
        beams = self.model.generation_config.num_beams or 1
        self.signature = (
            f"{described(spec, self.model.config)}, transformers, {str(dtype).removeprefix('torch.')}, beams {beams}"
        )
        self.fingerprint = hashlib.sha256(f"{contents(spec, self.model.config)} {self.signature}".encode()).hexdigest()
        if self.way.source:
            self.tokenizer.src_lang = self.way.source

    def sentences(self, texts: Sequence[str]) -> list[str]:
        """See ``Translator``; a sentence longer than the model reads is cut."""
        import torch

        batch = self.tokenizer(
            [self.way.prefix + text for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=reads(self.tokenizer, self.model.config),
        ).to(self.model.device)
        first = (
            {"forced_bos_token_id": self.tokenizer.convert_tokens_to_ids(self.way.target)} if self.way.target else {}
        )
        with torch.inference_mode():
            out = self.model.generate(
                **{key: batch[key] for key in ("input_ids", "attention_mask")},
                max_new_tokens=LIMIT,
                do_sample=False,
                **first,
            )
        return spoken(self.tokenizer, out.tolist())


def reads(tokenizer: Any, config: Any) -> int:
    """Tokens of a sentence at most. A T5 has no end of places, and its tokenizer says so with 1e30."""
    return int(min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 1024, 1024))


def described(spec: Spec, config: Any) -> str:
    """Name and, of a repository, the commit."""
    commit = getattr(config, "_commit_hash", None) or spec.revision
    return f"{spec.model}@{commit[:12]}" if commit else Path(spec.model).name


def contents(spec: Spec, config: Any) -> str:
    """What tells one model from another: the commit of a repository, the files of a folder."""
    from llink.store.fetch import file_sha256

    folder = Path(spec.model)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None) or spec.revision)
    return " ".join(f"{path.name} {file_sha256(path)}" for path in sorted(folder.iterdir()) if path.is_file())
