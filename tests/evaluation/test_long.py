"""Suite ``long``: pages that the language cuts into their sentences again, what an answer has of them, and what fits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sacrebleu.metrics import CHRF
from taught import Taught, pairs

from llink import Engine, plugins
from llink.adapter.prompt import MAX_SLOTS
from llink.cli import main
from llink.data.pairs import Pair
from llink.evaluation import evaluator
from llink.evaluation.base import Skip, Subject
from llink.evaluation.long import (
    ALONE,
    INSTRUCTION,
    best_stretch,
    compared,
    joined,
    pages_of,
    sentences,
    usage_gaps,
    warnings,
)
from llink.features.cache import FeatureCache
from llink.home import home
from llink.recipe import validate
from llink.training.run import train
from llink_khmer import SAMPLES

CHRFPP = CHRF(word_order=2)


def score(text: str, reference: str) -> float:
    return CHRFPP.sentence_score(text, [reference]).score


def subject_of(encoder: str, decoder: str, adapter: Path) -> Subject:
    engine = Engine.load(encoder, decoder, device="cpu", dtype="float32")
    engine.add("km", adapter)
    names = (encoder, decoder)
    return Subject(engine, plugins.language("km"), FeatureCache(home() / "features", engine.encoder), names)


@pytest.fixture(scope="module")
def subject(raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """An adapter of 2 to 64 slots, one for each token of the encoder."""
    raw = json.loads(json.dumps(raw_recipe))
    raw["injector"] = {"kind": "pooled", "slots": {"min": 2, "max": 64, "per_tokens": 1}}
    raw["stage_b"] |= {"examples": 4, "batch": 2}
    folder = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(folder / "home"))
        adapter = train(validate(raw, "long"), stage="all", data=pairs_folder, out=folder / "run")
        return subject_of(raw["encoder"]["name"], raw["decoder"]["name"], adapter)


def long_pairs() -> list[Pair]:
    """Sentences of over half a passage, so that each is a passage of its own."""
    ends = plugins.language("km").sentence_ends
    clauses = [(s.english.rstrip(".?!"), s.foreign.rstrip(ends)) for s in SAMPLES]
    rows = []
    for start in range(20):
        some = [clauses[(start + 7 * n) % len(clauses)] for n in range(9)]
        foreign = ""
        for count, (_, clause) in enumerate(some):
            if len(foreign) > 150:
                some = some[:count]
                break
            foreign += f" {clause}" if foreign else clause
        rows.append(Pair("; ".join(english for english, _ in some), f"{foreign}។", "long"))
    return [row for row in rows if len(row.foreign) <= 256]


@pytest.mark.parametrize("code", ["km", "am", "my"])
def test_page_is_cut_into_its_sentences_again(code: str) -> None:
    language = plugins.language(code)
    rows = [Pair(s.english, language.normalise(s.foreign)) for s in language.samples]
    bare = [Pair("No end", rows[0].foreign.rstrip(language.sentence_ends)), *rows, Pair("Nor here", "OK ៣")]
    chosen = sentences(bare, language, 17)
    assert chosen == sentences(bare, language, 17) != sentences(bare, language, 18)
    assert len(chosen) > 0.8 * len(bare)
    assert language.sentences(joined(chosen, language)) == [pair.foreign for pair in chosen]


def test_no_text_twice_and_no_text_of_two_sentences() -> None:
    khmer = plugins.language("km")
    [first, second, *_] = pairs()
    both = Pair(f"{first.english} {second.english}", f"{first.foreign} {second.foreign}")
    rows = [first, Pair(first.english.upper(), second.foreign), first, both, Pair("Long", first.foreign[:-1] * 30)]
    assert sentences(rows, khmer, 1) == [first]


def test_best_stretch() -> None:
    answer = "the dog eats rice . I like to learn English very much . a third one is about nothing at all"
    assert best_stretch(answer, "I like to learn English.", score)[0] == "I like to learn English"
    assert best_stretch(answer, "nothing at all", score) == ("nothing at all", pytest.approx(100))
    assert best_stretch(answer, "the dog", score) == ("the dog", pytest.approx(100))
    assert best_stretch("", "the dog", score) == ("", 0)
    assert best_stretch("short", "a reference that is longer than it", score)[0] == "short"


def test_recall_counts_what_is_answered_and_where(taught: Taught) -> None:
    """Whole pages, the first half of them, each other's, and nothing."""
    subject = subject_of(taught.recipe.encoder.name, taught.recipe.decoder.name, taught.adapter)
    pages, cut = pages_of(subject, sentences(pairs(), subject.language, 17))
    assert [len(page.rows) for page in pages] == [10, 10]
    assert cut == 0
    wholes = [page.pair.english for page in pages]
    found = compared(pages, wholes, score)
    assert all(one.recall == 1 and one.own == pytest.approx(100) and one.chance < 60 for one in found.values())
    halves = compared(pages, [" ".join(p.english for p in page.rows[:5]) for page in pages], score)
    assert sum(halves[at].recall for at in halves if at[1] < 5) == 10
    assert sum(halves[at].recall for at in halves if at[1] >= 5) < 9
    assert sum(one.recall for one in compared(pages, wholes[::-1], score).values()) == 0
    assert sum(one.recall for one in compared(pages, ["", ""], score).values()) == 0


