"""Training that starts from another adapter: what is taken over, what is refused, what the manifest says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llink import LlinkError
from llink.adapter.files import install_adapter, load_bridge, read_manifest
from llink.plugins import language
from llink.recipe import Recipe, validate
from llink.training.run import Run, train, with_older


@pytest.fixture
def raw(raw_recipe: dict[str, Any], tiny_adapter: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(raw_recipe))
    return raw | {"init_from": str(tiny_adapter)}


def opened(raw: dict[str, Any], pairs_folder: Path, out: Path) -> Run:
    return Run.open(validate(raw, "test"), pairs_folder, out, resume=False)


def test_the_bridge_starts_as_the_older_adapter_left_it(
    raw: dict[str, Any], tiny_adapter: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    started = opened(raw, pairs_folder, tmp_path / "run").bridge().weights()
    older = load_bridge(tiny_adapter, read_manifest(tiny_adapter)).weights()
    assert started.keys() == older.keys()
    assert all(torch.equal(started[name], older[name]) for name in older)


def test_the_lora_starts_from_the_older_one(
    raw: dict[str, Any], tiny_adapter: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    """At learning rates of next to nothing it ends where the older one stands; a fresh LoRA has B = 0."""
    raw["stage_b"] |= {"examples": 4, "lr_lora": 1e-12, "lr_injector": 1e-12, "lr_scale": 1e-12, "distilled": 0}
    train(validate(raw, "test"), stage="all", data=pairs_folder, out=tmp_path / "run")
    new = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    older = load_file(tiny_adapter / "adapter_model.safetensors")
    assert any(name.endswith("lora_B.weight") and tensor.any() for name, tensor in older.items())
    assert new.keys() == older.keys()
    assert all(torch.equal(new[name], older[name]) for name in older)


def test_stage_b_alone_goes_on_from_the_adapter(
    raw: dict[str, Any], tiny_adapter: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    """Neither aligned anew nor warmed up again; and what it learns is on top of what was there."""
    raw["stage_b"] |= {"examples": 8, "lr_lora": 1e-12, "lr_injector": 1e-12, "lr_scale": 1e-12, "distilled": 0}
    out = tmp_path / "run"
    adapter = train(validate(raw, "test"), stage="b", data=pairs_folder, out=out)
    for name in ("bridge.safetensors", "adapter_model.safetensors"):
        new, older = load_file(adapter / name), load_file(tiny_adapter / name)
        assert new.keys() == older.keys()
        assert all(torch.allclose(new[key], older[key]) for key in older)
    stages = {json.loads(line)["stage"] for line in (out / "metrics.jsonl").open(encoding="utf-8")}
    assert "stage_b" in stages
    assert not stages & {"stage_a", "warm_start"}
    raw["stage_b"] |= {"lr_lora": 1e-2, "lr_injector": 1e-2}
    trained = train(validate(raw, "test"), stage="b", data=pairs_folder, out=tmp_path / "learns")
    assert (trained / "bridge.safetensors").read_bytes() != (adapter / "bridge.safetensors").read_bytes()


def test_stage_a_alone_makes_an_adapter_with_no_examples_in_stage_b(
    raw: dict[str, Any], tiny_adapter: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    """A projector that has learnt on, and injector and LoRA as they were."""
    raw["stage_b"] |= {"examples": 0}
    raw["warm_start"] = {"epochs": 0}
    out = tmp_path / "run"
    adapter = train(validate(raw, "test"), stage="all", data=pairs_folder, out=out)
    assert (adapter / "adapter_model.safetensors").read_bytes() == (
        tiny_adapter / "adapter_model.safetensors"
    ).read_bytes()
    new, older = load_file(adapter / "bridge.safetensors"), load_file(tiny_adapter / "bridge.safetensors")
    learnt = {name for name in older if not torch.equal(new[name], older[name])}
    assert {"projector.up.weight", "projector.down.weight"} <= learnt
    assert all(name.startswith("projector.") for name in learnt)
    metrics = read_manifest(adapter).metrics
    assert metrics["retrieval"].keys() == metrics["usage"].keys() == {"dev"}


def test_stage_b_alone_asks_for_the_alignment_of_its_own_language(
    raw: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(LlinkError, match="stage A") as caught:
        train(validate(raw | {"language": "am"}, "test"), stage="b", data=pairs_folder, out=tmp_path / "run")
    assert caught.value.code == "E405"


def test_the_manifest_names_the_older_adapter_and_its_data(
    raw: dict[str, Any], tiny_adapter: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    raw["language"] = "am"
    adapter = train(validate(raw, "test"), stage="all", data=pairs_folder, out=tmp_path / "run")
    manifest, older = read_manifest(adapter), read_manifest(tiny_adapter)
    assert manifest.init_from == {"language": "km", "files": older.files}
    assert manifest.data["samples (km, through init_from)"] == older.data["samples"]
    assert "samples (km, through init_from)" in (adapter / "README.md").read_text("utf-8")


def test_sources_of_both_adapters_are_named_once(tiny_adapter: Path) -> None:
    row, more, fewer = ({"pairs": n, "licence": "MIT"} for n in (5, 9, 2))
    older = read_manifest(tiny_adapter).model_copy(update={"data": {"a": row, "b (my, through init_from)": row}})
    once = with_older({"a": fewer, "c": row}, older, "km")
    assert once == {"a": row, "c": row, "b (my, through init_from)": row}
    assert with_older({"a": more}, older, "km")["a"] == more
    assert with_older({"a": more}, older, "am") == {
        "a": more, "a (km, through init_from)": row, "b (my, through init_from)": row,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"projector": {"hidden": 32}}, "projector and injector"),
        ({"injector": {"kind": "pooled", "slots": 4}}, "projector and injector"),
    ],
)
def test_other_sizes_are_refused(
    raw: dict[str, Any], change: dict[str, Any], named: str, pairs_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(LlinkError, match=named) as caught:
        opened(raw | change, pairs_folder, tmp_path / "run").bridge()
    assert caught.value.code == "E407"


def test_another_rank_is_refused(raw: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    raw["stage_b"]["lora"] = {"r": 2}
    with pytest.raises(LlinkError) as caught:
        train(validate(raw, "test"), stage="all", data=pairs_folder, out=tmp_path / "run")
    assert caught.value.code == "E407"


def test_a_language_without_an_adapter_for_the_pair(tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe.model_copy(update={"init_from": "km"})
    with pytest.raises(LlinkError) as caught:
        Run.open(recipe, pairs_folder, tmp_path / "run", resume=False)
    assert caught.value.code == "E301"


def test_an_adapter_is_installed_beside_its_language(
    tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the language's own package where that is the user's; in LLINK_HOME where it is pip's. Twice is no error."""
    khmer = language("km")
    for folder, place in (("mine", tmp_path / "mine"), ("site-packages", tmp_path / "home" / "adapters")):
        package = tmp_path / folder / "llink_somewhere"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(package.parent))
            other = type(khmer)(**{**vars(khmer), "package": "llink_somewhere"})
            installed = install_adapter(tiny_adapter, other)
            assert install_adapter(tiny_adapter, other) == installed
        assert installed.is_relative_to(place)
        assert read_manifest(installed) == read_manifest(tiny_adapter)
        assert [p for p in installed.parent.iterdir() if p.name.startswith(".")] == []
        import importlib
        import sys

        sys.modules.pop("llink_somewhere", None)
        importlib.invalidate_caches()


def test_matched_means_move_the_english_side_alone(tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path) -> None:
    data = tiny_recipe.data.model_copy(update={"match_means": True})
    run = Run.open(tiny_recipe.model_copy(update={"data": data}), pairs_folder, tmp_path / "run", resume=False)
    run.encode()
    foreign, english = (
        [p.foreign for p in run.pairs.rows],
        sorted({p.english for p in run.pairs.rows} | set(run.english)),
    )
    assert torch.equal(run.features.pooled(foreign), run.cache.pooled(foreign))
    moved = run.features.pooled(english)
    assert torch.allclose(moved.mean(0), run.cache.pooled(foreign).mean(0), atol=1e-5)
    assert not torch.allclose(moved.mean(0), run.cache.pooled(english).mean(0), atol=1e-2)
    states, mask = run.features.states([foreign[0], *english])
    plain, _ = run.cache.states([foreign[0], *english])
    assert torch.equal(states[0], plain[0])
    assert not states[~mask].any()
    assert torch.allclose(
        states[1:][mask[1:]].mean(0), run.cache.states(foreign)[0][run.cache.states(foreign)[1]].mean(0), atol=1e-4
    )
