"""The adapter folder: what is in it, and that a damaged or foreign one is refused with a code."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llink import Engine, LlinkError, plugins
from llink.adapter.card import card
from llink.adapter.files import BRIDGE, LORA, MANIFEST, check, find_adapter, load_bridge, pair_name, read_manifest
from llink.recipe import Recipe
from llink.store.models import load_decoder, load_encoder
from llink_khmer import SAMPLES


@pytest.fixture
def folder(tiny_adapter: Path, tmp_path: Path) -> Path:
    """An adapter to spoil."""
    return Path(shutil.copytree(tiny_adapter, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def load(encoder_folder: str, decoder_folder: str) -> Callable[[Path], Engine]:
    """An engine with an adapter."""

    def loaded(folder: Path) -> Engine:
        engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
        engine.add("km", folder)
        return engine

    return loaded


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files, as one who spoils a file on purpose would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def change(folder: Path, **fields: Any) -> None:
    manifest = {**json.loads((folder / MANIFEST).read_text()), **fields}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def refused(load: Callable[[Path], Engine], folder: Path, code: str, says: str = "") -> None:
    with pytest.raises(LlinkError) as caught:
        load(folder)
    assert caught.value.code == code, caught.value
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_in_the_folder(tiny_adapter: Path) -> None:
    files = {p.name for p in tiny_adapter.rglob("*")}
    assert files == {BRIDGE, LORA, MANIFEST, "adapter_config.json", "README.md"}
    for path in tiny_adapter.iterdir():
        head = path.read_bytes()[:4]
        # Neither a pickle nor the zip that torch.save writes.
        assert not head.startswith((b"\x80", b"PK"))
    config = json.loads((tiny_adapter / "adapter_config.json").read_text())
    assert not config["modules_to_save"]
    assert (config["r"], config["peft_type"], config["task_type"]) == (4, "LORA", "CAUSAL_LM")
    lora = load_file(tiny_adapter / LORA)
    assert all(".lora_A." in name or ".lora_B." in name for name in lora)
    assert len(lora) == 2 * 7 * 3  # A and B of seven projections in three layers
    assert {t.dtype for t in lora.values()} == {torch.bfloat16}


def test_nothing_in_it_names_this_machine(tiny_adapter: Path) -> None:
    for name in ("adapter_config.json", "README.md"):
        assert str(Path.home()) not in (tiny_adapter / name).read_text()
    assert json.loads((tiny_adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "chatml_llama"


def test_card(tiny_adapter: Path) -> None:
    text = (tiny_adapter / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Khmer for chatml_llama, read through xlm_roberta\n")  # no front matter
    assert "peft" not in text.lower()
    assert "| samples | 24 pairs | CC0-1.0 |" in text
    assert "K = 4" in text
    assert "--language km " in text
    assert "### retrieval" in text
    assert "### usage" in text


def test_card_names_the_licences_of_both_base_models(tiny_adapter: Path) -> None:
    manifest = read_manifest(tiny_adapter)
    known = manifest.model_copy(update={"encoder": "gemma3-270m", "decoder": "smollm2-135m-instruct"})
    text = card(known)
    assert "encoder `gemma3-270m`: Gemma Terms of Use, https://ai.google.dev/gemma/terms" in text
    assert "decoder `smollm2-135m-instruct`: Apache-2.0" in text
    assert "encoder `xlm_roberta`: see the model's own page" in card(manifest)


def test_manifest(tiny_adapter: Path, tiny_recipe: Recipe, encoder_folder: str, decoder_folder: str) -> None:
    manifest = read_manifest(tiny_adapter)
    assert (manifest.language, manifest.encoder, manifest.decoder) == ("km", "xlm_roberta", "chatml_llama")
    assert manifest.slots == 4
    assert manifest.encoder_options == {"layer": 2}
    assert manifest.recipe == tiny_recipe.model_dump(mode="json")
    assert manifest.data["samples"] == {"pairs": 24, "licence": "CC0-1.0"}
    assert set(manifest.metrics) - {"retrieval through the projector"} == {"retrieval", "usage"}
    assert set(manifest.files) == {BRIDGE, LORA, "adapter_config.json"}
    encoder, decoder = load_encoder(encoder_folder, layer=2), load_decoder(decoder_folder)
    assert manifest.encoder_fingerprint == encoder.fingerprint
    assert manifest.decoder_fingerprint == decoder.fingerprint
    check(tiny_adapter, manifest, encoder, decoder)


def test_saved_and_loaded_is_what_was_trained(tiny_adapter: Path, tiny_run: Path) -> None:
    manifest = read_manifest(tiny_adapter)
    bridge = load_bridge(tiny_adapter, manifest)
    assert not any(p.requires_grad for p in bridge.parameters())
    assert not bridge.training
    state = bridge.state_dict()
    # Stage B leaves the projector as stage A made it, but for bfloat16; what standardises is exact.
    for name, value in load_file(tiny_run / "stage_a.safetensors").items():
        if name in ("input_mean", "input_std", "teacher_mean"):
            assert torch.equal(state[f"projector.{name}"], value)
            assert value.abs().sum() > 0
        else:
            assert torch.equal(state[f"projector.{name}"], value.bfloat16().float())
    assert manifest.bridge["injector"]["kind"] == "resampler"


def test_loaded_adapter_measures_what_training_measured(
    load: Callable[[Path], Engine], tiny_adapter: Path, tiny_recipe: Recipe, pairs_folder: Path
) -> None:
    """The whole way round: LoRA, bridge and prompt as the engine uses them give the losses of the manifest."""
    from llink.evaluation.run import evaluate

    again = evaluate(
        plugins.language("km"), ["usage", "retrieval"], recipe=tiny_recipe, data=pairs_folder, adapter=tiny_adapter
    )
    metrics = read_manifest(tiny_adapter).metrics
    for name in ("right", "zero", "shuffled"):
        assert again["usage"]["dev"][name] == pytest.approx(metrics["usage"]["dev"][name], abs=0.03)
    assert again["usage"]["dev"]["right"] != pytest.approx(again["usage"]["dev"]["zero"], abs=0.01)
    assert again["retrieval"]["dev"]["mean_rank"] == pytest.approx(metrics["retrieval"]["dev"]["mean_rank"], abs=0.5)


def test_found_by_pair_of_models(
    tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder_folder: str, decoder_folder: str
) -> None:
    khmer = plugins.language("km")
    home = tmp_path / "home" / "adapters" / "km"
    with pytest.raises(LlinkError, match=r"\[E301\]"):
        find_adapter(khmer, encoder_folder, decoder_folder)
    shutil.copytree(tiny_adapter, home / "xlm_roberta--chatml_llama")
    assert find_adapter(khmer, encoder_folder, decoder_folder) == home / "xlm_roberta--chatml_llama"
    with pytest.raises(LlinkError, match=r"\[E301\].*xlm_roberta--chatml_llama"):
        find_adapter(khmer, encoder_folder, "another")
    # Encoder options come from the manifest; nobody has to repeat them.
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    assert isinstance(engine.generate(SAMPLES[0].foreign, max_new_tokens=2), str)


@pytest.mark.parametrize("name", ["a/b", "../../etc", ".hidden", "ខ្មែរ", ""])
def test_pair_name_is_one_folder(name: str) -> None:
    folder = pair_name(name, name)
    assert "/" not in folder
    assert not folder.startswith(".")


def test_missing(load: Callable[[Path], Engine], folder: Path) -> None:
    refused(load, folder / "none", "E301")
    (folder / MANIFEST).unlink()
    refused(load, folder, "E301", MANIFEST)


@pytest.mark.parametrize("name", [BRIDGE, LORA, "adapter_config.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "empty"])
def test_damaged_file(load: Callable[[Path], Engine], folder: Path, name: str, damage: str) -> None:
    whole = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "cut":
        (folder / name).write_bytes(whole[:-7])
    elif damage == "empty":
        (folder / name).write_bytes(b"")
    else:
        whole[-9] ^= 1
        (folder / name).write_bytes(whole)
    refused(load, folder, "E310", name)


@pytest.mark.parametrize("name", [BRIDGE, LORA])
@pytest.mark.parametrize("damage", ["cut", "garbage", "nan", "missing", "extra", "shape"])
def test_damage_that_the_hash_agrees_with(
    load: Callable[[Path], Engine], folder: Path, name: str, damage: str, decoder_folder: str
) -> None:
    path = folder / name
    tensors = load_file(path)
    matrices = [k for k in tensors if tensors[k].dim() == 2]
    key = matrices[len(matrices) // 2]
    if damage == "nan":
        tensors[key][0, 0] = float("nan")
    elif damage == "missing":
        del tensors[key]
    elif damage == "extra":
        tensors["stranger"] = torch.zeros(2)
    elif damage == "shape":
        tensors[key] = torch.zeros(3, 5)
    save_file(tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 100)
    rehash(folder)
    refused(load, folder, "E310", name)


def test_a_refused_adapter_leaves_the_decoder_as_it_was(
    load: Callable[[Path], Engine], tiny_adapter: Path, folder: Path, encoder_folder: str, decoder_folder: str
) -> None:
    tensors = load_file(folder / LORA)
    last = sorted(tensors)[-1]
    tensors[last] = torch.ones(7, 7, dtype=torch.bfloat16)
    tensors = {k: v + 1 if k != last else v for k, v in tensors.items()}
    save_file(tensors, folder / LORA)
    rehash(folder)
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = engine.decoder.model(ids).logits
        with pytest.raises(LlinkError, match=r"\[E310\]"):
            engine.add("km", folder)
        assert torch.equal(engine.decoder.model(ids).logits, before)
        engine.add("km", tiny_adapter)
        with engine.using("km"):
            after = engine.decoder.model(ids).logits
        clean = load(tiny_adapter)
        with clean.using("km"):
            assert torch.equal(clean.decoder.model(ids).logits, after)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "not json",
        "{}",
        '{"version": 1}',
        "\u0000",
    ],
)
def test_damaged_manifest(load: Callable[[Path], Engine], folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    refused(load, folder, "E310", MANIFEST)


def test_manifest_with_an_unknown_key(load: Callable[[Path], Engine], folder: Path) -> None:
    change(folder, run_this="import os")
    refused(load, folder, "E310", "run_this")


def test_manifest_that_lies(load: Callable[[Path], Engine], folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    change(folder, files={**files, "../../outside": "0" * 64})
    refused(load, folder, "E310", "outside")
    change(folder, files=files, bridge={"encoder_size": 1})
    refused(load, folder, "E310", BRIDGE)


@pytest.mark.parametrize("modules", [["lm_head"], ["nowhere"]])
def test_lora_on_what_it_may_not_touch(load: Callable[[Path], Engine], folder: Path, modules: list[str]) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": modules}))
    rehash(folder)
    refused(load, folder, "E310", modules[0])


def test_made_for_another_decoder(
    tiny_adapter: Path, encoder_folder: str, models: Callable[[str], str], tmp_path: Path
) -> None:
    import tiny

    # Of the same shape and name, with other weights; and of the same weights, with another tokenizer and template.
    other = tiny.chatml_llama(tmp_path / "chatml_llama", seed=8)
    for decoder, says in ((str(other), "decoder 'chatml_llama'"), (models("llama3"), "another prompt")):
        engine = Engine.load(encoder_folder, decoder, device="cpu", dtype="float32")
        with pytest.raises(LlinkError, match=rf"\[E311\].*{says}"):
            engine.add("km", tiny_adapter)
        assert engine.languages == ()


def test_made_for_another_encoder(tiny_adapter: Path, models: Callable[[str], str], decoder_folder: str) -> None:
    engine = Engine.load(models("gemma3"), decoder_folder, device="cpu", dtype="float32")
    with pytest.raises(LlinkError, match=r"\[E311\].*encoder 'xlm_roberta'"):
        engine.add("km", tiny_adapter)


def test_read_at_another_layer(load: Callable[[Path], Engine], folder: Path) -> None:
    change(folder, encoder_options={"layer": 1})
    refused(load, folder, "E311", "encoder")


def test_trained_on_another_prompt(load: Callable[[Path], Engine], folder: Path) -> None:
    change(folder, prompt="0" * 64)
    refused(load, folder, "E311", "prompt")
