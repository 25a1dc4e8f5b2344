"""Ranks and what is made of them."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from llink.evaluation.ranks import both_directions, retrieval_metrics, retrieval_ranks

# Query 0 has its candidate first, query 1 second, query 2 third.
CANDIDATES = tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
QUERIES = tensor([[5.0, 0.1], [2.0, 1.0], [1.0, 0.5]])


def test_known_ranks() -> None:
    assert retrieval_ranks(QUERIES, CANDIDATES).tolist() == [1, 2, 3]
    metrics = retrieval_metrics(QUERIES, CANDIDATES)
    expected = {"r1": 1 / 3, "r5": 1, "r10": 1, "mrr": (1 + 1 / 2 + 1 / 3) / 3, "mean_rank": 2}
    assert metrics == pytest.approx(expected)


def test_length_does_not_matter() -> None:
    assert retrieval_ranks(QUERIES * 0.01, CANDIDATES * tensor([[1.0], [100.0], [3.0]])).tolist() == [1, 2, 3]


def test_ties_count_against_the_query() -> None:
    """A model that says the same of every text finds nothing."""
    for constant in (torch.ones(4, 3), torch.zeros(4, 3)):
        assert retrieval_ranks(constant, constant).tolist() == [4] * 4
    assert retrieval_metrics(torch.ones(11, 3), torch.ones(11, 3))["r10"] == 0


def test_what_is_no_number_finds_nothing() -> None:
    broken = torch.full((4, 3), float("nan"))
    assert retrieval_ranks(broken, torch.eye(4, 3)).tolist() == [4] * 4


def test_both_directions() -> None:
    metrics = both_directions(QUERIES, CANDIDATES)
    assert metrics["mean_rank"] == 2
    assert metrics["back_mean_rank"] == retrieval_metrics(CANDIDATES, QUERIES)["mean_rank"]
    one_way = both_directions(tensor([[1.0, 0.0], [1.0, 0.1]]), tensor([[1.0, 0.0], [-1.0, 9.0]]))
    assert (one_way["r1"], one_way["back_r1"]) == (0.5, 1.0)
