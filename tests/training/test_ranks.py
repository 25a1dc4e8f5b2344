"""Ranks and what is made of them."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from llink.data.pairs import Pair
from llink.evaluation.retrieval import near_chance, told
from llink.training.ranks import answers, both_directions, retrieval_metrics, retrieval_ranks, ties

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


def found(pairs: list[Pair]) -> dict[str, float]:
    """A model that reads every text right: vectors of what is said, a little noise so that repeats do not tie exactly."""
    generator = torch.Generator().manual_seed(0)
    said = {text.casefold(): torch.randn(16, generator=generator) for pair in pairs for text in (pair.english,)}
    english = torch.stack([said[p.english.casefold()] for p in pairs])
    foreign = english + 0.01 * torch.randn(english.shape, generator=generator)
    english = english + 1e-4 * torch.randn(english.shape, generator=generator)
    return both_directions(foreign, english, answers(pairs))


DISTINCT = [Pair(f"Sentence {n}.", f"ប្រយោគ {n}") for n in range(6)]


@pytest.mark.parametrize(
    "pairs",
    [
        DISTINCT,
        DISTINCT * 2,
        [*DISTINCT, Pair("Sentence 0.", "another translation")],
        [*DISTINCT, Pair("SENTENCE 0.", "another translation")],
        [*DISTINCT, Pair("sentence 1.", "ប្រយោគ 1")],
    ],
    ids=["distinct", "twice", "two translations", "another case", "another case of one pair"],
)
def test_a_repeat_among_the_candidates_is_a_hit(pairs: list[Pair]) -> None:
    metrics = found(pairs)
    assert metrics["r1"] == metrics["back_r1"] == metrics["mrr"] == metrics["mean_rank"] == 1


def test_one_foreign_text_with_two_translations() -> None:
    pairs = [Pair("Open", "បើក"), Pair("Turn on", "បើក"), Pair("Close", "បិទ")]
    assert answers(pairs).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    foreign = tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    english = tensor([[0.2, 1.0], [1.0, 0.1], [-1.0, 0.0]])
    # The second translation is nearer to the first pair's foreign text than its own: right all the same.
    assert retrieval_metrics(foreign, english)["r1"] == pytest.approx(2 / 3)
    assert both_directions(foreign, english, answers(pairs))["r1"] == 1


def test_ties_of_other_texts_are_counted() -> None:
    assert ties(torch.ones(4, 3), torch.ones(4, 3)) == 4
    assert ties(QUERIES, CANDIDATES) == 0
    same = [Pair("a", "ក"), Pair("a", "ខ"), Pair("b", "គ")]
    vectors = tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert ties(vectors, vectors, answers(same)) == 0
    assert told(12, 6, 0, 2) == [
        "6 of 12 pairs repeat another one: each counts once.",
        "2 of 6 texts find another translation exactly as near as their own: no hit.",
    ]
    assert told(6, 6, 0, 0) == []


def test_few_candidates_are_not_called_unaligned() -> None:
    assert near_chance(1 / 1000) == 3 / 1000
    assert all(1 >= near_chance(1 / n) > 1 / n for n in range(2, 50))
    assert near_chance(1 / 2) == 0.75
