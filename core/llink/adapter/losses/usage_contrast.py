"""Usage contrast: removing the slots must not help."""

from __future__ import annotations

from torch import Tensor

from llink.interfaces import Loss


class UsageContrast(Loss):
    """``max(0, L_sft - L_zero)`` (paper, section 3; weight 0.05, every third step).

    ``L_zero`` is the same loss with the slots replaced by the reserved tokens' base embeddings. The term is
    positive only where the slots are *worse* than nothing; the sign is reversed in a public implementation.

    Inputs:
        right, zero: scalar losses with the slots and without.
    """

    def __call__(self, *, right: Tensor, zero: Tensor) -> Tensor:
        return (right - zero).clamp(min=0)
