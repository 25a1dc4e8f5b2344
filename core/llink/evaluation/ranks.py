"""Ranks of the right candidate: R@1, R@5, R@10, MRR and mean rank."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def retrieval_ranks(queries: Tensor, candidates: Tensor) -> Tensor:
    """Rank (1 is best) of candidate i for query i by cosine; ties and NaN count against the query.

    Args:
        queries, candidates: ``[N, D]``, row i of one belongs to row i of the other.

    Returns:
        ``[N]`` integers.
    """
    scores = F.normalize(queries.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).T
    own = scores.diagonal()[:, None]
    others = ~torch.eye(len(scores), dtype=torch.bool)
    return 1 + (~(scores < own) & others).sum(1)


def retrieval_metrics(queries: Tensor, candidates: Tensor) -> dict[str, float]:
    """R@1/5/10, MRR and mean rank of ``queries -> candidates``."""
    ranks = retrieval_ranks(queries, candidates).float()
    hits = {f"r{k}": float((ranks <= k).float().mean()) for k in (1, 5, 10)}
    return {**hits, "mrr": float((1 / ranks).mean()), "mean_rank": float(ranks.mean())}


def both_directions(foreign: Tensor, english: Tensor) -> dict[str, float]:
    """``retrieval_metrics`` foreign -> English, and English -> foreign under ``back_*``."""
    back = {f"back_{name}": value for name, value in retrieval_metrics(english, foreign).items()}
    return {**retrieval_metrics(foreign, english), **back}
