"""Stage C: the projector learns with the rest, from stage B on; what it does to retrieval is told; it is off by default."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training import killed_when, rows_of

from llink import LlinkError
from llink.adapter.files import read_manifest
from llink.recipe import load_recipe, validate
from llink.training.run import train


@pytest.fixture
def raw(raw_recipe: dict[str, Any]) -> dict[str, Any]:
    joint = {"examples": 16, "lr_projector": 1e-3, "losses": {"self_distillation_kl": 0.5, "bag_of_words": 0}}
    return {**raw_recipe, "stage_c": joint}


@pytest.fixture
def after_b(tiny_run: Path, tmp_path: Path) -> Path:
    """The folder of a run that ended with stage B, its recipe without a stage C."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def tensors(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "bridge.safetensors") | load_file(adapter / "adapter_model.safetensors")


def test_goes_on_after_stage_b(raw: dict[str, Any], after_b: Path, pairs_folder: Path) -> None:
    recipe = validate(raw, "joint")
    adapter = train(recipe, stage="all", data=pairs_folder, out=after_b, resume=True)
    assert adapter == after_b / "adapter_c"
    old, new = tensors(after_b / "adapter"), tensors(adapter)
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"projector", "injector", "base_model"}
    aligned = load_file(after_b / "stage_a.safetensors")
    for name, value in aligned.items():
        assert torch.equal(old[f"projector.{name}"], value.to(old[f"projector.{name}"].dtype))
    # A small rate: it goes on from where it was.
    for name in (n for n in old if n.startswith("projector.")):
        torch.testing.assert_close(new[name], old[name], atol=0.01, rtol=0.01)

    rows = rows_of(after_b, "c")
    before, after = ([row for row in rows if row.get("when") == when] for when in ("before", "after"))
    assert [row["dev"] for row in before] == [row["dev"] for row in after] == ["dev"]
    [stage_a] = [row for row in rows_of(after_b, "a") if "dev" in row]
    # An adapter is bfloat16 on disk, so that two neighbours of an untrained encoder may change places: 1 -> 1/2, of 6.
    assert before[0]["mrr"] == pytest.approx(stage_a["mrr"], abs=1 / 12 + 1e-4)
    steps = [row for row in rows if "loss" in row]
    assert {"self_distillation_kl", "cosine"} <= set(steps[0])
    assert "bag_of_words" not in steps[0]
    assert [row["step"] for row in rows if "dev.r1" in row] == [1, 3]

    manifest = read_manifest(adapter)
    assert manifest.metrics["retrieval before stage C"]["dev"]["mrr"] == pytest.approx(before[0]["mrr"], abs=1e-4)
    assert manifest.metrics["retrieval"]["dev"]["mrr"] == pytest.approx(after[0]["mrr"], abs=1e-4)
    assert manifest.recipe["stage_c"]["lr_projector"] == 1e-3
    assert "### retrieval before stage C" in (adapter / "README.md").read_text()
    # What is done is handed out, and its recipe is the run's by now.
    assert train(recipe, stage="c", data=pairs_folder, out=after_b, resume=True) == adapter
    other = validate({**raw, "stage_c": {"examples": 4}}, "x")
    with pytest.raises(LlinkError, match=r"\[E404\].*another recipe"):
        train(other, stage="c", data=pairs_folder, out=after_b, resume=True)


def test_killed_and_resumed_is_the_unbroken_run(
    raw: dict[str, Any], after_b: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    whole = Path(shutil.copytree(after_b, tmp_path / "whole"))
    recipe = validate(raw, "joint")
    train(recipe, stage="c", data=pairs_folder, out=whole, resume=True)
    killed_when(after_b / "checkpoints" / "stage_c.safetensors", raw, pairs_folder, after_b, resume=True)
    assert not (after_b / "adapter_c").exists()
    adapter = train(recipe, stage="c", data=pairs_folder, out=after_b, resume=True)
    assert sum(row.get("when") == "before" for row in rows_of(after_b, "c")) == 1
    for name in ("bridge.safetensors", "adapter_model.safetensors"):
        assert (adapter / name).read_bytes() == (whole / "adapter_c" / name).read_bytes()


def test_off_unless_it_is_asked_for(tiny_run: Path, raw: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    assert not (tiny_run / "adapter_c").exists()
    off = validate({**raw, "stage_c": {}}, "off")
    with pytest.raises(LlinkError, match=r"\[E409\].*stage_c.examples"):
        train(off, stage="c", data=pairs_folder, out=tmp_path / "run")
    with pytest.raises(LlinkError, match=r"\[E405\].*--stage b"):
        train(validate(raw, "joint"), stage="c", data=pairs_folder, out=tmp_path / "run")


def test_what_it_does_not_say_is_as_in_stage_b(raw: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "joint.yaml"
    path.write_text(json.dumps(raw))
    recipe = load_recipe(path, ("stage_b.batch=2", "stage_b.losses.cosine=0.7", "stage_c.lr_lora=1e-5"))
    b, c = recipe.stage_b, recipe.stage_c
    assert (c.batch, c.distilled, c.lr_lora, c.lr_projector) == (2, b.distilled, 1e-5, 1e-3)
    assert c.losses == {**b.losses, "bag_of_words": 0, "self_distillation_kl": 0.5}
    # As a run writes it down, it is the same recipe again.
    assert validate(json.loads(recipe.model_dump_json()), "again") == recipe
    with pytest.raises(LlinkError, match=r"\[E202\].*stage_c.lr_projector"):
        load_recipe(path, ("stage_c.lr_projector=0",))
    with pytest.raises(LlinkError, match=r"\[E202\].*'stage_c.lora'"):
        load_recipe(path, ("stage_c.lora.r=2",))
