"""Adapters, recipes and registries that anyone may have written: bounded, or refused with a code before anything is built."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llink import Engine, LlinkError
from llink.adapter.files import BRIDGE, LORA, MANIFEST, read_manifest
from llink.recipe import load_recipe, validate
from llink.store.models import load_encoder
from llink.store.registry import load_registry

CONFIG = "adapter_config.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234567\n"
BILLION = 10**9


@pytest.fixture
def folder(tiny_adapter: Path, tmp_path: Path) -> Path:
    """An adapter to spoil."""
    return Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str) -> Engine:
    """One that every refused adapter leaves as it was."""
    return Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")


def spoil(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file of an adapter, and make the manifest's hashes agree."""
    content = change(json.loads((folder / name).read_text()))
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    if name != MANIFEST:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        hashes = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in files}
        spoil(folder, MANIFEST, lambda manifest: {**manifest, "files": hashes})


def refused(engine: Engine, folder: Path, code: str, says: str, language: str = "km") -> None:
    before = time.monotonic()
    with pytest.raises(LlinkError) as caught:
        engine.add(language, folder)
    assert caught.value.code == code, caught.value
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert engine.languages == ()
    assert time.monotonic() - before < 20


def at(path: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Sets a dotted key."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        *parents, last = path.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
        return content

    return change


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e308, -16, 0, "16", True, None, [16], 10**20])
def test_lora_alpha(engine: Engine, folder: Path, alpha: Any) -> None:
    spoil(folder, CONFIG, at("lora_alpha", alpha))
    refused(
        engine, folder, "E310", "lora_alpha" if alpha != 10**20 and alpha == alpha and alpha != float("inf") else CONFIG
    )


@pytest.mark.parametrize("r", [0, -1, BILLION, 2.5, "4", True, None])
def test_lora_rank(engine: Engine, folder: Path, r: Any) -> None:
    spoil(folder, CONFIG, at("r", r))
    refused(engine, folder, "E310", f"{CONFIG}: r:")


@pytest.mark.parametrize("modules", [[1], [], None, [["q_proj"]], {"q_proj": 1}])
def test_lora_target_modules(engine: Engine, folder: Path, modules: Any) -> None:
    spoil(folder, CONFIG, at("target_modules", modules))
    refused(engine, folder, "E310", "target_modules")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", "NO_SUCH"),
        ("peft_type", None),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("bias", "all"),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("layers_to_transform", [0]),
        ("layer_replication", [[0, 2]]),
        ("exclude_modules", ["q_proj"]),
        ("target_parameters", ["q_proj.weight"]),
        ("trainable_token_indices", [1]),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("init_lora_weights", "pissa"),
        ("task_type", "SEQ_CLS"),
        ("target_modules", "all-linear"),
        ("use_tomorrows_lora", True),
    ],
)
def test_lora_of_a_kind_that_is_not_served(engine: Engine, folder: Path, key: str, value: Any) -> None:
    spoil(folder, CONFIG, at(key, value))
    refused(engine, folder, "E312", key)


def test_weights_that_no_training_gives(engine: Engine, folder: Path) -> None:
    tensors = load_file(folder / LORA)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: torch.full_like(tensors[name], 1e30)}, folder / LORA)
    spoil(folder, CONFIG, lambda config: config)
    refused(engine, folder, "E310", "LoRA B")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("slots", BILLION), ("slots", -1), ("slots", 0), ("slots", 5),
        ("verbatim", -5), ("verbatim", BILLION), ("verbatim", None),
        ("bridge.injector.slots", BILLION), ("bridge.injector.slots", {"min": 1, "max": BILLION, "per_tokens": 2}),
        ("bridge.injector.options", {"depth": BILLION}), ("bridge.injector.options", {"width": BILLION}),
        ("bridge.injector.options", {"width": 32, "heads": 7}), ("bridge.injector.options", {"positions": BILLION}),
        ("bridge.injector.options", {"slots": 3}), ("bridge.injector.options", {"depth": "2"}),
        ("bridge.projector.hidden", BILLION), ("bridge.projector.dropout", 7), ("bridge.projector", 3),
        ("bridge.encoder_size", BILLION), ("bridge.encoder_size", 33), ("bridge.decoder_size", 16),
        ("bridge.slot_norm", float("nan")), ("bridge.slot_norm", -1), ("bridge", {}),
        ("encoder_options", {"layer": BILLION}), ("encoder_options", {"layer": "2"}), ("encoder_options", {"device": "cuda"}),
        ("encoder_options", {"name": "x"}), ("encoder_options", {"max_tokens": -5}),
        ("version", 0), ("version", "1"[:0]), ("version", None), ("version", 10**30),
        ("data", {"x": {}}), ("data", {"x": {"licence": 1}}), ("data", {"x": {"licence": "MIT", "pairs": [1]}}),
        ("metrics", {"usage": 3}), ("metrics", []), ("recipe", {}), ("recipe.teacher", {"layer": "x"}), ("recipe.name", 3),
        ("metrics", {"usage": {"dev": {"loss": float("inf")}}}), ("language", "\ud800"), ("decoder", 3),
    ],
)  # fmt: skip
def test_manifest_out_of_bounds(engine: Engine, folder: Path, path: str, value: Any) -> None:
    spoil(folder, MANIFEST, at(path, value))
    refused(engine, folder, "E310", MANIFEST)


