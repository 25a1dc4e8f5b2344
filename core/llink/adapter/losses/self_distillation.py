"""The decoder reading slots should say what the frozen decoder says reading the English."""

from __future__ import annotations

import torch
from torch import Tensor

from llink.interfaces import Loss


class SelfDistillationKL(Loss):
    """``KL(frozen decoder on the English text || decoder with LoRA on the slots)`` over the target's positions.

    Nats per token. Both read the same target; the teacher's prompt has the English text in the place of the slots.
    Of the teacher's distribution the ``TOP`` likeliest tokens are kept and all others count as one more outcome: a
    lower bound of the divergence that is 0 exactly where those probabilities agree, at a fraction of the memory.

    References:
        Context distillation, arXiv 2209.15189; there the student sees no context, here it sees slots.

    Inputs:
        logits: ``[B, L, V]`` with the slots. teacher_logits: ``[B, L, V]`` of the frozen decoder, no gradient.
        own: ``[B, L]`` bool, True on a row's target tokens.
    """

    TOP = 64

    def __call__(self, *, logits: Tensor, teacher_logits: Tensor, own: Tensor) -> Tensor:
        student, teacher = logits[own].float(), teacher_logits[own].float()
        best = teacher.topk(min(self.TOP, teacher.shape[-1]), dim=-1)
        kept = best.values - teacher.logsumexp(-1, keepdim=True)
        said = student.gather(-1, best.indices) - student.logsumexp(-1, keepdim=True)
        inner = (kept.exp() * (kept - said)).sum(-1)
        rest, others = _rest(kept), _rest(said)
        return (inner + rest * (rest.log() - others.log())).mean()


def _rest(logs: Tensor) -> Tensor:
    """The probability ``[N]`` that log probabilities ``[N, k]`` leave over, kept off 0 for its logarithm."""
    return (1 - torch.exp(logs).sum(-1)).clamp(min=1e-6)
