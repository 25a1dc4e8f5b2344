"""A translation model run by CTranslate2, in eight bits on a CPU: the quickest way there is to run these models."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from llink.errors import LlinkError
from llink.evaluation.translators import LIMIT, Spec, Translator, load, spoken, way
from llink.evaluation.translators.seq2seq import contents, described, reads
from llink.home import ensure_folder, home
from llink.progress import silence

if TYPE_CHECKING:
    from llink.interfaces import Language

WEIGHTS = "model.bin"


class FastTranslator(Translator):
    """The same model as ``Seq2SeqTranslator``, converted once into ``LLINK_HOME/ctranslate2``.

    Raises:
        LlinkError: E532 and E533, as ``open_translator``.
    """

    def __init__(self, spec: Spec, language: Language, device: str) -> None:
        if importlib.util.find_spec("ctranslate2") is None:
            raise LlinkError(
                "E532", "CTranslate2 is not installed.", 'pip install "llink[cascade]", or leave out ct2:.'
            )
        import ctranslate2

        self.language, self.name = language, spec.model
        self.tokenizer, self.config = load(spec, "AutoTokenizer"), load(spec, "AutoConfig")
        self.way = way(self.tokenizer, language, spec.source)
        kind = "cuda" if device.startswith("cuda") else "cpu"
        number = "int8" if kind == "cpu" else "float16"
        made = contents(spec, self.config)
        folder = home() / "ctranslate2" / f"{sha256(made.encode()).hexdigest()[:16]}-{number}"
        if not (folder / WEIGHTS).is_file():
            _convert(spec, folder, number)
        self.engine = ctranslate2.Translator(str(folder), device=kind, compute_type=number, intra_threads=_threads())
        self.beams = _beams(spec)
        self.bytes = (folder / WEIGHTS).stat().st_size
        self.signature = (
            f"{described(spec, self.config)}, CTranslate2 {ctranslate2.__version__}, {number}, beams {self.beams}"
        )
        self.fingerprint = sha256(f"{made} {self.signature}".encode()).hexdigest()
        if self.way.source:
            self.tokenizer.src_lang = self.way.source

    def sentences(self, texts: Sequence[str]) -> list[str]:
        """See ``Translator``; a sentence longer than the model reads is cut."""
        most = reads(self.tokenizer, self.config)
        ids = [self.tokenizer(self.way.prefix + text, truncation=True, max_length=most).input_ids for text in texts]
        first = [[self.way.target]] * len(texts) if self.way.target else None
        found = self.engine.translate_batch(
            [self.tokenizer.convert_ids_to_tokens(row) for row in ids],
            target_prefix=first,
            beam_size=self.beams,
            max_decoding_length=LIMIT,
            max_input_length=0,
        )
        return spoken(self.tokenizer, [self.tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found])


def _convert(spec: Spec, folder: Path, number: str) -> None:
    from ctranslate2.converters import TransformersConverter

    draft = ensure_folder(folder.parent) / f".{folder.name}.new-{os.getpid()}"
    try:
        with silence():
            TransformersConverter(spec.model, revision=spec.revision or None).convert(str(draft), quantization=number)
        os.replace(draft, folder)
    except Exception as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise LlinkError("E532", f"CTranslate2 cannot convert {spec.model}: {said}.", "Leave out ct2:.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beams(spec: Spec) -> int:
    try:
        return int(load(spec, "GenerationConfig").num_beams or 1)
    except LlinkError:  # an old model has none
        return 1


def _threads() -> int:
    import torch

    return torch.get_num_threads()
