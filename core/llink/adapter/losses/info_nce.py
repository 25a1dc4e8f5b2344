"""Symmetric InfoNCE with in-batch negatives and the hardest of a queue."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from llink.interfaces import Loss


class InfoNCE(Loss):
    """Each student vector must pick its teacher out of the batch, and the other way round.

    References:
        Paper, section 3 (queue of 32,768 vectors, the 256 hardest join each row); InfoNCE: arXiv 1807.03748.

    Inputs:
        student, teacher: ``[B, D]``. temperature: float.
        queue: ``[Q, D]`` unit vectors or None; its rows are extra negatives of the student -> teacher side.
        hardest: how many of the queue join each row.
        groups: ``[B]`` ids or None; rows of one group are the same English text and no negatives of each other.
        queue_groups: ``[Q]`` ids or None; a row of the queue is no negative of its own group either.

    Example:
        >>> x = torch.eye(4)
        >>> float(InfoNCE()(student=x, teacher=x, temperature=0.01)) < 1e-6
        True
    """

    def __call__(
        self,
        *,
        student: Tensor,
        teacher: Tensor,
        temperature: float,
        queue: Tensor | None = None,
        hardest: int = 256,
        groups: Tensor | None = None,
        queue_groups: Tensor | None = None,
    ) -> Tensor:
        s, t = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        logits = s @ t.T / temperature
        if groups is not None:
            same = groups[:, None] == groups[None]
            same.fill_diagonal_(False)
            logits = logits.masked_fill(same, float("-inf"))
        labels = torch.arange(len(s), device=s.device)
        forward = logits
        if queue is not None and len(queue):
            scores = s @ queue.T
            if groups is not None and queue_groups is not None:
                scores = scores.masked_fill(groups[:, None] == queue_groups[None], float("-inf"))
            hard = scores.topk(min(hardest, len(queue)), dim=1).values / temperature
            forward = torch.cat([logits, hard], dim=1)
        return 0.5 * (F.cross_entropy(forward, labels) + F.cross_entropy(logits.T, labels))
