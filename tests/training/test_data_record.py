"""A run goes on with the data that it began with, and says what changed where that is not so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llink import LlinkError
from llink.data.pairs import Pair
from llink.recipe import Recipe
from llink.training.data_record import record
from llink.training.run import train


def changed(path: Path, edit: Callable[[list[str]], list[str]]) -> str:
    before = path.read_text("utf-8")
    path.write_text("".join(edit(before.splitlines(keepends=True))), "utf-8")
    return before


def test_resume_with_other_data_is_refused(
    tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(pairs_folder, data)
    with (data / "train.jsonl").open("a") as file:
        file.write("{broken\n")
    train(tiny_recipe, stage="a", data=data, out=out)
    assert "left out: 1 broken (first: train.jsonl:" in capsys.readouterr().out
    kept = (out / "data.json").read_bytes()
    source = json.loads((data / "train.jsonl").read_text("utf-8").splitlines()[0]).get("source", "unknown")
    edits: list[tuple[str, Callable[[list[str]], list[str]], str]] = [
        ("train.jsonl", lambda lines: lines[:-3], f"pairs of {source} ({{n}} rows, {{m}} before)"),
        ("train.jsonl", lambda lines: [lines[1], lines[0], *lines[2:]], f"pairs of {source} (other texts"),
        ("dev.jsonl", lambda lines: lines[:-1], "dev set dev ("),
        ("english.txt", lambda lines: [*lines, "One more sentence of English here.\n"], "general English ("),
    ]
    for name, edit, says in edits:
        before = changed(data / name, edit)
        with pytest.raises(LlinkError, match=r"\[E410\].*changed since it began.*another --out") as error:
            train(tiny_recipe, stage="a", data=data, out=out, resume=True)
        assert says.split("{")[0] in error.value.message
        (data / name).write_text(before, "utf-8")
    assert train(tiny_recipe, stage="a", data=data, out=out, resume=True) == out
    assert (out / "data.json").read_bytes() == kept


def test_nothing_is_held_against_a_run_that_has_learnt_nothing_yet(
    tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "data.json").write_text('{"pairs of old": {"rows": 1, "sha256": "x"}}')
    train(tiny_recipe, stage="a", data=pairs_folder, out=out, resume=True)
    assert "pairs of old" not in (out / "data.json").read_text()


def test_order_and_source_count() -> None:
    a, b, c = Pair("one", "ក", "x"), Pair("two", "ខ", "y"), Pair("one", "ក", "z")
    assert record([a, b], [], [], {}) != record([b, a], [], [], {})
    assert set(record([a, b], [], [], {})) ^ set(record([c, b], [], [], {})) == {"pairs of x", "pairs of z"}
    assert record([a], ["English."], [], {"dev": [b]})["dev set dev"]["rows"] == 1
