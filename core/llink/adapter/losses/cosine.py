"""One minus the cosine of slots and what they should say."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from llink.interfaces import Loss


class Cosine(Loss):
    """``1 - cos(slots, targets)``, mean over all slots (paper, section 3: stage B auxiliary, weight 0.05).

    Inputs:
        slots, targets: ``[..., D]`` of one shape.
    """

    def __call__(self, *, slots: Tensor, targets: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(slots, targets, dim=-1).mean()
