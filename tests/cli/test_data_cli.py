"""``llink data stats``, ``dedupe``, ``split`` and ``validate``, on files good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llink.cli import main
from llink.data.pairs import Pair, read_pairs, write_pairs
from llink.data.split import key

WATER, FISH = "ទឹក", "ត្រី"


def run(*args: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["data", *map(str, args)])
    assert result.exit_code == status, result.output
    return result


def rows(path: Path) -> list[tuple[str, str]]:
    return [(pair.english, pair.foreign) for pair in read_pairs(path.name, path.parent).rows]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows of every kind in one file."""
    good = [
        Pair("Water", WATER, "books", "CC0-1.0"),
        Pair("water ", WATER, "books", "CC0-1.0"),
        Pair("water", FISH, "web", "unknown"),
        Pair("two fish", f"{FISH} {FISH}", "web", "unknown"),
    ]
    path = tmp_path / "mixed.jsonl"
    write_pairs(path, good)
    with path.open("a") as file:
        file.write('{broken\n["list"]\n{"english": "half"}\n{"english": "empty", "foreign": "\u200b"}\n')
        file.write('{"english": "typed", "foreign": 7}\n')
    return path


def test_stats(mixed: Path) -> None:
    report = json.loads(run("stats", mixed, "--json").stdout)
    assert report["pairs"] == 5
    assert report["left_out"] == {"broken": 4}
    assert {s["source"]: (s["licence"], s["pairs"]) for s in report["sources"]} == {
        "books": ("CC0-1.0", 2), "web": ("unknown", 2), "unknown": ("unknown", 1)
    }  # fmt: skip
    assert (report["duplicates"], report["empty"]) == (1, 1)
    assert (report["english_strings"], report["english_with_several_translations"]) == (3, 1)
    assert report["english_words"]["0"] == 1
    assert report["english_words"]["100"] == 2
    assert report["english_scripts"] == {"LATIN": 1.0}
    assert report["foreign_scripts"] == {"KHMER": 1.0}
    text = run("stats", mixed).stdout
    assert "4 broken" in text
    assert "Khmer 100.0 %" in text


def test_stats_finds_suspicious_lengths(tmp_path: Path) -> None:
    pairs = [Pair(f"sentence number {n}", "ក" * (15 + n % 5)) for n in range(100)]
    odd = [Pair("short", "ខ" * 200), Pair("a very long sentence with many words in it " * 3, "គ")]
    write_pairs(tmp_path / "x.jsonl", [*pairs, *odd])
    ratio = json.loads(run("stats", tmp_path / "x.jsonl", "--json").stdout)["length_ratio"]
    assert ratio["suspicious"] == 2
    assert {e["foreign"][0] for e in ratio["examples"]} == {"ខ", "គ"}
    assert ratio["low"] < 0.9 < ratio["median"] * 1.1 < ratio["high"]


