"""One loop for any number of processes: two train as one with twice the batch, parts as the whole, and all stop together."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from llink.cli import main
from llink.cli.names import accelerate_configs

WEIGHTS = (
    "stage_a.safetensors",
    "warm_start.safetensors",
    "adapter/bridge.safetensors",
    "adapter/adapter_model.safetensors",
)


@pytest.fixture
def recipe(raw_recipe: dict[str, Any]) -> dict[str, Any]:
    """Without dropout, whose masks depend on how rows lie in batches; every loss at work."""
    raw = copy.deepcopy(raw_recipe)
    raw["projector"]["dropout"] = raw["stage_b"]["lora"]["dropout"] = 0.0
    raw["stage_b"] |= {"usage_every": 1, "examples": 48, "distilled": 0}
    raw["stage_b"]["losses"] = {"cosine": 0.1, "info_nce": 0.1, "bag_of_words": 0.1, "usage_contrast": 2.0,
                                "self_distillation_kl": 0.5}  # fmt: skip
    return raw


def batches(raw: dict[str, Any], stage_a: tuple[int, int], warm_start: int, stage_b: tuple[int, int]) -> dict[str, Any]:
    """The recipe with other batches; a pair is batch and accumulation."""
    raw = copy.deepcopy(raw)
    for stage, (batch, accumulation) in (("stage_a", stage_a), ("stage_b", stage_b)):
        raw[stage] |= {"batch": batch, "accumulation": accumulation}
    raw["warm_start"]["batch"] = warm_start
    return raw


def arguments(raw: dict[str, Any], data: Path, out: Path, *more: str) -> list[str]:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(raw))
    install = () if "--baseline" in more else ("--no-install",)
    return ["train", "km", "--recipe", str(path), "--data", str(data), "--out", str(out), *install, *more]


def llink(raw: dict[str, Any], data: Path, out: Path, *more: str) -> Path:
    done = CliRunner().invoke(main, arguments(raw, data, out, *more))
    assert done.exit_code == 0, done.output
    return out


def launched(
    raw: dict[str, Any],
    data: Path,
    out: Path,
    *more: str,
    config: str = "cpu",
    program: tuple[str, ...] = ("-m", "llink"),
) -> subprocess.CompletedProcess[str]:
    """``llink train`` in two processes, as the docs say."""
    found = CliRunner().invoke(main, ["recipes", "accelerate", config])
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", found.stdout.strip()]
    # A free port, because other tests may be launching too.
    command = [*launch, "--num_processes", "2", "--main_process_port", "0", *program, *arguments(raw, data, out, *more)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def curves(out: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if "seconds" not in row]


def same(one: Path, other: Path) -> None:
    """The same losses in every row of the log, and the same weights, to the tolerance of float32 (bfloat16 where kept so)."""
    mine, its = curves(one), curves(other)
    assert len(mine) > 8
    assert [row.keys() for row in mine] == [row.keys() for row in its]
    for row, twin in zip(mine, its, strict=True):
        assert row == pytest.approx(twin, abs=3e-4), row
    for name in WEIGHTS:
        other_weights = load_file(other / name)
        for key, weight in load_file(one / name).items():
            tolerance = 1e-2 if weight.dtype == torch.bfloat16 else 5e-4
            torch.testing.assert_close(weight, other_weights[key], rtol=tolerance, atol=tolerance, msg=f"{name} {key}")


def test_two_processes_are_one_with_twice_the_batch(recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    done = launched(batches(recipe, (8, 1), 8, (4, 1)), pairs_folder, tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    # One process speaks.
    assert done.stdout.count("Adapter:") == done.stdout.count("Training data:") == done.stdout.count("stage_b:") == 1
    assert [path.name for path in (tmp_path / "two/adapter").parent.glob("adapter*")] == ["adapter"]
    one = llink(batches(recipe, (16, 1), 16, (8, 1)), pairs_folder, tmp_path / "one")
    same(one, tmp_path / "two")
    # Or the test would show nothing.
    half = llink(batches(recipe, (8, 1), 8, (4, 1)), pairs_folder, tmp_path / "half")
    assert curves(half)[0]["loss"] != pytest.approx(curves(one)[0]["loss"], abs=1e-2)


def test_two_processes_have_the_dropout_of_one_that_accumulates(
    raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    done = launched(batches(raw_recipe, (8, 1), 8, (4, 1)), pairs_folder, tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    same(llink(batches(raw_recipe, (8, 2), 16, (4, 2)), pairs_folder, tmp_path / "one"), tmp_path / "two")


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_batch_times_accumulation(recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path, parts: int) -> None:
    """16 x 1, 8 x 2, 4 x 4 and 2 x 8. The last batch of an epoch has fewer rows than there are parts."""
    whole = llink(batches(recipe, (16, 1), 8, (16, 1)), pairs_folder, tmp_path / "whole")
    same(whole, llink(batches(recipe, (16 // parts, parts), 8, (16 // parts, parts)), pairs_folder, tmp_path / "parts"))


def test_all_processes_stop_where_the_loss_is_no_number(
    recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    raw = batches(recipe, (8, 1), 8, (4, 1))
    done = launched(raw, pairs_folder, tmp_path / "run", "--set", "stage_a.lr=1e30", "--set", "stage_a.clip=1e30")
    assert done.returncode == 1
    saved = tmp_path / "run/checkpoints/stage_a.batch.json"
    assert done.stderr.count(f"Lower stage_a.lr. The batch is in {saved}.") == 2
    batch = json.loads(saved.read_text(encoding="utf-8"))
    assert batch["stage"] == "a"
    assert batch["step"] > 0
    assert {batch["loss"], batch["gradient_norm"]} & {"nan", "inf"}
    assert len({part["rng"] for part in batch["parts"]}) == 2
    rows = [json.loads(line) for line in (pairs_folder / "train.jsonl").open(encoding="utf-8")]
    pairs = {row["foreign"]: row["english"] for row in rows}
    foreign = [e for part in batch["parts"] for e in part["examples"] if e["text"] in pairs]
    assert foreign
    assert all(pairs[example["text"]] == example["target"] for example in foreign)


# accelerate has FSDP for accelerators alone: to run it over gloo, two CPU processes pass for GPUs.
AS_GPUS = """
from accelerate.state import PartialState
from accelerate.utils import DistributedType

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
"""
SHARDED = f"""{AS_GPUS}
from torch.distributed.tensor import DTensor
from llink.cli import main
from llink.training.checkpoints import Checkpoint

