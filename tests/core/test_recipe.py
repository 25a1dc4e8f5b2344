"""Recipes: what is refused, what --set changes, and that every shipped one is valid."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llink import LlinkError
from llink.recipe import Recipe, load_recipe, recipe_files, validate

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(ROOT.glob("languages/*/recipes/*.yaml"))
BASES = sorted(ROOT.glob("llink_plugins/*/recipes/*.yaml"))


@pytest.fixture
def raw(raw_recipe: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(raw_recipe)


@pytest.fixture
def file(raw: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parts[-3]}/{p.name}")
def test_shipped_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    # What it says of itself comes first: what it needs and how to launch it.
    head = path.read_text(encoding="utf-8").split("extends:")[0]
    assert "# Needs:" in head
    assert f"llink train {recipe.language}" in head
    # As a run writes it down, it is the same recipe again.
    assert validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))), "again") == recipe


@pytest.mark.parametrize("path", BASES, ids=lambda p: f"{p.parts[-3]}/{p.name}")
def test_base_recipe(path: Path, tmp_path: Path) -> None:
    """A language's own part over it makes a whole recipe."""
    own = tmp_path / "own.yaml"
    own.write_text(
        f"extends: llink_plugins.{path.parts[-3]}/{path.stem}\nname: own\nlanguage: km\ndata: {{train: [t.jsonl], min_words: 3}}\n"
    )
    recipe = load_recipe(own)
    assert (recipe.name, recipe.language, recipe.data.train, recipe.data.min_words) == ("own", "km", ["t.jsonl"], 3)
    raw = yaml.safe_load(path.read_text("utf-8"))
    assert recipe.data.max_pairs == raw.get("data", {}).get("max_pairs", recipe.data.max_pairs)
    assert path.read_text("utf-8").startswith("# Base recipe: ")
    # What is run is written down whole, with nothing left to look up.
    assert validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))), "again") == recipe


