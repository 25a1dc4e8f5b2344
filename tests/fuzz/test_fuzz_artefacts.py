"""Recipes, registries, manifests and LoRA configs: those that ship, changed in any way, are read or refused with a code."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from odd import VALUES, at_the_door, cases, changed, spoilt

from llink import Engine, LlinkError
from llink.adapter.files import BRIDGE, LORA, MANIFEST, check, load_bridge, read_manifest
from llink.adapter.lora import Lora
from llink.adapter.lora_files import LORA_CONFIG, read_lora_config
from llink.cli.names import check_names
from llink.recipe import load_recipe, validate
from llink.store import ensure
from llink.store.registry import load_registry

ROOT = Path(__file__).parents[2]
RECIPES = sorted([*ROOT.glob("languages/*/recipes/*.yaml"), *ROOT.glob("llink_plugins/*/recipes/*.yaml")])
ADAPTERS = sorted(ROOT.glob("languages/*/adapters/*"))
REGISTRY = ROOT / "registry.yaml"


def own_file(folder: pytest.TempPathFactory, name: str, data: bytes) -> Path:
    path = folder.getbasetemp() / name
    path.write_bytes(data)
    return path


def as_yaml(tree: Any) -> bytes:
    """What can be written is written by PyYAML, else as JSON, which YAML may be."""
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        return json.dumps(tree, default=str, skipkeys=True).encode()


def trees(paths: list[Path]) -> list[Any]:
    return [yaml.safe_load(path.read_text("utf-8")) for path in paths]


@cases(500)
@given(changed(trees(RECIPES)), spoilt([path.read_bytes() for path in RECIPES]), st.booleans())
def test_recipes(tmp_path_factory: pytest.TempPathFactory, tree: Any, text: bytes, damaged: bool) -> None:
    if not damaged and isinstance(tree, dict):
        at_the_door(validate, tree, "x")
    path = own_file(tmp_path_factory, "recipe.yaml", text if damaged else as_yaml(tree))
    recipe = at_the_door(load_recipe, path)
    if not isinstance(recipe, LlinkError):
        at_the_door(check_names, recipe)


KEYS = [
    "seed",
    "stage_b.lora.r",
    "injector.slots",
    "injector.options.heads",
    "data.train",
    "stage_a.losses.x",
    "",
    ".",
    "a..b",
    "name.x",
    "expect.a.b",
]


@cases(300)
@given(st.sampled_from(KEYS), st.one_of(st.sampled_from(VALUES).map(str), st.text(max_size=20)))
def test_overrides(key: str, value: str) -> None:
    at_the_door(load_recipe, RECIPES[0], (f"{key}={value}",))


@cases(80)
@given(changed(trees([REGISTRY])), spoilt([REGISTRY.read_bytes()]), st.booleans())
def test_registries(tmp_path_factory: pytest.TempPathFactory, tree: Any, text: bytes, damaged: bool) -> None:
    path = own_file(tmp_path_factory, "own.yaml", text if damaged else as_yaml(tree))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_REGISTRY", str(path))
        found = at_the_door(load_registry)
    assert not isinstance(found, LlinkError) or found.code in ("E102", "E106")


def files_of(folder: Path) -> dict[str, Any]:
    return {name: json.loads((folder / name).read_text("utf-8")) for name in (MANIFEST, LORA_CONFIG)}


@pytest.mark.parametrize("name", [MANIFEST, LORA_CONFIG])
@cases(250)
@given(st.data())
def test_files_of_adapters(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "read"
    folder.mkdir(exist_ok=True)
    tree = data.draw(changed([files_of(path)[name] for path in ADAPTERS]))
    content = json.dumps(tree, default=str, skipkeys=True).encode()
    (folder / name).write_bytes(data.draw(spoilt([content])) if data.draw(st.booleans()) else content)
    read = read_manifest if name == MANIFEST else read_lora_config
    at_the_door(read, folder)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str) -> Engine:
    return Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("name", [MANIFEST, LORA_CONFIG, BRIDGE, LORA])
@cases(50)
@given(st.data())
def test_adapters(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, tiny_adapter: Path, name: str, data: st.DataObject
) -> None:
    """All of an adapter is loaded, its hashes right for what was changed."""
    folder = tmp_path_factory.getbasetemp() / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_adapter, folder)
    if name in (BRIDGE, LORA):
        (folder / name).write_bytes(data.draw(spoilt([(folder / name).read_bytes()], 2)))
    else:
        (folder / name).write_text(json.dumps(data.draw(changed([files_of(folder)[name]])), default=str, skipkeys=True))
    if name != MANIFEST:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        manifest["files"] = {own: hashlib.sha256((folder / own).read_bytes()).hexdigest() for own in manifest["files"]}
        (folder / MANIFEST).write_text(json.dumps(manifest))

    def load() -> None:
        manifest = read_manifest(folder)
        check(folder, manifest, engine.encoder, engine.decoder)
        load_bridge(folder, manifest)
        Lora.load(folder, engine.decoder)

    at_the_door(load)


@cases(100)
@given(st.data())
def test_configs_of_models(tmp_path_factory: pytest.TempPathFactory, encoder_folder: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "model"
    if not folder.exists():
        shutil.copytree(encoder_folder, folder)
    tree = data.draw(changed([json.loads((Path(encoder_folder) / "config.json").read_text("utf-8"))]))
    (folder / "config.json").write_text(json.dumps(tree, default=str, skipkeys=True))
    at_the_door(ensure, str(folder), "encoder")