def test_made_by_a_later_version(engine: Engine, folder: Path) -> None:
    spoil(folder, MANIFEST, at("version", 999))
    refused(engine, folder, "E312", "made by a later version")
    spoil(folder, MANIFEST, lambda m: {**m, "version": 1, "llink": "999.1", "tomorrow": 1})
    refused(engine, folder, "E312", "made by a later version of LLINK (999.1)")


def test_made_for_another_language(engine: Engine, folder: Path) -> None:
    refused(engine, folder, "E311", "made for the language 'km', not for 'am'", language="am")


@pytest.mark.parametrize("name", [MANIFEST, CONFIG])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"version": NaN}', "\x00", "[]"])
def test_json_without_end(engine: Engine, folder: Path, name: str, content: str) -> None:
    spoil(folder, name, lambda _: content)
    refused(engine, folder, "E310", name)


@pytest.mark.parametrize("name", [MANIFEST, CONFIG, BRIDGE, LORA])
def test_lfs_pointer_in_an_adapter(engine: Engine, folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    refused(engine, folder, "E310", "is a Git LFS pointer")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_lfs_pointer_in_a_model(encoder_folder: str, tmp_path: Path, name: str) -> None:
    model = Path(shutil.copytree(encoder_folder, tmp_path / "model"))
    (model / name).write_bytes(POINTER)
    with pytest.raises(LlinkError, match=r"\[E115\].*is a Git LFS pointer.*git lfs pull"):
        load_encoder(str(model))


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, "{}", '{"architectures": 3}', '{"architectures": ["XLMRobertaModel"]}']
)
def test_model_of_a_broken_config(encoder_folder: str, tmp_path: Path, content: str) -> None:
    model = Path(shutil.copytree(encoder_folder, tmp_path / "model"))
    (model / "config.json").write_text(content)
    with pytest.raises(LlinkError, match=r"\[E115\]"):
        load_encoder(str(model), layer=1)


@pytest.mark.parametrize(
    "override",
    [
        "seed=17171717171717171717", "seed=-1", "injector.slots=1000000000", "injector.options.depth=1000000000",
        "injector.options.heads=7", "injector.options.slots=4", "encoder.options.device=cpu", "encoder.options.name=x",
        "encoder.options.layer=.inf", "encoder.options.layer=two", "decoder.options.dtype=float32", "stage_a.epochs=1e300",
        "stage_a.temperature=[0, 0]", "stage_a.temperature=[.nan, 1]", "stage_b.lora.r=1000000000", "projector.hidden=1000000000",
        "stage_b.examples=100000000000", "data.repeat={x: 1000000000}", "stage_a.lr=.inf", "name=''", "encoder.name=''",
        "injector.slots={min: 1, max: 4, per_tokens: 1e-300}", "injector.options={x: .nan}", "version=999",
        "data.dev={a: 2024-01-01}", "seed=" + "9" * 5000, "injector.options=" + "[" * 5000, "name=\"a\\0b\"",
    ],
)  # fmt: skip
def test_recipe_out_of_bounds(override: str, tmp_path: Path) -> None:
    """The command that checks recipes says it, before any model is looked for."""
    from click.testing import CliRunner

    from llink.cli import main

    done = CliRunner().invoke(main, ["train", "km", "--set", override, "--out", str(tmp_path / "run")])
    assert done.exit_code == 1, done.output
    assert done.output.startswith(("llink: [E202]", "llink: [E408]"))
    assert done.output.count("\n") == 1
    assert len(done.output) < 600


