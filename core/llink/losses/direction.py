"""Mean squared error of unit vectors."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from llink.interfaces import Loss


class Direction(Loss):
    """``||s/|s| - t/|t|||^2``, mean over the batch (paper, section 3; weight 0.05).

    Inputs:
        student, teacher: ``[B, D]``.
    """

    name: ClassVar[str] = "direction"

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1).mean()
