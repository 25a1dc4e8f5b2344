"""Which English tokens does each slot stand for? Cross-entropy over the batch's vocabulary."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from llink.interfaces import Loss


class BagOfWords(Loss):
    """Each slot must be nearer to the embeddings of its own tokens than to those of the batch's others.

    The softmax runs over the distinct tokens of the batch, not over the whole vocabulary: 30 times less work
    at 49,152 tokens, and negatives that really occur. (Paper, section 3: stage B auxiliary, weight 0.1.)

    Inputs:
        slots: ``[B, K, D]``. vocabulary: ``[U, D]``, unit embeddings of the batch's distinct tokens.
        wanted: ``[B, K, U]``, each row a distribution over the slot's own tokens.
        temperature: of the cosine.
    """

    def __call__(self, *, slots: Tensor, vocabulary: Tensor, wanted: Tensor, temperature: float = 0.07) -> Tensor:
        logits = F.normalize(slots, dim=-1) @ vocabulary.T / temperature
        return -(wanted * logits.log_softmax(-1)).sum(-1).mean()