def test_validate_says_what_an_injector_cannot_be_made_of(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from llink.cli import main

    path = tmp_path / "own.yaml"
    path.write_text(
        "extends: llink_plugins.smollm2/cpu\nname: own\nlanguage: km\ndata: {train: [t]}\ninjector: {options: {heads: 7}}\n"
    )
    done = CliRunner().invoke(main, ["recipes", "validate", str(path)])
    assert done.exit_code == 1
    assert "[E408]" in done.output
    assert "7 heads" in done.output


LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
ENDLESS = {
    "deep": "[" * 100_000, "indented": "".join(" " * n + "a:\n" for n in range(600)), "itself": "stage_a: &a {losses: *a}",
    "laughs": LAUGHS, "merges": MERGES, "large": "name: own\n" * 200_000, "digits": "seed: " + "9" * 5000,
    "sixties": "seed: " + ":".join(["1"] * 50_000), "date": "name: 2024-13-45", "tag": "seed: !!int x", "nul": 'name: "\\0"',
    "pointer": POINTER.decode(),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_yaml_without_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(ENDLESS[name])
    before = time.monotonic()
    with pytest.raises(LlinkError, match=r"^\[E202\]") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("LLINK_REGISTRY", str(path))
    with pytest.raises(LlinkError, match=r"^\[E102\]"):
        load_registry()
    assert time.monotonic() - before < 20
    assert name != "pointer" or "Git LFS" in str(caught.value)


def test_a_recipe_in_python_is_bounded_too(raw_recipe: dict[str, Any]) -> None:
    itself: dict[str, Any] = {}
    itself["x"] = itself
    for value in (itself, float("nan"), object(), {1: 2}):
        with pytest.raises(LlinkError, match=r"^\[E202\]"):
            validate({**raw_recipe, "injector": {"options": value}}, "x")


def command(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env={**os.environ, "PYTHONIOENCODING": "utf-8", **env}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def project(folder: Path) -> Path:
    """A folder with a registry that names a package beside it, an entry point, and modules called as some of ours."""
    ran = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    (folder / "evil_lang").mkdir(parents=True)
    (folder / "evil_lang" / "__init__.py").write_text(ran)
    (folder / "registry.yaml").write_text("version: 2\nlanguages: {lo: {package: evil_lang}}\n")
    info = folder / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nevil = evil_lang\n")
    for name in ("click", "yaml", "pluggy"):
        (folder / f"{name}.py").write_text(ran)
    return folder


@pytest.mark.parametrize("how", ["-m llink", "llink"])
def test_code_of_a_folder_that_one_stands_in_never_runs(how: str, tmp_path: Path) -> None:
    place = project(tmp_path / "project")
    script = "import sys; sys.path.pop(0); from llink.cli import main; main(prog_name='llink')"
    start = how.split() if how.startswith("-m") else ["-c", script]
    done = command(*start, "languages", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "lo" not in [line.split()[0] for line in done.stdout.splitlines() if line]
    assert "plugin 'evil_lang'" in done.stderr
    assert not list(place.rglob("ran"))


def test_nor_from_python_that_looks_there(tmp_path: Path) -> None:
    place = project(tmp_path / "project")
    for name in ("click.py", "yaml.py", "pluggy.py"):
        (place / name).unlink()
    shutil.rmtree(place / "evil-1.0.dist-info")  # which would be installed, as far as Python can tell
    done = command("-c", "from llink import plugins; print(sorted(plugins.languages()))", cwd=place)
    assert "'lo'" not in done.stdout
    assert "is not run" in done.stderr
    assert not list(place.rglob("ran"))


def test_a_plugin_that_prints_leaves_stdout_alone(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import os, sys\nprint('hello')\nos.write(1, b'bytes\\n')\nsys.__stdout__.write('again\\n')\n"
        "from llink.hookspecs import hookimpl\n"
        "@hookimpl\ndef llink_languages():\n    print('and here')\n    os.system('echo child')\n    return []\n"
    )
    info = tmp_path / "noisy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nnoisy = noisy\n")
    done = command("-m", "llink", "plugins", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "noisy" in {plugin["name"] for plugin in json.loads(done.stdout)["plugins"]}
    for said in ("hello", "bytes", "and here", "child"):
        assert said in done.stderr


def test_manifest_as_it_ships_is_read(tiny_adapter: Path) -> None:
    for folder in [tiny_adapter, *Path(__file__).parents[2].glob("languages/*/adapters/*")]:
        assert read_manifest(folder).slots >= 4
