"""The run folder: what a run took, its plot and its trackers, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from llink import LlinkError
from llink.cli import main
from llink.recipe import validate
from llink.training import trackers
from llink.training.plot import draw, panels, read_log
from llink.training.run import train
from llink.training.run_folder import Places

PARTS = {"load", "encode", "stage_a", "warm_start", "distil", "stage_b"}
# A run in a process of its own that ends itself by a signal when it has a checkpoint of stage B.
VICTIM = """
import json, os, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from llink.recipe import validate
from llink.training.run import train

recipe, data, out, number = sys.argv[1:]

def watch():
    while not os.path.exists(out + "/checkpoints/stage_b.safetensors"):
        time.sleep(0.0005)
    os.kill(os.getpid(), int(number))

threading.Thread(target=watch, daemon=True).start()
train(validate(json.loads(recipe), "victim"), stage="all", data=Path(data), out=Path(out))
"""


def times_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "time_and_memory.json").read_text(encoding="utf-8"))


def test_what_a_run_took(tiny_run: Path, raw_recipe: dict[str, Any]) -> None:
    times = times_of(tiny_run)
    session = times["sessions"][0]  # other tests may have asked for the finished run again
    assert session["outcome"] == "finished"
    assert set(times["parts"]) == set(session["parts"]) == PARTS
    assert sum(times["parts"].values()) <= times["seconds"] + 0.1 * len(PARTS)
    assert times["process_bytes"] > 50e6
    pairs = [row for row in read_log(tiny_run) if row["stage"] == "b"]
    assert session["examples"]["stage_b"] == pairs[-2]["examples"] == raw_recipe["stage_b"]["examples"]
    # A prompt has its K slots at least, and a target its end of turn.
    assert session["tokens"]["stage_b"] > session["examples"]["stage_b"] * (raw_recipe["injector"]["slots"] + 1)
    for counts, speeds in (("examples", "examples_per_second"), ("tokens", "tokens_per_second")):
        for part, speed in times[speeds].items():
            assert speed == pytest.approx(session[counts][part] / times["parts"][part], rel=0.01, abs=0.01)
    where = session["environment"]
    assert where["torch"] == torch.__version__
    assert f"{os.cpu_count()} CPU cores" in where["hardware"]


def test_commit_of_the_checkout(tiny_run: Path) -> None:
    if not shutil.which("git") or not (Path(__file__).parents[2] / ".git").exists():
        pytest.skip("not in a git checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    commit = times_of(tiny_run)["sessions"][0]["environment"]["commit"]
    # Somebody may commit while the tests run.
    assert commit.removesuffix("-dirty") == head.stdout.strip() or len(commit.removesuffix("-dirty")) == 40


def test_log_has_what_the_plot_shows(tiny_run: Path) -> None:
    rows = read_log(tiny_run)
    ranks = [row for row in rows if "dev.r1" in row]
    assert (ranks[0]["stage"], ranks[0]["step"]) == ("a", 1)
    [last] = [row for row in rows if row["stage"] == "a" and "r1" in row]
    assert ranks[-1]["dev.r1"] == last["r1"]
    assert all("injector.scale" in row for row in rows if "cosine" in row and row["stage"] == "b")
    found = panels(rows)
    assert set(found) == {
        ("a", "loss"), ("a", "R@1"), ("a", "temperature"), ("warm_start", "loss"),
        ("b", "loss"), ("b", "usage gap"), ("b", "gate and scale"),
    }  # fmt: skip
    assert set(found["b", "loss"]) == {"loss", "dev.right"}


def test_plot_is_drawn_from_the_log_alone(tiny_run: Path, tmp_path: Path) -> None:
    assert (tiny_run / "train.png").read_bytes().startswith(b"\x89PNG")
    assert draw(tmp_path) is None
    shutil.copy(tiny_run / "metrics.jsonl", tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "b", "st')  # a kill in the middle of a line
    command = [sys.executable, "-m", "llink.training.plot", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == str(tmp_path / "train.png")
    assert (tmp_path / "train.png").read_bytes() == (tiny_run / "train.png").read_bytes()


def test_steps_made_again_count_as_made_last() -> None:
    rows = [{"stage": "b", "step": step, "loss": loss} for step, loss in ((0, 5.0), (20, 4.0), (40, 9.0), (40, 3.0))]
    assert panels([*rows, {"stage": "b", "step": 41, "loss": float("nan")}]) == {
        ("b", "loss"): {"loss": {0: 5.0, 20: 4.0, 40: 3.0}}
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_a_run_that_is_ended_from_outside(
    number: signal.Signals, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", VICTIM, json.dumps(raw_recipe), str(pairs_folder), str(out), str(int(number))],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    [session] = times_of(out)["sessions"]
    if number == signal.SIGTERM:
        assert ended.returncode == 143, ended.stderr
        assert session["outcome"] == "SystemExit: 143"
        assert "stage_b" in session["parts"]
        assert "Memory:" in ended.stdout
        assert (out / "train.png").exists()
    else:
        assert ended.returncode == -signal.SIGKILL
        assert session["outcome"] == "running"
    train(validate(raw_recipe, "x"), stage="all", data=pairs_folder, out=out, resume=True)
    first, second = times_of(out)["sessions"]
    assert first["outcome"] == ("SystemExit: 143" if number == signal.SIGTERM else "killed")
    assert second["outcome"] == "finished"
    times = times_of(out)
    assert times["seconds"] == pytest.approx(first["seconds"] + second["seconds"], abs=0.11)
    assert not list(out.glob(".*"))


def test_a_run_that_fails(raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = validate({**raw_recipe, "stage_a": {**raw_recipe["stage_a"], "lr": 1e30, "clip": 1e30}}, "x")
    with pytest.raises(LlinkError, match=r"\[E402\]"):
        train(recipe, stage="a", data=pairs_folder, out=tmp_path)
    [session] = times_of(tmp_path)["sessions"]
    assert session["outcome"].startswith("[E402]")
    assert "stage_a" in session["parts"]
    assert "Time:" in capsys.readouterr().out


def test_without_matplotlib_one_line_says_how_to_get_it(
    raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    train(validate(raw_recipe, "x"), stage="a", data=pairs_folder, out=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "llink[report]" in line and "train.png" in line]
    assert not (tmp_path / "train.png").exists()


# Trackers.


def test_stages_follow_one_another_on_a_tracker() -> None:
    rows = [
        {"stage": "a", "step": 0},
        {"stage": "a", "step": 100},
        {"stage": "a", "dev": "x"},
        {"stage": "b", "step": 0},
    ]
    places = Places()
    assert [places(row) for row in rows] == [0, 100, 100, 101]
    # After a resume they go on where they were.
    assert [Places(rows)(row) for row in ({"stage": "a", "step": 100}, {"stage": "b", "step": 20})] == [100, 121]


def test_trackers_are_those_of_accelerate() -> None:
    from accelerate.utils import LoggerType

    assert {str(tracker) for tracker in LoggerType} - {"all"} == set(trackers.TRACKERS)


@pytest.fixture
def recipe_file(raw_recipe: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw_recipe))
    return path


def train_by_command(recipe: Path, data: Path, out: Path, *more: str) -> Any:
    arguments = ["train", "km", "--recipe", str(recipe), "--data", str(data), "--out", str(out), *more]
    return CliRunner().invoke(main, arguments)


def test_tracker_misspelt(recipe_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    done = train_by_command(recipe_file, pairs_folder, tmp_path / "run", "--track", "tensorbord")
    assert done.exit_code == 1
    assert "[E420]" in done.output
    assert "Did you mean 'tensorboard'?" in done.output
    assert not (tmp_path / "run").exists()


def test_tracker_not_installed(
    recipe_file: Path, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, trackers.TRACKERS["wandb"], None)
    done = train_by_command(recipe_file, pairs_folder, tmp_path / "run", "--track", "wandb")
    assert done.exit_code == 1
    [line] = [line for line in done.output.splitlines() if "[E420]" in line]
    assert "pip install wandb" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [["--stage", "a"], ["--baseline", "direct-lora"]], ids=["stage a", "baseline"])
def test_tensorboard(more: list[str], recipe_file: Path, pairs_folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    done = train_by_command(recipe_file, pairs_folder, out, "--track", "tensorboard", *more)
    assert done.exit_code == 0, done.output
    events = EventAccumulator(str(out / "trackers" / trackers.PROJECT))
    events.Reload()
    stage = "direct-lora" if "--baseline" in more else "a"
    logged = [(row["step"], row["loss"]) for row in read_log(out) if "loss" in row]
    tracked = [(event.step, event.value) for event in events.Scalars(f"{stage}/loss")]
    assert tracked == [(step, pytest.approx(loss, abs=1e-4)) for step, loss in logged]