def test_overrides_go_over_what_is_extended(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "extends: llink_plugins.smollm2/cpu\nname: own\nlanguage: km\ndata: {train: [t.jsonl]}\nstage_b: {batch: 4}\n"
    )
    recipe = load_recipe(own, ("stage_b.lora.r=2",))
    base = load_recipe(ROOT / "languages/llink_khmer/recipes/cpu.yaml")
    assert (recipe.stage_b.batch, recipe.stage_b.lora.r) == (4, 2)
    assert recipe.stage_b.lora.alpha == base.stage_b.lora.alpha
    assert recipe.stage_a == base.stage_a


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("llink_plugins.smollm2/cpuu", "Did you mean 'llink_plugins.smollm2/cpu'?"),
        ("llink_nowhere/cpu", "Available: none."),
        ("../smollm2/cpu", "Available: none."),
        ("llink_plugins.smollm2", "Available: llink_plugins.smollm2/cpu"),
    ],
)
def test_unknown_base(tmp_path: Path, base: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: {base}\nname: own\nlanguage: km\n")
    with pytest.raises(LlinkError) as caught:
        load_recipe(path)
    assert caught.value.code == "E208"
    assert said in str(caught.value)


def test_recipes_that_extend_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "llink_circle" / "recipes"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    for name, other in (("a", "b"), ("b", "a")):
        (folder / f"{name}.yaml").write_text(f"extends: llink_circle/{other}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LlinkError, match="E208"):
        load_recipe(folder / "a.yaml")


def test_khmer_ships_recipes() -> None:
    assert "cpu" in recipe_files("llink_khmer")
    assert ROOT / "languages/llink_khmer/recipes/cpu.yaml" in SHIPPED


@pytest.mark.parametrize(
    ("package", "recipe", "after"),
    [
        ("llink_khmer", "cpu-align", "runs/km-cpu-values/adapter"),
        ("llink_amharic", "cpu", "km"),
        ("llink_burmese", "cpu-more", "runs/my-cpu/adapter"),
    ],
)
def test_an_adapter_was_made_by_its_recipe(package: str, recipe: str, after: str) -> None:
    folder = ROOT / "languages" / package
    manifest = folder / "adapters/gemma3-270m--smollm2-135m-instruct/manifest.json"
    made_by = validate(json.loads(manifest.read_text("utf-8"))["recipe"], "manifest")
    shipped = load_recipe(folder / "recipes" / f"{recipe}.yaml")
    assert shipped.model_copy(update={"init_from": after}) == made_by


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sede", "seed"),
        ("stage_a.epoch", "stage_a.epochs"),
        ("stage_b.lora.rank_alpha", "stage_b.lora.alpha"),
        ("data.trian", "data.train"),
        ("encoder.nam", "encoder.name"),
    ],
)
def test_unknown_key(raw: dict[str, Any], key: str, meant: str) -> None:
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        section = section[parent]
    section[last] = 1
    with pytest.raises(LlinkError) as caught:
        validate(raw, "mine.yaml")
    assert caught.value.code == "E202"
    assert f"mine.yaml: '{key}'" in str(caught.value)
    assert f"Did you mean '{meant}'?" in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stage_a.batch=1", "stage_a.batch"),
        ("stage_a.lr=-1", "stage_a.lr"),
        ("stage_a.lr=fast", "stage_a.lr"),
        ("stage_a.lr=.nan", "stage_a.lr"),
        ("stage_b.task_share=1.5", "stage_b.task_share"),
        ("injector.slots=0", "injector.slots"),
        ("teacher.position=first", "teacher.position"),
        ("dtype=float8", "dtype"),
        ("data.train=nothing", "data.train"),
        ("data.sample={tico19: 2}", "data.sample.tico19"),
        ("data.sample={tico19: -0.1}", "data.sample.tico19"),
        ("version=2", "version"),
        ("stage_b=4", "stage_b"),
        ("stage_b.losses=4", "stage_b.losses"),
        ("stage_b.losses.cosine=-1", "stage_b.losses.cosine"),
        ("stage_b.losses.cosine=.inf", "stage_b.losses.cosine"),
        ("stage_b.losses.cosine=much", "stage_b.losses.cosine"),
        ("stage_a.losses={info_nce: 0, direction: 0, log_norm: 0}", "must weigh more than 0"),
        ("stage_b.btach=4", "Did you mean 'stage_b.batch'?"),
        ("batch", "key=value"),
        ("=4", "key=value"),
        ("name.more=4", "not a section"),
        ("seed=[1", "no YAML"),
    ],
)
def test_bad_override(file: Path, override: str, says: str) -> None:
    with pytest.raises(LlinkError, match=r"^\[E202\]") as caught:
        load_recipe(file, (override,))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides(file: Path) -> None:
    sets = (
        "stage_b.lr_lora=1e-4",
        "stage_b.lora.r=2",
        "stage_a.temperature=[0.1, 0.05]",
        "data.max_pairs=null",
        "encoder.options.layer=1",
        "stage_a.english_side=false",
        "name=with = sign",
        "stage_b.lora.r=3",
        "data.sample={a: 0.5}",
        "stage_a.min_lr=1E-6",
    )
    recipe = load_recipe(file, sets)
    assert recipe.stage_b.lr_lora == 1e-4
    assert recipe.stage_b.lora.r == 3
    assert recipe.stage_b.lora.alpha == load_recipe(file).stage_b.lora.alpha
    assert recipe.stage_a.temperature == (0.1, 0.05)
    assert recipe.stage_a.min_lr == 1e-6
    assert recipe.stage_a.english_side is False
    assert recipe.encoder.options == {"layer": 1}
    assert recipe.data.max_pairs is None
    assert recipe.data.sample == {"a": 0.5}
    assert recipe.name == "with = sign"


def test_losses_are_laid_over_the_defaults(file: Path) -> None:
    plain = load_recipe(file)
    assert plain.stage_a.losses == {"info_nce": 1.0, "direction": 0.05, "log_norm": 0.02}
    assert plain.warm_start.losses == {"bag_of_words": 1.0, "cosine": 1.0}
    one = load_recipe(file, ("stage_b.losses.usage_contrast=0.1", "stage_b.losses.mine=1e-3"))
    assert one.stage_b.losses == {**plain.stage_b.losses, "usage_contrast": 0.1, "mine": 1e-3}


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", b"text"])
def test_no_recipe(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(LlinkError, match=r"\[E202\]") as caught:
        load_recipe(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(LlinkError, match=r"\[E202\]"):
        load_recipe(tmp_path / "none.yaml")


def test_missing_key(raw: dict[str, Any]) -> None:
    del raw["language"]
    with pytest.raises(LlinkError, match=r"\[E202\].*language"):
        validate(raw, "x")


def test_recipe_is_frozen(tiny_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny_recipe.seed = 3


def test_recipe_without_end(tmp_path: Path) -> None:
    """Told from its size, before YAML is read."""
    (tmp_path / "x.yaml").write_bytes(b"# no more than a comment\n" * 20_000)
    with pytest.raises(LlinkError, match=r"\[E202\].*larger than 0.3 MB"):
        load_recipe(tmp_path / "x.yaml")
