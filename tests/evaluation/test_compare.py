"""``llink compare``: a real difference is called real, chance is called noise."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taught import Taught

from llink.cli import main
from llink.evaluation.compare import bootstrap


def llink(*args: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def evaluation(folder: Path, scores: list[float], suite: str = "translate", score: str = "chrf++") -> Path:
    """A folder as ``llink eval`` writes it."""
    place = folder / suite / "dev"
    place.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"results": {suite: {"dev": {score: sum(scores)}}}}))
    (place / "metrics.json").write_text(json.dumps({"set": "dev"}))
    rows = [json.dumps({"id": str(i), "scores": {score: value}}) for i, value in enumerate(scores)]
    (place / "predictions.jsonl").write_text("\n".join(rows))
    return folder


def verdict(a: Path, b: Path) -> str:
    done = llink("compare", a, b, "--json")
    assert done.exit_code == 0, done.output
    [line] = done.stdout.splitlines()
    return str(json.loads(line)["verdict"])


NOISE = [random.Random(1).gauss(50, 10) for _ in range(200)]
OTHER = [value + random.Random(2 + i).gauss(0, 10) for i, value in enumerate(NOISE)]


@pytest.mark.parametrize(
    ("change", "says"), [(3.0, "better, real"), (-3.0, "worse, real"), (0.0, "noise")], ids=["better", "worse", "noise"]
)
def test_verdict(tmp_path: Path, change: float, says: str) -> None:
    centred = sum(b - a for a, b in zip(NOISE, OTHER, strict=True)) / len(NOISE)
    b = evaluation(tmp_path / "b", [value - centred + change for value in OTHER])
    assert verdict(evaluation(tmp_path / "a", NOISE), b) == says


def test_pairing_finds_what_the_means_would_hide(tmp_path: Path) -> None:
    """A steady gain is far smaller than the spread of the texts, and real all the same."""
    a = evaluation(tmp_path / "a", NOISE)
    b = evaluation(tmp_path / "b", [value + 0.5 + 0.1 * (i % 3) for i, value in enumerate(NOISE)])
    assert verdict(a, b) == "better, real"


def test_less_loss_is_better(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", NOISE, "usage", "right")
    assert verdict(a, evaluation(tmp_path / "b", [v - 1 for v in NOISE], "usage", "right")) == "better, real"


def test_too_few(tmp_path: Path) -> None:
    assert verdict(evaluation(tmp_path / "a", [1.0, 2.0]), evaluation(tmp_path / "b", [3.0, 4.0])) == "too few to tell"


def test_same_interval_for_the_same_seed() -> None:
    pairs = list(zip(NOISE, OTHER, strict=True))
    assert bootstrap(pairs, 1000, 3) == bootstrap(pairs, 1000, 3) != bootstrap(pairs, 1000, 4)


def test_interval_is_that_of_the_mean() -> None:
    """Against the textbook: 1.96 standard errors to each side."""
    differences = [b - a for a, b in zip(NOISE, OTHER, strict=True)]
    mean = sum(differences) / 200
    error = (sum((d - mean) ** 2 for d in differences) / 199 / 200) ** 0.5
    found = bootstrap(list(zip(NOISE, OTHER, strict=True)), 10_000, 17)
    assert found["low"] == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert found["high"] == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_whole_against_broken(taught: Taught, evaluated: Path, tmp_path: Path) -> None:
    """Through ``llink eval``, with the true files."""
    adapter = taught.broken("random bridge", tmp_path)
    done = llink(*taught.eval("km", adapter), "--suite", "retrieval,usage", "--limit", "20", "--out", tmp_path / "b")
    assert done.exit_code == 0, done.output
    done = llink("compare", evaluated, tmp_path / "b")
    assert done.exit_code == 0, done.output
    rows = {tuple(line.split()[:3]): line for line in done.stdout.splitlines()}
    assert rows["retrieval", "dev", "r1"].endswith("worse, real")
    assert rows["usage", "dev", "right"].endswith("worse, real")
    assert ("translate", "dev", "chrf++") not in rows
    assert "would look so by chance" in done.stdout
    same = llink("compare", evaluated, evaluated)
    assert " real\n" not in same.stdout
    assert "0 of " in same.stdout


def test_nothing_in_common(tmp_path: Path) -> None:
    a, b = evaluation(tmp_path / "a", NOISE), evaluation(tmp_path / "b", NOISE, "usage")
    done = llink("compare", a, b)
    assert done.exit_code == 1
    assert "[E522]" in done.stderr


@pytest.mark.parametrize("damage", ["nowhere", "empty", "cut", "predictions", "gone"])
def test_no_evaluation(tmp_path: Path, damage: str) -> None:
    a = evaluation(tmp_path / "a", NOISE)
    b = Path(shutil.copytree(a, tmp_path / "b"))
    if damage == "nowhere":
        shutil.rmtree(b)
    elif damage == "empty":
        (b / "metrics.json").write_text("")
    elif damage == "cut":
        (b / "metrics.json").write_text('{"results": [')
    elif damage == "predictions":
        (b / "translate" / "dev" / "predictions.jsonl").write_text('{"id": ')
    else:
        (b / "translate" / "dev" / "predictions.jsonl").unlink()
    for command in (["compare", a, b], ["report", b]):
        done = llink(*command)
        assert done.exit_code == 1
        assert done.stderr.startswith("llink: [E522]")
        assert done.stderr.count("\n") == 1
