"""``llink estimate``: its counts are those of the real modules, its FLOPs and bytes those of real steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llink import LlinkError
from llink.adapter.bridge import Bridge
from llink.adapter.losses.info_nce import InfoNCE
from llink.adapter.projectors.mlp import MLPProjector
from llink.adapter.prompt import TASKS, build
from llink.adapter.slots import target_losses
from llink.cli import main
from llink.cli.names import all_recipes
from llink.recipe import ModelChoice, Recipe, load_recipe, validate
from llink.store.models import load_decoder, load_encoder
from llink.store.registry import load_registry
from llink.training.sizing import Lengths, Plan, Shape, build_blank, device, devices, size
from llink.training.stage_b import add_lora

H100 = device("h100")


def run(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["estimate", *args])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def paper() -> Recipe:
    return load_recipe(all_recipes()["km/paper"])


def test_the_papers_pair_at_its_published_sizes(paper: Recipe) -> None:
    """277M without the pooler (arXiv 1911.02116, table 12: 270M), 1.23B (the model's card); LoRA and projector by hand."""
    found = size(paper, H100)
    wide, kv, inner = 2048, 512, 8192
    lora = 16 * 16 * (2 * (wide + wide) + 2 * (wide + kv) + 3 * (wide + inner))
    projector = 768 * 3072 + 3072 + 2 * 3072 + 3072 * 2048 + 2048
    assert found.parameters["encoder"] == 278_043_648 - (768 * 768 + 768)
    assert found.parameters["decoder"] == 1_235_814_400
    assert found.parameters["LoRA"] == lora == 11_272_192
    assert found.trainable == {"A": projector, "B": lora + found.parameters["injector"]}
    # The files of the registry hold these numbers (XLM-R's in float32, Llama's in bfloat16) and little else.
    for name, part, width in (("xlm-roberta-base", "encoder", 4), ("llama-3.2-1b-instruct", "decoder", 2)):
        assert load_registry().models[name].source.bytes == pytest.approx(width * found.parameters[part], rel=0.01)


@pytest.mark.parametrize("kind", ["chatml_llama", "llama3", "qwen2"])
def test_counts_of_decoders_are_those_of_the_loaded_model(
    kind: str, models: Callable[[str], str], tiny_recipe: Recipe
) -> None:
    decoder = load_decoder(models(kind), dtype="float32")
    shape = Shape.of(build_blank(ModelChoice(name=models(kind)), "decoder"))
    assert shape.parameters == sum(p.numel() for p in decoder.model.parameters())
    lora = add_lora(decoder, tiny_recipe.stage_b)
    recipe = tiny_recipe.model_copy(update={"decoder": ModelChoice(name=models(kind))})
    assert Plan(recipe, H100).decoder.trained == lora.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(("kind", "layer"), [("xlm_roberta", None), ("xlm_roberta", 2), ("gemma3", 2), ("gemma3", 3)])
def test_counts_of_encoders_end_at_the_layer_that_is_read(
    kind: str, layer: int | None, models: Callable[[str], str]
) -> None:
    options = {} if layer is None else {"layer": layer}
    loaded: Any = load_encoder(models(kind), dtype="float32", **options)
    blank = build_blank(ModelChoice(name=models(kind), options=options), "encoder")
    assert sum(p.numel() for p in blank.parameters()) == sum(p.numel() for p in loaded.model.parameters())


def one_step(recipe: Recipe, text: str, rows: int, dtype: str = "float32") -> tuple[Callable[[], Tensor], Lengths, Any]:
    """The loss of a stage B step whose rows are all alike, and the lengths of it."""
    decoder = load_decoder(recipe.decoder.name, dtype=dtype)
    encoder = load_encoder(recipe.encoder.name, dtype="float32", **recipe.encoder.options)
    bridge = Bridge.create(encoder, decoder, recipe.projector, recipe.injector)
    bridge.projector.requires_grad_(False)
    add_lora(decoder, recipe.stage_b).train()
    prompt = build(decoder, TASKS["translate"], slots=bridge.slots)
    target = decoder.tokenize(text)
    states = torch.randn(rows, 20, encoder.hidden_size)

    def loss() -> Tensor:
        slots = bridge(states.mean(1), states, torch.ones(states.shape[:2], dtype=torch.bool))
        return target_losses(decoder, prompt, slots, [target] * rows).sum() / (rows * (len(target) + 1))

    lengths = Lengths(20, len(target), len(prompt.prefix), len(prompt.suffix))
    return loss, lengths, decoder


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Every matrix product within the block, those of attention too, which torch does not count in its fused kernels."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def changed(recipe: Recipe, **stage_b: Any) -> Recipe:
    return recipe.model_copy(update={"stage_b": recipe.stage_b.model_copy(update=stage_b)})


def test_flops_of_stage_b_are_those_of_a_real_step(tiny_recipe: Recipe) -> None:
    recipe = changed(tiny_recipe, batch=6, losses={"usage_contrast": 0.0}, max_target_tokens=400)
    loss, lengths, _ = one_step(recipe, "The market opens early in the morning.", 6)
    with counted() as counter:
        loss().backward()
    assert Plan(recipe, H100, lengths=lengths).injection_step(recipe.stage_b) == pytest.approx(
        counter.get_total_flops(), rel=0.04
    )
    with counted() as counter, torch.no_grad():
        loss()
    more = Plan(changed(recipe, losses={"usage_contrast": 0.05}, usage_every=1), H100, lengths=lengths)
    plain = Plan(recipe, H100, lengths=lengths)
    extra = more.injection_step(more.recipe.stage_b) - plain.injection_step(recipe.stage_b)
    assert extra == pytest.approx(counter.get_total_flops(), rel=0.1)  # but for the bridge


def test_flops_of_stage_a_are_those_of_a_real_step(tiny_recipe: Recipe) -> None:
    config = tiny_recipe.stage_a
    projector = MLPProjector(encoder_size=32, decoder_size=32, hidden=64, dropout=0.1)
    queue = torch.nn.functional.normalize(torch.randn(config.queue, 32), dim=-1)
    with counted() as counter:
        InfoNCE()(
            student=projector(torch.randn(config.batch, 32)), teacher=torch.randn(config.batch, 32), temperature=0.1,
            queue=queue, hardest=4,
        ).backward()  # fmt: skip
    assert Plan(tiny_recipe, H100).stage_a_step() == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_flops_of_encoding_are_those_of_a_real_pass(tiny_recipe: Recipe) -> None:
    encoder = load_encoder(tiny_recipe.encoder.name, dtype="float32", **tiny_recipe.encoder.options)
    text = "ខ្ញុំចូលចិត្តរៀន។"
    with counted() as counter:
        encoder.encode([text])
    recipe = tiny_recipe.model_copy(update={"stage_a": tiny_recipe.stage_a.model_copy(update={"english_side": False})})
    lengths = Lengths(foreign=encoder.count_tokens([text])[0], pairs=1)
    assert Plan(recipe, H100, lengths=lengths).encode_flops() == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_a_real_step_keeps(tiny_recipe: Recipe, dtype: str) -> None:
    rows = 8
    recipe = changed(tiny_recipe, batch=rows)
    loss, lengths, decoder = one_step(recipe, "The market opens early in the morning. " * 3, rows, dtype)
    kept: dict[int, int] = {}
    still = {p.untyped_storage().data_ptr() for p in decoder.model.parameters()}
    alive = []  # so that no storage is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(tensor)
        if storage.data_ptr() not in still:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    where = replace(device("cpu"), bf16=1e12)
    plan = Plan(recipe.model_copy(update={"dtype": dtype}), where, lengths=lengths)
    assert plan.dtype == dtype
    logits = rows * (lengths.english + 1) * decoder.embedding_matrix().shape[0] * 4
    assert plan.kept(rows, lengths.english) + logits == pytest.approx(sum(kept.values()), rel=0.1)


def test_what_fits_and_what_does_not(paper: Recipe) -> None:
    fits = size(paper, H100)
    assert [m.fits for m in fits.memory] == [True, True]
    plan = Plan(paper, H100)
    for found, bytes_of in zip(fits.memory, (plan.stage_a_bytes, plan.injection_bytes), strict=True):
        assert bytes_of(found.largest).total <= H100.memory < bytes_of(found.largest + 1).total
    small = size(paper, device("h100", memory=8e9)).memory[1]
    assert not small.fits
    assert 0 < small.largest < 16
    assert size(paper, device("h100", memory=3e9)).memory[1].largest == 0
    # Over four devices each has a quarter of the rows, and the time of what is bound by compute is a quarter.
    four = size(paper, H100, count=4)
    assert four.memory[1].batch == 4
    alone, shared = ({p.name: p for p in s.parts} for s in (fits, four))
    assert alone["teacher states"].bound == "compute"
    assert four.parts[0].flops == fits.parts[0].flops
    assert shared["teacher states"].seconds < alone["teacher states"].seconds
    twice = size(paper, device("a100"), mfu=0.1).parts[-1]
    assert size(paper, device("a100"), mfu=0.05).parts[-1].seconds == pytest.approx(2 * twice.seconds)


def test_every_shipped_recipe_has_an_estimate() -> None:
    assert {"h100", "h200", "a100", "l4", "t4", "cpu"} <= set(devices())
    assert all(d.source and d.memory > 1e9 and d.peak("bfloat16") > 1e11 for d in devices().values())
    for name, path in all_recipes().items():
        if name.startswith("km/"):
            recipe = load_recipe(path)
            found = size(recipe, device("t4"))
            assert found.dtype == "float32"
            assert {p.name for p in found.parts} >= {"encoding", "stage A"}
            assert ("stage B" in {p.name for p in found.parts}) == (recipe.stage_b.examples > 0)
            assert recipe.stage_b.examples or "self-distillation" not in {p.name for p in found.parts}
            assert all(p.seconds > 0 and p.steps > 0 for p in found.parts)


def test_help_names_every_device() -> None:
    assert all(name in run("--help").stdout for name in devices())


def test_from_the_command_line(raw_recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw_recipe))
    shown = run(str(path), "--device", "l4").stdout
    assert "on 1 x l4 (NVIDIA L4: 30.3 TFLOP/s in float32, 24.0 GB)" in shown
    for word in ("encoder", "LoRA", "self-distillation", "stage B", "together", "largest batch", "not a measurement"):
        assert word in shown
    assert "--set dtype=float32" not in shown
    assert "t4 does not compute in bfloat16: train with --set dtype=float32" in run("km/paper", "--device", "t4").stdout
    found = json.loads(run(str(path), "--json", "--set", "dtype=bfloat16", "--peak", "100", "--memory", "1").stdout)
    assert (found["dtype"], found["device"]["bf16"], found["device"]["memory"]) == ("bfloat16", 1e14, 1e9)
    assert found["seconds"] == pytest.approx(sum(part["seconds"] for part in found["parts"]))
    assert "does not fit: not even a batch of one" in run(str(path), "--memory", "0.001").stdout
    assert "stage C" not in shown
    joint = json.loads(run(str(path), "--json", "--set", "stage_c.examples=32").stdout)
    projector = joint["parameters"]["projector"]
    assert joint["trainable"]["C"] == joint["trainable"]["B"] + projector
    assert joint["memory"][2]["trained"] - joint["memory"][1]["trained"] == (16 - 4) * projector
    assert joint["parts"][-1]["name"] == "stage C"
    assert joint["parts"][-1]["flops"] > joint["parts"][-2]["flops"]
    instructed = json.loads(run(str(path), "--json", "--set", "data.instructions=[a.jsonl]").stdout)
    assert "self-distillation" not in {part["name"] for part in instructed["parts"]}


def test_what_cannot_be_estimated(raw_recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**raw_recipe, "decoder": {"name": "llama-9"}}))
    assert "[E232] The sizes of 'llama-9' are not known" in run(str(path), status=1).stderr
    assert "[E231] Unknown device 'h10'. Did you mean 'h100'?" in run(str(path), "--device", "h10", status=1).stderr
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{half")
    with pytest.raises(LlinkError, match=r"\[E232\].*damaged"):
        build_blank(ModelChoice(name=str(folder)), "decoder")
    (folder / "config.json").write_text('{"model_type": "no-such"}')
    with pytest.raises(LlinkError, match=r"\[E232\] No model can be made"):
        build_blank(ModelChoice(name=str(folder)), "decoder")
    assert validate(raw_recipe, "x")
