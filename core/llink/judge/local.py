"""A judge on this machine: any decoder, asked by one forward pass over the words it may reply."""

from __future__ import annotations

from collections.abc import Sequence

from llink.errors import LlinkError
from llink.interfaces import Decoder
from llink.judge import FIRST, SECOND, SYSTEM, TIE, UNCLEAR, Comparison, Judge
from llink.prompt import converse

WORDS = (FIRST, SECOND, TIE)


class LocalJudge(Judge):
    """The verdict is the likeliest first token among those of ``A``, ``B`` and ``tie``: nothing is generated.

    Raises:
        LlinkError: E526 when the decoder's tokenizer cannot tell the three apart by their first token.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.name, self.signature = decoder, decoder.name, decoder.fingerprint
        self.tokens = [decoder.tokenize(word)[0] for word in WORDS]
        if len(set(self.tokens)) < len(WORDS):
            raise LlinkError(
                "E526", f"The tokens of '{decoder.name}' do not tell A, B and tie apart.", "Take another --judge."
            )

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """See ``Judge``; ``unclear`` only where the model computes no number."""
        import torch

        from llink.scoring import answer_logits, embedded

        tokenize = self.decoder.tokenize
        prompts = [converse(self.decoder, [("system", tokenize(SYSTEM)), ("user", tokenize(c.prompt))])
                   for c in comparisons]  # fmt: skip
        with torch.inference_mode():
            rows = embedded(self.decoder, prompts)
            ask = torch.zeros(len(rows), 1, dtype=torch.long)
            logits = answer_logits(self.decoder, rows, ask)[:, 0, self.tokens].float()
        return [WORDS[int(row.argmax())] if bool(row.isfinite().all()) else UNCLEAR for row in logits]
