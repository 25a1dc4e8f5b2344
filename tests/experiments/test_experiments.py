"""Experiments, through the command line: tables and plots, what they share with training, kills, errors."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from llink.adapter.files import read_manifest
from llink.cli import main
from llink.data.pairs import Pair, write_pairs
from llink.experiments.general_text import ridge
from llink.plugins import language
from llink.recipe import load_recipe, validate
from llink.training.plot import read_log
from llink.training.run import train

# `llink` in a process of its own that kills itself, as the kernel would, as soon as a file appears.
VICTIM = """
import os, signal, sys, threading, time
import torch
torch.set_num_threads(1)
from llink.cli import main

fatal, *arguments = sys.argv[1:]

def watch():
    while not os.path.exists(fatal):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
main(arguments, "llink")
"""
Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> Arguments:
    """The arguments of ``llink experiment NAME km`` on the tiny pair, into ``out`` of the test's folder."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps(raw_recipe))

    def made(name: str, *options: str, out: Path = tmp_path / "out") -> list[str]:
        place = ["--recipe", str(recipe), "--data", str(pairs_folder), "--out", str(out)]
        return ["experiment", name, "km", *place, "--sample", "3", *options]

    return made


def ran(arguments: list[str]) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done


def failed(arguments: list[str], code: str) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("llink: ")]
    assert line.startswith(f"llink: [{code}] ")
    return line


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a table that is there with its plot, in every form."""
    found = json.loads((out / "table.json").read_text())["rows"]
    lines = (out / "table.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("|")]) == len(found) + 2
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    return found


def test_alignment_probe(arguments: Arguments, tmp_path: Path) -> None:
    first = ran(arguments("alignment-probe"))
    found = rows(tmp_path / "out")
    assert [(row["vectors"], row["direction"]) for row in found] == [
        ("bare encoder", "to English"), ("bare encoder", "from English"),
        ("stage A", "to English"), ("stage A", "from English"),
    ]  # fmt: skip
    logged = [json.loads(line) for line in (tmp_path / "out/stage-a/metrics.jsonl").read_text().splitlines()]
    [stage_a] = [row for row in logged if "dev" in row]
    for row, prefix in ((found[2], ""), (found[3], "back_")):
        assert row["R@1"] == pytest.approx(stage_a[f"{prefix}r1"], abs=1e-4)
        assert row["mean rank"] == pytest.approx(stage_a[f"{prefix}mean_rank"], abs=1e-4)
    # Fourteen updates, with eleven others to be told from, teach nothing; the probe says so.
    assert "R@1 is under 0.20" in first.stderr
    assert "updates are few" in first.stderr
    assert "raise stage_a.batch, stage_a.queue or stage_a.hardest" in first.stderr
    # Again: nothing is loaded or done, the same is said.
    before = (tmp_path / "out/stage-a/metrics.jsonl").stat(), (tmp_path / "out/table.json").read_bytes()
    again = ran(arguments("alignment-probe"))
    assert again.stdout == first.stdout[first.stdout.index("dev set") :]
    assert before == ((tmp_path / "out/stage-a/metrics.jsonl").stat(), (tmp_path / "out/table.json").read_bytes())


def test_alignment_that_succeeds_has_no_warning(arguments: Arguments, tmp_path: Path) -> None:
    """Six candidates that the projector has seen."""
    learnt = ["data.dev={dev: train.jsonl#samples}", "data.train=[dev.jsonl]", "data.english=[]"]
    enough = ["stage_a.epochs=200", "stage_a.queue=0", "stage_a.lr=0.003", "stage_a.english_side=false"]
    data = tmp_path / "data"
    data.mkdir()
    source = Path(arguments("x")[arguments("x").index("--data") + 1]) / "dev.jsonl"
    for name in ("train.jsonl", "dev.jsonl"):
        # Held-out strings are never trained on, so the two differ in the case of a letter.
        text = source.read_text(encoding="utf-8")
        (data / name).write_text(text if name == "dev.jsonl" else text.replace('"english": "', '"english": "Oh, '))
    sets = [part for item in (*learnt, *enough) for part in ("--set", item)]
    done = ran([*arguments("alignment-probe", *sets), "--data", str(data)])
    assert "R@1 is under" not in done.stdout + done.stderr


def test_killed_ablation_goes_on_to_the_same_table(arguments: Arguments, tmp_path: Path) -> None:
    options = ("--values", "0,0.05", "--examples", "16")
    fatal = tmp_path / "out/weight-0.05/checkpoints/stage_b.safetensors"
    victim = [sys.executable, "-c", VICTIM, str(fatal), *arguments("usage-ablation", *options)]
    killed = subprocess.run(victim, capture_output=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert (tmp_path / "out/weight-0/result.json").exists()
    assert not (tmp_path / "out/weight-0.05/result.json").exists()

    first = (tmp_path / "out/weight-0/adapter/manifest.json").stat()
    ran(arguments("usage-ablation", *options))
    assert (tmp_path / "out/weight-0/adapter/manifest.json").stat() == first
    ran(arguments("usage-ablation", *options, out=tmp_path / "straight"))
    assert rows(tmp_path / "out") == rows(tmp_path / "straight")
    assert [row["weight"] for row in rows(tmp_path / "out")] == [0, 0.05]
    for row in rows(tmp_path / "out"):
        assert row["usage gap"] == pytest.approx(row["no slots"] - row["right slots"])
    weights = [tmp_path / f"out/weight-{weight}/adapter/adapter_model.safetensors" for weight in ("0", "0.05")]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    for name in ("stage_a.safetensors", "warm_start.safetensors"):
        copies = {(tmp_path / "out" / place / name).read_bytes() for place in ("shared", "weight-0", "weight-0.05")}
        assert len(copies) == 1


def test_slot_sweep_trains_what_training_would(
    arguments: Arguments, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    ran(arguments("slot-sweep", "--values", "2,5", "--examples", "8", "--sample", "6"))  # all of the dev set
    two, five = rows(tmp_path / "out")
    assert five["prompt tokens"] - two["prompt tokens"] == 3
    assert "agreement" not in two  # the tiny decoder ends none of its answers
    raw = json.loads(json.dumps(raw_recipe))
    raw["injector"]["slots"], raw["stage_b"]["examples"] = 5, 8
    straight = train(validate(raw, "five"), stage="all", data=pairs_folder, out=tmp_path / "run")
    for name in ("bridge.safetensors", "adapter_model.safetensors"):
        assert (tmp_path / "out/slots-5/adapter" / name).read_bytes() == (straight / name).read_bytes()
    assert five["loss"] == pytest.approx(read_manifest(straight).metrics["usage"]["dev"]["right"])


def test_slot_sweep_asks_questions(taught: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLINK_HOME", str(taught.folder / "home"))
    place = ["--recipe", str(taught.folder / "recipe.yaml"), "--data", str(taught.folder), "--out", str(tmp_path)]
    # Its dev set is what it was trained on, which a run leaves out of the training data.
    other = taught.folder / "apart.jsonl"
    other.write_text((taught.folder / "dev.jsonl").read_text().replace('"english": "', '"english": "Oh, '))
    ran(["experiment", "slot-sweep", "km", *place, "--set", "data.train=[apart.jsonl]", "--set", "stage_b.distilled=4",
         "--values", "4", "--examples", "200", "--sample", "8"])  # fmt: skip
    [row] = rows(tmp_path)
    for name in ("agreement", "agreement, questions", "word F1, questions"):
        assert 0 <= row[name] <= 1


def test_injectors_each_with_its_own_options(
    arguments: Arguments, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    options = ("--values", "3", "--examples", "8", "--sample", "6", "--set", "verbatim.tokens=12")
    done = ran(arguments("injectors", *options))
    found = rows(tmp_path / "out")
    kinds = ("pooled", "resampler", "linear")
    assert [(row["kind"], row["slots"]) for row in found] == [(kind, 3) for kind in kinds]
    best = max(found, key=lambda row: row["chrF++, dev"])
    assert f"Best by the mean of chrF++: {best['kind']} with" in done.stdout
    for row in found:
        assert row["encoder and bridge, ms"] > 0
        assert row["prefill, ms"] > 0
        assert 0 <= row["exact, no channel"] <= 1
        bridge = read_manifest(tmp_path / f"out/{row['kind']}-{row['slots']}/adapter").bridge["injector"]
        assert bridge["options"] == (raw_recipe["injector"]["options"] if row["kind"] == "resampler" else {})
    assert found[2]["parameters"] == (32 * 32 + 32) + 32 * 32 + 2 * 32  # states, sentence, norm
    # As training would, from the same stage A.
    raw = json.loads(json.dumps(raw_recipe))
    raw["injector"], raw["verbatim"] = {"kind": "linear", "slots": 3}, {"tokens": 12}
    raw["stage_b"]["examples"] = 8
    straight = train(validate(raw, "linear"), stage="all", data=pairs_folder, out=tmp_path / "run")
    own = (straight / "bridge.safetensors").read_bytes()
    assert (tmp_path / "out/linear-3/adapter/bridge.safetensors").read_bytes() == own
    assert found[-1]["loss"] == pytest.approx(read_manifest(straight).metrics["usage"]["dev"]["right"])
    # Killed: what is there is not done again, what is not is done.
    kept = (tmp_path / "out/pooled-3/adapter/manifest.json").stat()
    (tmp_path / "out/linear-3/result.json").unlink()
    ran(arguments("injectors", *options))
    assert (tmp_path / "out/pooled-3/adapter/manifest.json").stat() == kept
    timed = ("encoder and bridge, ms", "prefill, ms")
    assert [{k: v for k, v in row.items() if k not in timed} for row in rows(tmp_path / "out")] == [
        {k: v for k, v in row.items() if k not in timed} for row in found
    ]


def test_ablation_leaves_out_each_step_that_there_is(
    arguments: Arguments, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    sets = ("--set", "verbatim.tokens=12", "--set", "data.repeat={samples: 2}")
    ran(arguments("ablation", "--examples", "8", "--sample", "6", *sets))
    found = {row["left out"]: row for row in rows(tmp_path / "out")}
    # The tiny recipe has as many slots for every text, a resampler of depth 1 and no longer texts.
    assert list(found) == [
        "nothing", "prose repeated", "English beside the text", "warm start", "resampler", "verbatim channel",
    ]  # fmt: skip
    whole = found["nothing"]
    for row in found.values():
        assert 0 <= row["exact"] <= 1
        assert 0 <= row["invented"] <= 1
        assert row["chrF++, dev"] >= 0
    # Retrieval is stage A's alone; without its own changes it is the same one.
    assert {step for step, row in found.items() if row["R@1, dev"] == whole["R@1, dev"]} >= {
        "nothing", "warm start", "resampler", "verbatim channel",
    }  # fmt: skip
    assert len({row["loss"] for row in found.values()}) == len(found)
    own = [out for out in (tmp_path / "out").iterdir() if (out / "metrics.jsonl").exists()]
    trained = {out.name for out in own if any(row["stage"] == "a" for row in read_log(out))}
    assert trained == {"shared", "no-prose-repeated", "no-English-beside-the-text"}
    warmed = {out.name for out in own if any(row["stage"] == "warm_start" for row in read_log(out))}
    assert warmed == {*trained, "no-resampler"}
    # As training would.
    raw = json.loads(json.dumps(raw_recipe))
    raw["data"]["repeat"], raw["warm_start"]["epochs"], raw["stage_b"]["examples"] = {"samples": 2}, 0, 8
    raw["verbatim"] = {"tokens": 12}
    straight = train(validate(raw, "cold"), stage="all", data=pairs_folder, out=tmp_path / "run")
    assert found["warm start"]["loss"] == pytest.approx(read_manifest(straight).metrics["usage"]["dev"]["right"])


def test_ablation_retrieves_among_all_candidates(arguments: Arguments, tmp_path: Path) -> None:
    bare = ("stage_a.english_side=false", "stage_b.english_share=0", "warm_start.epochs=0", "injector.kind=pooled")
    bare += ("data.train=[dev.jsonl]", "data.dev={dev: train.jsonl}")  # 24 candidates, of which the sample has two
    ran(arguments("ablation", "--examples", "8", "--sample", "2", *(word for key in bare for word in ("--set", key))))
    [row] = rows(tmp_path / "out")
    logged = next(row for row in read_log(tmp_path / "out" / "shared") if row["stage"] == "a" and "dev" in row)
    assert row["R@1, dev"] == pytest.approx(logged["r1"], abs=1e-4)


def test_general_text_tries_other_pairs_and_a_map(arguments: Arguments, pairs_folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(pairs_folder, tmp_path / "data"))
    write_pairs(data / "am" / "train.jsonl.gz", [Pair(s.english, s.foreign) for s in language("am").samples[:9]])
    ran([*arguments("general-text"), "--data", str(data)])
    found = {row["changed"]: row for row in rows(tmp_path / "out")}
    pairs = {name: row["pairs"] for name, row in found.items()}
    whole = pairs.pop("nothing")
    assert pairs.pop("without the 10% least similar") == whole - 3  # of 24
    assert pairs.pop("without the 30% least similar") == whole - 7
    assert whole < pairs.pop("and texts of two pairs") <= whole + 7
    assert whole < pairs.pop("and other languages' pairs (am)") <= whole + 9
    assert len(pairs) == 1 + 3
    assert set(pairs.values()) == {whole}
    maps = [row["R@1, dev"] for name, row in found.items() if "penalty" in name]
    assert all(0 <= r1 <= 1 for r1 in maps)
    # Means are matched as training does it.
    raw = load_recipe(tmp_path / "tiny.yaml").model_dump(mode="json")
    raw["data"]["match_means"] = True
    train(validate(raw, "means"), stage="a", data=data, out=tmp_path / "run")
    [logged] = [row for row in read_log(tmp_path / "run") if row.get("dev") == "dev"]
    assert found["means matched"]["R@1, dev"] == logged["r1"]


def test_a_map_lies_between_least_squares_and_the_identity() -> None:
    draw = torch.Generator().manual_seed(2)
    inputs, true = torch.randn(200, 6, generator=draw), torch.randn(6, 6, generator=draw)
    targets = inputs @ true
    assert torch.allclose(ridge(inputs, targets, 0.0), true, atol=1e-3)
    assert torch.allclose(ridge(inputs, targets, 1e6), torch.eye(6), atol=1e-3)
    far = [float((ridge(inputs, targets, penalty) - torch.eye(6)).norm()) for penalty in (0.0, 0.1, 1.0, 10.0)]
    assert far == sorted(far, reverse=True)


def test_teacher_from_one_pass_is_the_teacher_of_training(
    arguments: Arguments,
    raw_recipe: dict[str, Any],
    pairs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = ran(arguments("teacher", "--values", "0,2,-1"))
    found = rows(tmp_path / "out")
    assert len(found) == 2 + 4 + 4  # layer 0 at the reserved token says nothing of a text
    assert "the paper's choice, layer last, reserved:" in done.stdout
    monkeypatch.setenv("LLINK_HOME", str(tmp_path / "other"))
    for layer, position in ((2, "mean"), (-1, "reserved")):
        recipe = validate({**raw_recipe, "teacher": {"layer": layer, "position": position}}, "x")
        train(recipe, stage="a", data=pairs_folder, out=tmp_path / f"run{layer}")
        name = f"layer-{'last' if layer < 0 else layer}-{position}-centred"
        logs = [tmp_path / place for place in (f"out/{name}", f"run{layer}")]
        ours, straight = ([row for row in read_log(log) if row["stage"] != "load"] for log in logs)
        for one, other in zip(ours, straight, strict=True):
            assert {k: v for k, v in one.items() if k != "seconds"} == pytest.approx(
                {k: v for k, v in other.items() if k != "seconds"}, abs=2e-3
            )


def test_without_matplotlib_there_is_a_table(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = ran(arguments("alignment-probe"))
    assert 'There is no plot: The plots need matplotlib, which is not installed. Run: pip install "llink' in done.stderr
    assert (tmp_path / "out/table.md").exists()
    assert not (tmp_path / "out/plot.png").exists()


def test_pairs_bound_the_english_too(arguments: Arguments, tmp_path: Path) -> None:
    ran(arguments("alignment-probe", "--pairs", "8"))
    data = json.loads((tmp_path / "out/table.json").read_text())["recipe"]["data"]
    assert (data["max_pairs"], data["max_english"]) == (8, 8)


@pytest.mark.parametrize(
    ("name", "options", "code", "says"),
    [
        ("slotsweep", (), "E530", "Did you mean 'slot-sweep'?"),
        ("slot-sweep", ("--values", "0"), "E202", "injector.slots"),
        ("usage-ablation", ("--values", "0.05,-1"), "E202", "usage"),
        ("teacher", ("--values", "2,99"), "E303", "has 3 layers; layer 99 does not exist"),
        ("teacher", ("--set", "data.dev={}"), "E520", "no dev set"),
        ("teacher", ("--set", "language=am"), "E207", "not for 'km'"),
    ],
)
def test_mistakes_are_one_line(name: str, options: tuple[str, ...], code: str, says: str, arguments: Arguments) -> None:
    assert says in failed(arguments(name, *options), code)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("alignment-probe", "1", "nothing to choose"),
        ("slot-sweep", "2,x", "whole numbers"),
        ("slot-sweep", "2,,4", "whole"),
    ],
)
def test_values_must_fit(name: str, values: str, says: str, arguments: Arguments) -> None:
    done = CliRunner().invoke(main, arguments(name, "--values", values))
    assert (done.exit_code, says in done.stderr) == (2, True)


def test_a_folder_belongs_to_one_experiment_and_recipe(arguments: Arguments) -> None:
    ran(arguments("alignment-probe"))
    assert "another recipe. Choose another --out" in failed(arguments("alignment-probe", "--set", "seed=18"), "E404")
    assert "another sample." in failed(arguments("alignment-probe", "--sample", "4"), "E404")
    assert "another experiment." in failed(arguments("teacher"), "E404")
