"""Decoding that does not loop: an answer may say the same words a few times in a row, and not once more.

Small decoders fall into "but but but …", or into one phrase until the answer is full. Each row of a batch is looked at by
itself, so that an answer is the same alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llink.interfaces import Decoder

LONGEST = 32
"""Tokens of the longest phrase whose repetition is seen: a sentence."""
WORDS, TIMES, TIMES_LONG = 8, 3, 2
"""A phrase of up to ``WORDS`` tokens may stand ``TIMES`` times in a row, as in "no, no, no"; a longer one ``TIMES_LONG``."""
TIMES_MARKS = 12
"""The same of a phrase without a letter: numbers have zeros ("1000000000000"), and tables dots."""


class LoopGuard(LogitsProcessor):
    """Rules the token out that would begin a repetition too many.

    Args:
        decoder: whose tokens are scored.
        rows: whether each row is guarded.
    """

    def __init__(self, decoder: Decoder, rows: Sequence[bool]) -> None:
        self._decoder, self._rows = decoder, rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids of the answers so far ``[B·beams, T]`` and scores ``[B·beams, V]`` -> scores."""
        beams = len(input_ids) // len(self._rows)
        found = [
            (number, token)
            for number, ids in enumerate(input_ids[:, -TIMES_MARKS * LONGEST :].tolist())
            if self._rows[number // beams]
            for token in self.ruled_out(ids)
        ]
        if not found:
            return scores
        scores, (rows, columns) = scores.clone(), zip(*found, strict=True)
        scores[list(rows), list(columns)] = -torch.inf
        return scores

    def ruled_out(self, ids: Sequence[int]) -> Iterator[int]:
        """Tokens that may not come behind ``ids``; an end of the turn always may."""
        ends = self._decoder.stop_ids
        for length in range(1, min(LONGEST, len(ids) // 2) + 1):
            times = TIMES if length <= WORDS else TIMES_LONG
            if ids[-length] in ends or not _repeats(ids, length, times):
                continue
            # A phrase is looked up in the vocabulary only where it is repeated, which is rarely.
            marks = not any(c.isalpha() for c in self._decoder.detokenize(ids[-length:]))
            if not marks or _repeats(ids, length, TIMES_MARKS):
                yield ids[-length]


def _repeats(ids: Sequence[int], length: int, times: int) -> bool:
    """Whether ``ids`` end in the same ``length`` tokens so many times."""
    span = length * times
    return len(ids) >= span and ids[-1] == ids[-1 - length] and ids[length - span :] == ids[-span:-length]