def test_dedupe(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "once.jsonl.gz"
    result = run("dedupe", mixed, mixed, "--out", out)
    assert rows(out) == [
        ("Water", WATER), ("water", FISH), ("two fish", f"{FISH} {FISH}"), ("empty", "\u200b")
    ]  # fmt: skip
    places = "mixed.jsonl:5, mixed.jsonl:6, mixed.jsonl:7"
    assert f"4 pairs; left out: 8 broken, 6 duplicates (first: {places})" in result.stdout
    assert "does not end in .jsonl" in run("dedupe", mixed, "--out", tmp_path / "x.csv", status=2).stderr
    before = out.read_bytes()
    assert "[E218]" in run("dedupe", mixed, "--out", out, status=1).stderr
    assert out.read_bytes() == before
    run("dedupe", mixed, "--by", "english", "--out", tmp_path / "english.jsonl")
    assert [english for english, _ in rows(tmp_path / "english.jsonl")] == ["Water", "two fish", "empty"]


def test_dedupe_changes_the_format_and_the_names(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(f"km\ten\n{WATER}\twater\n")
    columns = ("--column", "english=en", "--column", "foreign=km")
    run("dedupe", tmp_path / "x.tsv", *columns, "--out", tmp_path / "x.jsonl")
    assert rows(tmp_path / "x.jsonl") == [("water", WATER)]
    assert "is not english=NAME" in run("stats", tmp_path / "x.tsv", "--column", "en", status=2).stderr


def test_split(tmp_path: Path) -> None:
    pairs = [Pair(f"sentence {n % 60}", f"{WATER} {n}") for n in range(100)]
    write_pairs(tmp_path / "a.jsonl", pairs[:50])
    write_pairs(tmp_path / "b.jsonl", pairs[50:])
    write_pairs(tmp_path / "held.jsonl", [Pair("SENTENCE  7", FISH)])
    files = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    out = tmp_path / "out"
    result = run("split", *files, "--dev", "10", "--test", "5", "--out", out, "--against", tmp_path / "held.jsonl")
    sides = {name: rows(out / f"{name}.jsonl.gz") for name in ("train", "dev", "test")}
    strings = {name: {key(english) for english, _ in found} for name, found in sides.items()}
    assert {name: len(found) for name, found in strings.items()} == {"train": 44, "dev": 10, "test": 5}
    assert not strings["train"] & strings["dev"]
    assert not strings["test"] & (strings["train"] | strings["dev"])
    assert "sentence 7" not in strings["train"] | strings["dev"] | strings["test"]
    assert sum(map(len, sides.values())) == 98
    assert "2 in a dev set" in result.stdout
    assert "[E218]" in run("split", *files, "--dev", "1", "--out", out, status=1).stderr
    assert "[E211]" in run("split", *files, "--dev", "60", "--out", tmp_path / "none", status=1).stderr
    assert not (tmp_path / "none").exists()


def test_validate_lists_every_row_that_is_left_out(mixed: Path, tmp_path: Path) -> None:
    result = run("validate", mixed, status=1)
    assert result.stdout.splitlines() == [
        "mixed.jsonl:5: not JSON: Expecting property name enclosed in double quotes (column 2)",
        "mixed.jsonl:6: no JSON object but list",
        "mixed.jsonl:7: foreign: no text",
        "mixed.jsonl:9: foreign: no text but int",
        f"{mixed}: 5 pairs; left out: 4 broken",
    ]
    assert f"[E233] 4 of 9 rows of {mixed} are broken" in result.stderr
    good = tmp_path / "good.jsonl"
    write_pairs(good, [Pair(f"water {n}", WATER) for n in range(9)])
    with good.open("a") as file:
        file.write("{\n")
    assert "good.jsonl:10: not JSON" in run("validate", good).stdout
    run("validate", good, "--strict", status=1)
    many = tmp_path / "many.tsv"
    many.write_text(f"water\t{WATER}\n" + "no tab\n" * 30)
    short, full = (run("validate", many, *more, status=1).stdout for more in ((), ("--all",)))
    assert short.count(": no tab between two texts") == 20
    assert "… and 10 more" in short
    assert full.count(": no tab between two texts") == 30


def test_validate_names_what_is_left_out_of_a_catalogue(tmp_path: Path) -> None:
    entries = [f'msgid "water"\nmsgstr "{WATER}"', '#, fuzzy\nmsgid "a"\nmsgstr "b"', 'msgid "c"\nmsgstr ""']
    entries += [*entries[1:]] * 15 + ['#~ msgid "d"\n#~ msgstr "e"']
    (tmp_path / "x.po").write_text("\n\n".join(entries), encoding="utf-8")
    lines = run("validate", tmp_path / "x.po").stdout.splitlines()
    assert lines[:2] == ["x.po:4: fuzzy", "x.po:8: untranslated"]
    assert lines[-2:] == [
        f"x.po:{4 + 16 * 7}: obsolete",
        f"{tmp_path / 'x.po'}: 1 pairs; left out: 16 fuzzy, 1 obsolete, 16 untranslated",
    ]


def test_validate_of_files_that_are_of_no_use(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("nothing\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(b"no archive")
    result = run("validate", tmp_path / "none.jsonl", tmp_path / "cut.jsonl.gz", mixed, tmp_path / "x.xyz", status=1)
    assert "none.jsonl: 0 pairs; left out: 1 broken" in result.stdout
    assert f"{mixed}: 5 pairs" in result.stdout
    assert "[E212]" in result.stderr
    assert "[E213]" in result.stderr


@pytest.mark.parametrize(
    "command", [["stats"], ["dedupe", "--out", "new.jsonl"], ["split", "--dev", "1", "--out", "new"]]
)
def test_nothing_is_written_of_a_damaged_file(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.jsonl.gz").write_bytes(b"no archive")
    result: Any = run(command[0], "cut.jsonl.gz", *command[1:], status=1)
    assert result.stderr.startswith("llink: [E212] Data file cut.jsonl.gz is damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.jsonl.gz"]
