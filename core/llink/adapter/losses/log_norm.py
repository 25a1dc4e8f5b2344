"""Squared difference of log norms."""

from __future__ import annotations

from torch import Tensor

from llink.interfaces import Loss


class LogNorm(Loss):
    """``(log |s| - log |t|)^2``, mean over the batch (paper, section 3; weight 0.02).

    Inputs:
        student, teacher: ``[B, D]``.
    """

    def __call__(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        logs = [x.norm(dim=-1).clamp(min=1e-6).log() for x in (student, teacher)]
        return (logs[0] - logs[1]).square().mean()
