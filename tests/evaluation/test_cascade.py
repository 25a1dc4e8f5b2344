"""``llink eval --against cascade=MODEL``: the same decoder behind a translation model, side by side with the adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_translators
from click.testing import CliRunner, Result
from taught import Taught, pairs

from llink.cli import main
from llink.cli.eval import parse_baselines
from llink.errors import LlinkError

SUITES = "translate,exact,tasks,tokens"


def llink(*args: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NLLB that knows every other sentence of ``taught`` by heart."""
    known = [(p.foreign, p.english) for p in pairs()][::2]
    return tiny_translators.taught(tmp_path_factory.mktemp("cascade") / "nllb", known)


@pytest.fixture(scope="session")
def beside(taught: Taught, translator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(taught.folder / "home"))
        done = llink(
            *taught.eval("km"),
            "--suite",
            SUITES,
            "--limit",
            "20",
            "--out",
            folder,
            "--against",
            f"raw,cascade={translator}",
        )
    assert done.exit_code == 0, done.output
    return folder


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def test_its_translation_is_that_of_the_model(beside: Path) -> None:
    values = numbers(beside)["results"]["translate"]["dev"]
    rows = [json.loads(line) for line in (beside / "translate/dev/predictions.jsonl").read_text("utf-8").splitlines()]
    right = [row["answer cascade"] == row["english"] for row in rows]
    assert right[::2] == [True] * 10
    assert sum(right[1::2]) <= 2
    assert values["chrf++ raw"] < values["chrf++ cascade"] < values["chrf++"]
    assert "transformers, float32, beams 1" in numbers(beside)["notes"]["translate"]["dev"]["cascade"]


def test_other_tasks_are_answered_by_the_decoder_from_its_english(beside: Path) -> None:
    values = numbers(beside)["results"]["tasks"]["dev"]
    # The tiny decoder answers with the first words of an English sentence; of every other one it gets to see that.
    assert values["agreement raw"] + 0.15 < values["agreement cascade"] < values["agreement"]


def test_exact_values_tokens_time_and_memory_stand_side_by_side(beside: Path) -> None:
    found = numbers(beside)["results"]
    assert 0 < found["exact"]["dev"]["exact cascade"] < found["exact"]["dev"]["exact"]
    tokens = found["tokens"]["dev"]
    assert tokens["prompt tokens"] < tokens["prompt tokens cascade"]
    for name in ("time to first token{}, ms", "time of a translation{}, ms", "memory of weights{}, MB"):
        assert tokens[name.format("")] > 0
        assert tokens[name.format(" cascade")] > 0
    assert tokens["prefill gigaflops cascade"] > 0
    # The tiny decoder is as large as the tiny translation model; a forward pass of it is the less work.
    assert tokens["translator gigaflops"] > tokens["prefill gigaflops cascade"] / 10


def test_another_model_is_measured_anew_and_the_same_is_not(
    taught: Taught, translator: Path, beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setenv("LLINK_HOME", str(taught.folder / "home"))
    out = Path(shutil.copytree(beside, tmp_path / "out"))
    other = tiny_translators.nllb(tmp_path / "other", [text for p in pairs() for text in (p.foreign, p.english)])
    mark = (out / "translate/dev/metrics.json").stat().st_mtime_ns
    line = [*taught.eval("km"), "--suite", "translate", "--limit", "20", "--out", out, "--against"]
    assert llink(*line, f"raw,cascade={translator}").exit_code == 0
    assert (out / "translate/dev/metrics.json").stat().st_mtime_ns == mark
    assert llink(*line, f"raw,cascade={other}").exit_code == 0
    assert numbers(out)["results"]["translate"]["dev"]["chrf++ cascade"] < 10


def test_options() -> None:
    assert parse_baselines("raw,cascade=o/m@main#khm_Khmr", Path("x")) == (
        ["raw", "cascade"],
        None,
        "o/m@main#khm_Khmr",
    )
    for names, code in (("cascade", "E532"), ("cascade=", "E532"), ("cascades=o/m", "E506"), ("raw=x", "E506")):
        with pytest.raises(LlinkError) as caught:
            parse_baselines(names, Path("x"))
        assert caught.value.code == code


def test_a_model_that_is_none_is_refused_before_anything_is_loaded(taught: Taught, tmp_path: Path) -> None:
    done = llink(*taught.eval("km"), "--against", f"cascade={tmp_path}", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "[E532]" in done.output
