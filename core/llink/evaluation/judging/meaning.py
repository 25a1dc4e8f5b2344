"""A judge by meaning: whose answer is nearer to the reference, as a small sentence encoder of English sees it?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from llink.evaluation.judging import FIRST, SECOND, TIE, Comparison, Judge
from llink.interfaces import Encoder

if TYPE_CHECKING:
    from torch import Tensor

NAME, ENCODER = "meaning", "all-minilm-l6-v2"
TRIALS = Path(__file__).with_name("trials.yaml")
HARMLESS = 0.5
"""Share of the rewordings whose distance from the original is within the margin."""
BATCH = 32


class MeaningJudge(Judge):
    """The higher cosine with the reference wins. Two that differ by no more than other words for the same thing do are a tie.

    That margin is measured when the judge is made: the median distance of the rewordings in ``trials.yaml`` from their
    originals. It does not depend on the order in which answers are shown, and cannot be talked into anything.

    Args:
        encoder: of English sentences.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.name = encoder, f"{NAME}, {encoder.name}"
        self.margin = self._margin()
        self.signature = f"{encoder.signature}|margin={self.margin:.4f}"

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """See ``Judge``; an answer of nothing loses to any other."""
        references = self._vectors([c.reference for c in comparisons])
        first, second = (
            [
                float(v @ r) if text.strip() else -1.0
                for text, v, r in zip(texts, self._vectors(texts), references, strict=True)
            ]
            for texts in ([c.first for c in comparisons], [c.second for c in comparisons])
        )
        return [_verdict(a - b, self.margin) for a, b in zip(first, second, strict=True)]

    def _margin(self) -> float:
        import torch

        rows = [row for rows in trials().values() for row in rows]
        originals, reworded = (self._vectors([row[place] for row in rows]) for place in (0, 1))
        return float(torch.quantile(1 - (originals * reworded).sum(1), HARMLESS))

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors ``[N, H]``, in float32 on the CPU."""
        import torch
        from torch.nn import functional as F

        distinct = sorted(set(texts), key=len)
        rows: dict[str, Tensor] = {}
        for start in range(0, len(distinct), BATCH):
            part = distinct[start : start + BATCH]
            pooled = self.encoder.encode([" ".join(text.split()) or "." for text in part]).pooled
            rows |= dict(zip(part, F.normalize(pooled.float().cpu(), dim=-1), strict=True))
        return torch.stack([rows[text] for text in texts])


def _verdict(lead: float, margin: float) -> str:
    return TIE if abs(lead) <= margin else FIRST if lead > 0 else SECOND


@cache
def trials() -> dict[str, list[list[str]]]:
    """Kind of near miss -> [sentence, the same in other words, the near miss]."""
    found: dict[str, list[list[str]]] = yaml.safe_load(TRIALS.read_text(encoding="utf-8"))
    return found
