"""The project's own parallel text, where it is at hand: every row is read, and no dev sentence is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from llink.data.pairs import dev_pairs, english_text, read_pairs, training_pairs
from llink.interfaces import package_folder
from llink.plugins import language
from llink.recipe import load_recipe

ROOT = Path(__file__).parents[2] / "shared" / "data"

pytestmark = pytest.mark.skipif(not (ROOT / "km").is_dir(), reason=f"no development data in {ROOT}")


def test_counts_are_those_of_its_readme() -> None:
    for file, count in (("train", 133_596), ("dev_general", 1_734), ("dev_software", 2_048)):
        read = read_pairs(f"km/{file}.jsonl.gz", ROOT)
        # One training pair has a character that was lost (U+FFFD).
        broken = {"broken": 1} if file == "train" else {}
        assert (len(read.rows), read.skipped) == (count - len(broken), broken)
        assert not [p for p in read.rows if p.source == "unknown" or p.licence == "unknown"]


def test_no_dev_sentence_is_trained_on() -> None:
    recipe, khmer = load_recipe(package_folder("llink_khmer", "recipes") / "cpu.yaml"), language("km")
    dev = {name: dev_pairs(recipe.data, ROOT, name, khmer.normalise).rows for name in recipe.data.dev}
    assert {name: len(rows) for name, rows in dev.items()} == {"dev_software": 2_048, "dev_general": 1_015}
    held_out = {p.english for rows in dev.values() for p in rows}
    pairs = training_pairs(recipe.data, ROOT, khmer.normalise)
    english, _ = english_text(recipe.data, ROOT, khmer.normalise)
    assert len(pairs.rows) > 20_000
    assert len(english) == recipe.data.max_english
    assert held_out.isdisjoint(p.english for p in pairs.rows)
    assert held_out.isdisjoint(english)
    # And the files are nearly as they say: one sentence differs from a dev sentence in case or punctuation alone.
    assert pairs.skipped["in a dev set"] == 1
