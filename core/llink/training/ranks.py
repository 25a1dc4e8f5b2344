"""Ranks of the right candidate: R@1, R@5, R@10, MRR and mean rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llink.data.pairs import Pair
from llink.data.split import key


def answers(pairs: Sequence[Pair]) -> Tensor:
    """Which candidates answer which query, either way: those that share their English or their foreign text with it.

    English is compared without case and runs of white space. A text that stands in several pairs has several right
    answers, each of which is a hit.

    Returns:
        ``[N, N]`` bool, symmetric, True on the diagonal.
    """
    right = torch.eye(len(pairs), dtype=torch.bool)
    for texts in ([key(p.english) for p in pairs], [p.foreign for p in pairs]):
        numbers: dict[str, int] = {}
        same = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])
        right |= same[:, None] == same[None]
    return right


def chance(right: Tensor) -> float:
    """R@1 of guessing among the candidates that ``answers`` speaks of."""
    return int(right.sum()) / right.numel()


def retrieval_ranks(queries: Tensor, candidates: Tensor, right: Tensor | None = None) -> Tensor:
    """Rank (1 is best) of the best right candidate of query i among the wrong ones, by cosine; ties and NaN count against it.

    Args:
        queries, candidates: ``[N, D]``, row i of one belongs to row i of the other.
        right: ``[N, N]`` bool, which candidates answer which query; None where each has only its own.

    Returns:
        ``[N]`` integers.
    """
    scores, best, wrong = _scored(queries, candidates, right)
    return 1 + (~(scores < best) & wrong).sum(1)


def ties(queries: Tensor, candidates: Tensor, right: Tensor | None = None) -> int:
    """How many queries have a wrong candidate exactly as near as their best right one."""
    scores, best, wrong = _scored(queries, candidates, right)
    return int(((scores == best) & wrong).any(1).sum())


def retrieval_metrics(queries: Tensor, candidates: Tensor, right: Tensor | None = None) -> dict[str, float]:
    """R@1/5/10, MRR and mean rank of ``queries -> candidates``."""
    ranks = retrieval_ranks(queries, candidates, right).float()
    hits = {f"r{k}": float((ranks <= k).float().mean()) for k in (1, 5, 10)}
    return {**hits, "mrr": float((1 / ranks).mean()), "mean_rank": float(ranks.mean())}


def both_directions(foreign: Tensor, english: Tensor, right: Tensor | None = None) -> dict[str, float]:
    """``retrieval_metrics`` foreign -> English, and English -> foreign under ``back_*``; ``right`` is symmetric."""
    back = {f"back_{name}": value for name, value in retrieval_metrics(english, foreign, right).items()}
    return {**retrieval_metrics(foreign, english, right), **back}


def _scored(queries: Tensor, candidates: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines ``[N, N]``, the best right one of each query ``[N, 1]``, and which candidates are wrong ``[N, N]``."""
    scores = F.normalize(queries.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).T
    right = torch.eye(len(scores), dtype=torch.bool) if right is None else right
    return scores, scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True), ~right
