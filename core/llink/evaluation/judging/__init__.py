"""The judge: a model that says which of two answers is better, without knowing whose they are."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

from llink.data.kept import Kept
from llink.home import ensure_folder
from llink.progress import track
from llink.store.endpoint import is_address

FIRST, SECOND, TIE, UNCLEAR = "A", "B", "tie", "unclear"
SYSTEM = "You are a careful and fair judge of answers."
BATCH = 8


@dataclass(frozen=True)
class Comparison:
    """Two answers to one instruction about one text, in the order in which the judge sees them."""

    instruction: str
    reference: str
    """What the text says, in English."""
    first: str
    second: str

    @property
    def prompt(self) -> str:
        """The judge's user message, ``prompt.txt`` filled in. Answers are put on one line each."""
        texts = {"instruction": self.instruction, "reference": self.reference, "a": self.first, "b": self.second}
        return _template().substitute({name: " ".join(text.split()) or "(nothing)" for name, text in texts.items()})


class Judge(ABC):
    """Says ``A``, ``B`` or ``tie`` to comparisons, or ``unclear`` where it said something else."""

    name: str
    signature: str
    """All that decides its verdicts but the prompt; verdicts are kept under it."""

    @abstractmethod
    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """A verdict a comparison.

        Raises:
            LlinkError: E526 when the judge cannot be asked.
        """


def open_judge(name: str, device: str = "auto") -> Judge:
    """A judge by name: ``http://HOST/v1#MODEL`` of an OpenAI-compatible endpoint, else a decoder of the registry or a folder.

    Raises:
        LlinkError: E526 for an address without a model, E1xx when a local model cannot be had.
    """
    if is_address(name):
        from llink.evaluation.judging.endpoint import EndpointJudge

        return EndpointJudge.at(name)
    from llink.evaluation.judging.local import LocalJudge
    from llink.store.models import load_decoder, pick_device

    return LocalJudge(load_decoder(name, device=pick_device(device)))


def ask(judge: Judge, comparisons: Sequence[Comparison], folder: Path, label: str = "Judging") -> list[str]:
    """Verdicts, those given before taken from ``folder``; a run that breaks off loses a batch at most."""
    log = ensure_folder(folder) / f"{hashlib.sha256(judge.signature.encode()).hexdigest()[:16]}.jsonl"
    known = Kept(log, "verdict", (FIRST, SECOND, TIE, UNCLEAR))
    keys = [hashlib.sha256(c.prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32] for c in comparisons]
    missing = sorted({k: c for k, c in zip(keys, comparisons, strict=True) if k not in known}.items(),
                     key=lambda item: len(item[1].prompt))  # fmt: skip
    with track(label, total=len(missing)) as bar:
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            verdicts = judge.verdicts([comparison for _, comparison in batch])
            known.keep({key: v for (key, _), v in zip(batch, verdicts, strict=True)}, judge=judge.name)
            bar(len(batch))
    return [known[key] for key in keys]


@cache
def _template() -> Template:
    return Template((Path(__file__).parent / "prompt.txt").read_text(encoding="utf-8").strip())
