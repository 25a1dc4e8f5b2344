"""Kept answers: there after a kill, a cut-off line neither read nor in the way of the next."""

from __future__ import annotations

from pathlib import Path

from llink.data.kept import Kept


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Kept(path).keep({"a": "ខ្មែរ\nand\u2028more", "b": ""})
    Kept(path).keep({"c": "three"})
    assert Kept(path) == {"a": "ខ្មែរ\nand\u2028more", "b": "", "c": "three"}


def test_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Kept(path).keep({"a": "one", "b": "two"})
    path.write_bytes(path.read_bytes()[:-6])
    again = Kept(path)
    assert again == {"a": "one"}
    again.keep({"b": "two", "c": "three"})
    assert Kept(path) == {"a": "one", "b": "two", "c": "three"}


def test_only_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    Kept(path, "verdict").keep({"a": "A", "b": "perhaps"}, judge="somebody")
    assert Kept(path, "verdict", ("A", "B")) == {"a": "A"}
    assert '"judge": "somebody"' in path.read_text(encoding="utf-8")
    assert Kept(path) == {}
