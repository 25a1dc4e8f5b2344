"""A judge on this machine: any decoder, asked by forward passes over the words it may reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llink.adapter.prompt import converse
from llink.errors import LlinkError
from llink.evaluation.judging import FIRST, SECOND, SYSTEM, TIE, UNCLEAR, Comparison, Judge
from llink.interfaces import Decoder

if TYPE_CHECKING:
    from torch import Tensor

WORDS = (FIRST, SECOND, TIE)


class LocalJudge(Judge):
    """The verdict is the likeliest first token among those of ``A``, ``B`` and ``tie``: nothing is generated.

    A small model mostly likes what is shown first, whatever it is. So each comparison is read in both orders, and the
    log-probabilities that an answer gets in the two are added up: what the order is worth goes to both alike.

    Raises:
        LlinkError: E526 when the decoder's tokenizer cannot tell the three apart by their first token.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.name, self.signature = decoder, decoder.name, f"{decoder.fingerprint} both orders"
        self.tokens = [decoder.tokenize(word)[0] for word in WORDS]
        if len(set(self.tokens)) < len(WORDS):
            raise LlinkError(
                "E526", f"The tokens of '{decoder.name}' do not tell A, B and tie apart.", "Take another --judge."
            )

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """See ``Judge``; ``unclear`` only where the model computes no number."""
        turned = [replace(c, first=c.second, second=c.first) for c in comparisons]
        distinct = list(dict.fromkeys([*comparisons, *turned]))
        scores = dict(zip(distinct, self._scores(distinct), strict=True))
        return [_verdict(scores[shown], scores[other]) for shown, other in zip(comparisons, turned, strict=True)]

    def _scores(self, comparisons: Sequence[Comparison]) -> Tensor:
        """Log-probabilities ``[N, 3]`` of A, B and tie."""
        import torch

        from llink.adapter.scoring import answer_logits, embedded

        tokenize = self.decoder.tokenize
        prompts = [converse(self.decoder, [("system", tokenize(SYSTEM)), ("user", tokenize(c.prompt))])
                   for c in comparisons]  # fmt: skip
        with torch.inference_mode():
            rows = embedded(self.decoder, prompts)
            ask = torch.zeros(len(rows), 1, dtype=torch.long)
            return answer_logits(self.decoder, rows, ask)[:, 0].float().log_softmax(-1)[:, self.tokens].cpu()


def _verdict(shown: Tensor, turned: Tensor) -> str:
    """The likeliest of A, B and tie ``[3]`` over a comparison and its mirror image."""
    both = shown + turned[[1, 0, 2]]
    if not bool(both.isfinite().all()):
        return UNCLEAR
    return TIE if both[0] == both[1] else WORDS[int(both.argmax())]
