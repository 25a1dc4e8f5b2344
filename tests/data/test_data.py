"""Parallel data, good and bad: what is read, what is left out and counted, and that a sample is the same again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llink import LlinkError
from llink.data.pairs import Pair, Pairs, dev_pairs, english_text, read_pairs, share, training_pairs, write_pairs
from llink.data.split import key, split
from llink.language.text import normalise
from llink.recipe import Data


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pair(english: str, foreign: str = "ទឹក", **more: str) -> dict[str, str]:
    return {"english": english, "foreign": foreign, **more}


def train(root: Path, **settings: Any) -> Pairs:
    return training_pairs(Data(**{"train": ["train.jsonl"], "min_words": 1, **settings}), root, normalise)


def test_broken_lines_are_counted_and_named(tmp_path: Path) -> None:
    rows: list[Any] = [
        pair("one"),
        "{not json",
        {"english": "no other side"},
        "",  # a blank line is no row
        pair("two", "  "),
        pair("three", 7),  # type: ignore[arg-type]
        ["a", "list"],
        pair("four", "ត្រី", source="books", licence="CC0-1.0"),
    ]
    write(tmp_path / "x.jsonl", rows)
    read = read_pairs("x.jsonl", tmp_path)
    assert [p.english for p in read.rows] == ["one", "four"]
    assert (read.rows[0].source, read.rows[1].source, read.rows[1].licence) == ("unknown", "books", "CC0-1.0")
    assert read.skipped == {"broken": 5}
    assert read.first_bad == ["x.jsonl:2", "x.jsonl:3", "x.jsonl:5"]
    assert read.summary() == "2 pairs; left out: 5 broken (first: x.jsonl:2, x.jsonl:3, x.jsonl:5)"


def test_bytes_that_are_no_utf8_break_their_line_only(tmp_path: Path) -> None:
    good = json.dumps(pair("good")).encode()
    (tmp_path / "x.jsonl").write_bytes(b'{"english": "\xff\xfe\n' + good + b"\n" + b"\x00\x01\n")
    read = read_pairs("x.jsonl", tmp_path)
    assert ([p.english for p in read.rows], read.skipped) == (["good"], {"broken": 2})


def test_half_a_character_is_survived(tmp_path: Path) -> None:
    """JSON may spell a lone surrogate, which no UTF-8 can hold."""
    write(tmp_path / "train.jsonl", [r'{"english": "a \ud800 b", "foreign": "\udfff ទឹក"}', pair("c d")])
    assert [(p.english, p.foreign) for p in train(tmp_path).rows] == [("a b", "ទឹក"), ("c d", "ទឹក")]


def test_tsv_and_gz(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("water\tទឹក\tthird\nno tab\nfish\tត្រី\r\n", encoding="utf-8")
    plain = read_pairs("x.tsv", tmp_path)
    assert [(p.english, normalise(p.foreign), p.source) for p in plain.rows] == [
        ("water", "ទឹក", "x.tsv"), ("fish", "ត្រី", "x.tsv"),
    ]  # fmt: skip
    assert plain.first_bad == ["x.tsv:2"]
    with gzip.open(tmp_path / "x.tsv.gz", "wb") as file:
        file.write((tmp_path / "x.tsv").read_bytes())
    packed = read_pairs("x.tsv.gz", tmp_path)
    assert [p.english for p in packed.rows] == ["water", "fish"]


def test_columns_of_other_names(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [{"translation": {"en": "water", "km": "ទឹក"}}, {"translation": "no mapping"}])
    read = read_pairs("x.jsonl", tmp_path, {"english": "translation.en", "foreign": "translation.km"})
    assert [(p.english, p.foreign) for p in read.rows] == [("water", "ទឹក")]
    assert read.skipped == {"broken": 1}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LlinkError, match=r"\[E210\].*km.jsonl does not exist.*--data"):
        read_pairs("km.jsonl", tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", "not a pair\n", '{"english": "a"}\n'])
def test_no_pairs(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(LlinkError, match=r"\[E211\] No pair in x.jsonl"):
        read_pairs("x.jsonl", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "garbage", "start", "inside"])
def test_damaged_archive(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress("".join(json.dumps(pair(f"{n} {n * 7919}")) + "\n" for n in range(400)).encode())
    middle = len(packed) // 2
    spoilt = {
        "cut": packed[:middle],
        "garbage": b"no archive at all",
        "start": packed[:10] + b"\xff" * 64,
        "inside": packed[:middle] + b"\xff" * 64 + packed[middle + 64 :],
    }
    (tmp_path / "x.jsonl.gz").write_bytes(spoilt[damage])
    with pytest.raises(LlinkError, match=r"\[E212\].*x.jsonl.gz is damaged"):
        read_pairs("x.jsonl.gz", tmp_path)


def test_dev_english_is_never_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", [pair("Held  out sentence."), pair("Another one.", source="other")])
    write(tmp_path / "train.jsonl", [pair("Held out\u200b sentence.", "ត្រី"), pair("Free sentence."), pair("Free two.")])
    (tmp_path / "en.txt").write_text("Held out  sentence.\nAnother one.\nGeneral English.\n")
    settings = {"dev": {"dev": "dev.jsonl#unknown"}, "english": ["en.txt"], "max_english": 9}
    pairs = train(tmp_path, **settings)
    assert [p.english for p in pairs.rows] == ["Free sentence.", "Free two."]
    assert pairs.skipped == {"in a dev set": 1}
    data = Data(train=["train.jsonl"], min_words=1, **settings)  # type: ignore[arg-type]
    # "Another one." belongs to rows of the dev file that this recipe does not measure on.
    assert sorted(english_text(data, tmp_path, normalise)[0]) == ["Another one.", "General English."]


def test_one_source_of_a_dev_file(tmp_path: Path) -> None:
    rows = [pair("a", source="tico19"), pair("b", source="tatoeba"), pair("c", source="tico19")]
    write(tmp_path / "dev.jsonl", rows)
    data = Data(train=[], dev={"all": "dev.jsonl", "one": "dev.jsonl#tico19", "none": "dev.jsonl#typo"})
    assert [p.english for p in dev_pairs(data, tmp_path, "all", normalise).rows] == ["a", "b", "c"]
    assert [p.english for p in dev_pairs(data, tmp_path, "one", normalise).rows] == ["a", "c"]
    with pytest.raises(LlinkError, match=r"\[E211\].*typo"):
        dev_pairs(data, tmp_path, "none", normalise)


def test_dev_rows_that_normalise_to_nothing_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", [pair("a"), pair("b", "\u200b")])
    read = dev_pairs(Data(train=[], dev={"d": "dev.jsonl"}), tmp_path, "d", normalise)
    assert [p.english for p in read.rows] == ["a"]


def test_filters_are_counted(tmp_path: Path) -> None:
    rows = [
        pair("two words", "ក"),
        pair("two words", "ក"),
        pair("two words", "ខ"),
        pair("one", "ក"),
        pair("two words", "ក" * 11),
        pair("a b", "\u200b"),
    ]
    write(tmp_path / "train.jsonl", rows)
    read = train(tmp_path, min_words=2, max_chars=10)
    assert [p.foreign for p in read.rows] == ["ក", "ខ"]
    assert read.skipped == {"duplicates": 1, "under 2 English words": 2, "over 10 characters": 1}


def test_too_little_to_train_on(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [pair("alone")])
    with pytest.raises(LlinkError, match=r"\[E211\].*at least two"):
        train(tmp_path)


def test_sample_is_the_same_again_whatever_stands_around_it(tmp_path: Path) -> None:
    rows = [pair(f"sentence {n}", f"ទឹក {n}", source="much" if n % 2 else "little") for n in range(400)]
    write(tmp_path / "train.jsonl", rows)
    first = {p.english for p in train(tmp_path, sample={"much": 0.25}).rows}
    write(tmp_path / "train.jsonl", [pair("new one", "ថ្មី"), *rows[::-1]])
    again = {p.english for p in train(tmp_path, sample={"much": 0.25}).rows}
    assert again == first | {"new one"}
    much = [n for n in range(1, 400, 2) if f"sentence {n}" in first]
    assert len(first) - len(much) == 200
    assert 30 <= len(much) <= 70
    more = {p.english for p in train(tmp_path, sample={"much": 0.5}).rows}
    assert first < more


def test_max_pairs_and_max_english(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [pair(f"sentence {n}") for n in range(50)])
    few, more = (train(tmp_path, max_pairs=n).rows for n in (5, 10))
    assert (len(few), len(more)) == (5, 10)
    assert few == more[:5]
    assert few != train(tmp_path).rows[:5]  # picked by hash, not from the top
    write(tmp_path / "en.txt", [f"line {n}" for n in range(50)])
    data = Data(train=[], english=["en.txt"], max_english=7, min_words=1)
    assert len(english_text(data, tmp_path, normalise)[0]) == 7


def test_share_is_spread_and_fixed() -> None:
    shares = [share(str(n)) for n in range(2000)]
    assert all(0 <= s < 1 for s in shares)
    assert sum(s < 0.25 for s in shares) == pytest.approx(500, abs=80)
    assert share("ទឹក") == int("db6741a6", 16) / 2**32


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    pairs = [Pair("water", "ទឹក", "books", "CC0-1.0"), Pair('a "quote"\nand \ud800', "ត្រី\t", "x", "y")]
    write_pairs(tmp_path / "new" / name, iter(pairs))
    assert read_pairs(name, tmp_path / "new").rows == pairs
    first = (tmp_path / "new" / name).read_bytes()
    write_pairs(tmp_path / name, pairs)
    assert (tmp_path / name).read_bytes() == first
    # The time in the header of a gzip file is not noticed within one second.
    assert not name.endswith(".gz") or first[4:8] == bytes(4)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / name]


def test_writing_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Pair]:
        yield Pair("water", "ទឹក")
        raise KeyboardInterrupt

    write_pairs(tmp_path / "x.jsonl.gz", [Pair("old", "ចាស់")])
    with pytest.raises(KeyboardInterrupt):
        write_pairs(tmp_path / "x.jsonl.gz", broken())
    assert [p.english for p in read_pairs("x.jsonl.gz", tmp_path).rows] == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


def test_split_keeps_a_string_on_one_side() -> None:
    pairs = [Pair(f"{text} {n % 50}", f"ទឹក {n}") for n in range(100) for text in ("Sentence", "sentence ", "other")]
    train, dev = split(pairs, 20)
    assert len({key(pair.english) for pair in dev}) == 20
    assert {key(pair.english) for pair in train}.isdisjoint(key(pair.english) for pair in dev)
    assert sorted(train + dev, key=pairs.index) == pairs
    assert split(pairs, 0) == (pairs, [])


def test_split_depends_on_the_strings_and_the_seed_alone() -> None:
    pairs = [Pair(f"sentence {n}", "ទឹក") for n in range(200)]
    dev = {pair.english for pair in split(pairs, 40)[1]}
    assert {pair.english for pair in split(pairs[::-1], 40)[1]} == dev
    assert {pair.english for pair in split(pairs, 40, seed=18)[1]} != dev
    assert len(dev & {pair.english for pair in split(pairs[20:], 40)[1]}) >= 30


def test_split_of_too_few() -> None:
    with pytest.raises(LlinkError, match=r"\[E211\] 1 English strings are too few to hold out 1"):
        split([Pair("a", "ក"), Pair("A ", "ខ")], 1)


def test_english_of_another_languages_dev_set_is_never_trained_on(tmp_path: Path) -> None:
    for folder in ("km", "am"):
        (tmp_path / folder).mkdir()
    held = Pair("Wash your hands often.", "እጅዎን ይታጠቡ።")
    write_pairs(tmp_path / "am" / "dev_news.jsonl", [held])
    write_pairs(
        tmp_path / "km" / "train.jsonl",
        [
            Pair("wash your hands often", "លាងដៃ"),
            Pair("It rains a lot today.", "ភ្លៀង"),
            Pair("The sun is very hot.", "ក្តៅ"),
        ],
    )
    (tmp_path / "english.jsonl").write_text(
        '{"text": "Wash your hands, often!", "source": "leaflet", "licence": "CC0"}\n'
        '{"text": "The river is wide here.", "source": "novel", "licence": "CC BY"}\n'
    )
    data = Data(train=["km/train.jsonl"], english=["english.jsonl"], max_english=9, hold_out=["*/dev_*.jsonl"])
    pairs = training_pairs(data, tmp_path, normalise)
    assert [p.english for p in pairs.rows] == ["It rains a lot today.", "The sun is very hot."]
    assert pairs.skipped == {"in a dev set": 1}
    english, sources = english_text(data, tmp_path, normalise)
    assert english == ["The river is wide here."]
    assert sources == {"novel (English)": {"sentences": 1, "licence": "CC BY"}}
    missing = data.model_copy(update={"hold_out": ["xx/dev_*.jsonl"]})
    with pytest.raises(LlinkError, match=r"\[E210\]"):
        training_pairs(missing, tmp_path, normalise)