save = Checkpoint.save

def counted(self, path, step, **options):
    save(self, path, step, **options)
    for module in self.modules.values():
        cut = {{name for name, p in module.named_parameters() if isinstance(p, DTensor)}}
        print(path.name, len(cut), any("bridge" in name for name in cut), flush=True)

Checkpoint.save = counted
main(prog_name="llink")
"""


def test_fsdp2_trains_the_same_with_the_decoder_in_shards(
    recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    recipe["stage_c"] = {"examples": 16}
    raw, whole = batches(recipe, (8, 1), 8, (4, 2)), batches(recipe, (16, 1), 16, (16, 1))
    program = tmp_path / "sharded.py"
    program.write_text(SHARDED)
    done = launched(raw, pairs_folder, tmp_path / "two", config="fsdp2", program=(str(program),))
    assert done.returncode == 0, done.stderr[-3000:]
    tiny_layers = 3
    [cut] = {line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("stage_b.safetensors")}
    assert int(cut.split()[0]) > tiny_layers * 7 * 2  # the LoRA alone
    assert cut.endswith("False")
    one = llink(whole, pairs_folder, tmp_path / "one")
    same(one, tmp_path / "two")
    files = [tmp_path / name / "adapter_c/adapter_model.safetensors" for name in ("one", "two")]
    mine, its = map(load_file, files)
    for key, weight in mine.items():
        torch.testing.assert_close(weight, its[key], rtol=1e-2, atol=1e-2)
    # A checkpoint has whole tensors, moments too; and from one training goes on.
    kept, other = (load_file(tmp_path / name / "checkpoints/stage_b.safetensors") for name in ("one", "two"))
    assert {key: value.shape for key, value in kept.items()} == {key: value.shape for key, value in other.items()}
    before = load_file(files[1])
    for name in ("adapter", "adapter_c"):
        shutil.rmtree(tmp_path / "two" / name)
    (tmp_path / "two/checkpoints/stage_c.safetensors").unlink(missing_ok=True)
    done = launched(raw, pairs_folder, tmp_path / "two", "--resume", config="fsdp2", program=(str(program),))
    assert done.returncode == 0, done.stderr[-3000:]
    for key, weight in load_file(files[1]).items():
        assert torch.equal(weight, before[key])


@pytest.mark.parametrize("config", ["cpu", "fsdp2"])
def test_two_processes_train_the_baseline_in_pieces(
    raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path, config: str
) -> None:
    raw = copy.deepcopy(raw_recipe)
    raw["stage_b"] |= {"examples": 48, "distilled": 0, "lora": {**raw["stage_b"]["lora"], "dropout": 0.0}}
    baseline = ("--baseline", "direct-lora")
    one = llink(batches(raw, (8, 1), 8, (6, 1)), pairs_folder, tmp_path / "one", *baseline)
    program = tmp_path / "pieces.py"
    program.write_text(
        (AS_GPUS if config == "fsdp2" else "")
        + "from llink.cli import main\nfrom llink.training import direct_lora\n"
        + "direct_lora.MOST_TOKENS = 1\nmain(prog_name='llink')\n"
    )
    two = tmp_path / "two"
    done = launched(
        batches(raw, (8, 1), 8, (3, 1)), pairs_folder, two, *baseline, config=config, program=(str(program),)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    mine, its = (folder / "direct-lora/adapter_model.safetensors" for folder in (one, two))
    torch.testing.assert_close(load_file(its), load_file(mine), atol=1e-4, rtol=1e-3)
    assert curves(two)[:-1] == [pytest.approx(row, abs=3e-4) for row in curves(one)[:-1]]


def test_accelerate_configs_are_found_by_name() -> None:
    runner = CliRunner()
    assert set(accelerate_configs()) == {"cpu", "ddp", "fsdp2"}
    listed = runner.invoke(main, ["recipes", "accelerate"])
    assert all(name in listed.stdout for name in accelerate_configs())
    for name, path in accelerate_configs().items():
        assert runner.invoke(main, ["recipes", "accelerate", name]).stdout == f"{path}\n"
        assert f"llink recipes accelerate {name}" in path.read_text(encoding="utf-8")
    wrong = runner.invoke(main, ["recipes", "accelerate", "fsdp"])
    assert wrong.exit_code == 1
    assert "[E209]" in wrong.stderr
    assert "Did you mean 'fsdp2'?" in wrong.stderr
