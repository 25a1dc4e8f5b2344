"""Mean squared error of unit vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from llink.interfaces import Loss


class Direction(Loss):
    """``||s/|s| - t/|t|||^2``, mean over the batch (paper, section 3; weight 0.05).

    Inputs:
        student, teacher: ``[B, D]``.
    """

    def __call__(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1).mean()