def test_pages_that_have_too_many_slots_are_cut(subject: Subject) -> None:
    rows = long_pairs()
    found = evaluator("long")(subject, rows)
    pages, cut = pages_of(subject, sentences(rows, subject.language, subject.seed))
    assert cut == len(pages) == 2
    assert all(page.prompt.slots <= MAX_SLOTS for page in pages)
    assert all(len(page.pieces) == len(page.rows) < len(rows) // 2 for page in pages)
    assert "2 of 2 were cut" in found.notes["pages"]
    assert found.metrics["sentences"] == sum(len(page.rows) for page in pages) == len(found.predictions)


def test_gap_is_that_of_one_passage(subject: Subject) -> None:
    """As the losses of whole prompts have it, one after the other."""
    import torch

    from llink.adapter.slots import target_losses

    pages, _ = pages_of(subject, sentences(long_pairs(), subject.language, subject.seed))
    page, engine = pages[0], subject.engine
    gaps = usage_gaps(subject, pages)
    place = len(page.pieces) // 2
    bridge = engine.resident("km").bridge
    own = engine.reader.slots(page.pieces, engine.resident("km"))
    without = [bridge.none(1, len(slots))[0] if n == place else slots for n, slots in enumerate(own)]
    target = [token for tokens in page.tokens for token in tokens]
    start = sum(map(len, page.tokens[:place]))
    here = slice(start, start + len(page.tokens[place]))
    with engine.using("km"), torch.inference_mode():
        prompt = engine.reader.prompt(INSTRUCTION, engine.resident("km"), page.pieces)
        right, zero = (
            target_losses(engine.decoder, prompt, torch.cat(slots)[None], [target])[0, here] for slots in (own, without)
        )
    assert gaps[0, place] == pytest.approx(float((zero - right).mean()), abs=1e-4)


def test_thirds_places_and_baseline(taught: Taught, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, [*taught.eval("km"), "--suite", "long", "--against", "english", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "metrics.json").read_text("utf-8"))["results"]["long"]["dev"]
    thirds = {f"{name} [{part} third]" for name in ("recall", "chrf++") for part in ("first", "middle", "last")}
    assert thirds | {f"usage_gap [place {place:02}]" for place in range(1, 11)} <= set(found)
    assert 0 <= found["recall english"] <= 1
    assert found["pages"] == 2


def test_too_few_sentences(taught: Taught) -> None:
    subject = subject_of(taught.recipe.encoder.name, taught.recipe.decoder.name, taught.adapter)
    with pytest.raises(Skip, match="four single sentences"):
        evaluator("long")(subject, pairs()[:3])


def test_what_to_do_about_unread_pages() -> None:
    alone = f"recall {ALONE}"
    assert warnings({"recall": 0.8, alone: 0.9}) == warnings({"recall": 0.5, alone: 0.5}) == []
    for english, cure in ((0.9, "with a long_share"), (0.5, r"no more of the page in English \(0\.50\)")):
        [warning] = warnings({"recall": 0.55, alone: 0.9, "recall english": english})
        assert re.search(cure, warning)
