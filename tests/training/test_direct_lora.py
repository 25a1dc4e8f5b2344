"""The baseline ``direct-lora``: trained on the raw text, resumable, refused on another decoder; and answer scores."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from llink import LlinkError
from llink.adapter.prompt import TASKS, build
from llink.adapter.scoring import answer_losses, embedded
from llink.adapter.slots import answer_prompts
from llink.cli import main
from llink.data.pairs import Pair
from llink.home import home
from llink.recipe import Recipe, validate
from llink.store.models import load_decoder
from llink.training import direct_lora
from llink.training.checkpoints import Checkpoint
from llink.training.loop import Part
from llink.training.stage_b import Example, add_lora
from llink_khmer import SAMPLES

Models = Callable[[str], str]
PAIRS = [Pair(s.english, s.foreign) for s in SAMPLES]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def raw(raw_recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that can learn in seconds what a handful of sentences say."""
    stage_b = {**raw_recipe["stage_b"], "examples": 240, "batch": 8, "lr_lora": 2e-2, "distilled": 0, "warmup": 0.1}
    return {**raw_recipe, "stage_b": stage_b, "checkpoint_every": 10}


@pytest.fixture(scope="module")
def trained(raw: dict[str, Any], pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("direct") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(out.parent / "home"))
        return direct_lora.train(validate(raw, "direct"), data=pairs_folder, out=out)


def llink(*arguments: Any, status: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def test_it_learns_the_raw_text(trained: Path, decoder_folder: str, pairs_folder: Path) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    rows = [Pair(**row) for row in map(json.loads, (pairs_folder / "train.jsonl").open(encoding="utf-8"))]
    bare = direct_lora.loss(decoder, rows)
    with direct_lora.carrying(decoder, trained):
        assert direct_lora.loss(decoder, rows) < bare - 1
    # The decoder is left as it was.
    assert direct_lora.loss(decoder, rows) == bare


def test_the_run_reports_itself(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert [row["step"] for row in rows if "dev.right" in row] == [9, 19, 29]
    about = direct_lora.read_about(trained)
    assert about["examples"] == 240
    assert about["seconds"] > 0
    assert set(about["usage"]["dev"]) == {"right"}
    assert {path.name for path in trained.iterdir()} == {"adapter_config.json", WEIGHTS, "metrics.json"}


def test_resumed_is_the_unbroken_run(trained: Path, raw: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    recipe, out = validate(raw, "direct"), tmp_path / "run"
    save = Checkpoint.save

    def save_and_die(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            direct_lora.train(recipe, data=pairs_folder, out=out)
    assert not (out / "direct-lora").exists()
    with pytest.raises(LlinkError, match=r"\[E404\].*--resume"):
        direct_lora.train(recipe, data=pairs_folder, out=out)
    folder = direct_lora.train(recipe, data=pairs_folder, out=out, resume=True)
    assert (folder / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()
    assert direct_lora.train(recipe, data=pairs_folder, out=out, resume=True) == folder


def test_answers_are_those_of_the_lora(trained: Path, decoder_folder: str) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    prompts = [build(decoder, TASKS["translate"], text=p.foreign) for p in PAIRS[:5]]
    raw = answer_prompts(decoder, prompts, 12)
    with direct_lora.carrying(decoder, trained):
        assert answer_prompts(decoder, prompts, 12) != raw
    assert answer_prompts(decoder, prompts, 12) == raw


def test_vectors_are_the_state_behind_the_prompt(trained: Path, decoder_folder: str) -> None:
    decoder: Any = load_decoder(decoder_folder, dtype="float32")
    texts = [p.foreign for p in PAIRS[:5]]
    found = direct_lora.vectors(decoder, texts)
    for row, text in zip(found, texts, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([build(decoder, TASKS["translate"], text=text).ids])
            states = decoder.model(ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(row, states[0, -1], atol=1e-4, rtol=1e-4)
    with direct_lora.carrying(decoder, trained):
        assert not torch.allclose(direct_lora.vectors(decoder, texts), found, atol=1e-2)


def test_the_clock_can_decide(raw: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    recipe = validate({**raw, "stage_b": {**raw["stage_b"], "examples": 10**9}, "dev_examples": 0}, "direct")
    folder = direct_lora.train(recipe, data=pairs_folder, out=tmp_path / "run", minutes=2 / 60)
    about = direct_lora.read_about(folder)
    assert 2 <= about["seconds"] < 20
    assert 0 < about["examples"] < 10**6


@pytest.mark.parametrize(("rows_that_fit", "passes"), [(2, [2, 1]), (1, [1, 1, 1]), (0, [1, 1, 1])])
def test_a_long_batch_goes_through_in_pieces(
    tiny_recipe: Recipe, decoder_folder: str, monkeypatch: pytest.MonkeyPatch, rows_that_fit: int, passes: list[int]
) -> None:
    """Loss and gradient are those of the whole, of a part that is a row short too; all parts have as many pieces."""
    decoder = load_decoder(decoder_folder, dtype="float32")
    examples = [Example(p.foreign, "translate", p.english, p.english) for p in PAIRS]
    torch.manual_seed(0)
    lora = add_lora(decoder, tiny_recipe.stage_b)
    lora.eval()
    stage = direct_lora._DirectLora(decoder, lora, examples, tiny_recipe.stage_b, 0, 5)
    trained = [p for p in lora.parameters() if p.requires_grad]
    parts = [Part(0, [4, 0, 3, 1, 2], number, 2, None) for number in (0, 1)]  # type: ignore[arg-type]
    longest = max(len(stage.prompts[i].ids) + len(stage.targets[i]) for i in range(5))
    monkeypatch.setattr(direct_lora, "MOST_TOKENS", longest * rows_that_fit)
    for part in parts:
        pieces = stage.pieces(part)
        assert [len(piece.rows) for piece in pieces] == passes
        loss = stage.loss(part)[0]
        losses = [stage.loss(piece)[0] for piece in pieces]
        assert sum(piece.item() for piece in losses) == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, trained)
        assert any(gradient.abs().max() > 1e-4 for gradient in gradients)
        of_pieces = [torch.autograd.grad(piece, trained) for piece in losses]
        torch.testing.assert_close(tuple(map(sum, zip(*of_pieces, strict=True))), gradients, atol=1e-6, rtol=1e-4)


def test_in_pieces_it_learns_the_same(
    raw: dict[str, Any], pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = copy.deepcopy(raw)
    raw["stage_b"] |= {"examples": 48, "lr_lora": 2e-3, "lora": {**raw["stage_b"]["lora"], "dropout": 0.0}}
    recipe = validate(raw, "direct")
    one, other = (tmp_path / name for name in ("one", "other"))
    direct_lora.train(recipe, data=pairs_folder, out=one)
    monkeypatch.setattr(direct_lora, "MOST_TOKENS", 1)
    direct_lora.train(recipe, data=pairs_folder, out=other)
    rows, same = (map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) for out in (one, other))
    for row, its in zip(rows, same, strict=True):
        if "loss" in row:
            assert row == pytest.approx(its, abs=1e-4)
    weights, alike = (load_file(out / "direct-lora" / WEIGHTS) for out in (one, other))
    torch.testing.assert_close(weights, alike, atol=1e-4, rtol=1e-3)


def test_it_goes_on_from_an_earlier_one(
    trained: Path, raw: dict[str, Any], pairs_folder: Path, models: Models, tmp_path: Path
) -> None:
    """At a learning rate of next to nothing it ends where that one stood; what both took is added up."""
    recipe = copy.deepcopy(raw) | {"init_from": str(trained)}
    recipe["stage_b"] |= {"examples": 8, "lr_lora": 1e-12}
    folder = direct_lora.train(validate(recipe, "direct"), data=pairs_folder, out=tmp_path / "more")
    older, new = load_file(trained / WEIGHTS), load_file(folder / WEIGHTS)
    assert new.keys() == older.keys()
    assert all(torch.allclose(new[name], older[name]) for name in older)
    before, after = direct_lora.read_about(trained), direct_lora.read_about(folder)
    assert after["examples"] == before["examples"] + 8
    own = [row for row in map(json.loads, (tmp_path / "more" / "metrics.jsonl").open()) if row.get("examples") == 8][-1]
    assert after["seconds"] == pytest.approx(before["seconds"] + own["seconds"])
    other = recipe | {"decoder": {"name": models("qwen2")}}
    for name, changed, code in (("r", {"lora": {"r": 2}}, "E407"), ("decoder", {}, "E527")):
        wrong = (other if name == "decoder" else recipe) | {"stage_b": recipe["stage_b"] | changed}
        with pytest.raises(LlinkError) as caught:
            direct_lora.train(validate(wrong, "direct"), data=pairs_folder, out=tmp_path / name)
        assert caught.value.code == code


def test_what_it_cannot_go_on_from_is_told_before_it_trains(
    trained: Path, raw: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    for name, code in ((str(trained.parent), "E527"), (str(trained) + "-gone", "E201"), ("kn", "E201")):
        with pytest.raises(LlinkError) as caught:
            direct_lora.train(validate(raw | {"init_from": name}, "direct"), data=pairs_folder, out=tmp_path / "run")
        assert caught.value.code == code
        assert not (tmp_path / "run").exists()


def test_from_the_command_line(raw: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(raw))
    common = ("train", "km", "--recipe", recipe, "--data", pairs_folder, "--baseline", "direct-lora")
    out = tmp_path / "out"
    result = llink(*common, "--set", "stage_b.examples=16", "--out", out)
    assert f"Baseline: {out / 'direct-lora'}" in result.stdout
    assert "16 examples in" in result.stdout
    assert "nats a token" in result.stdout
    assert not (home() / "adapters").exists()
    assert "[E404]" in llink(*common, "--out", out, status=1).stderr
    assert "--minutes goes with --baseline" in llink("train", "km", "--minutes", "1", status=2).stderr
    assert "no stages" in llink(*common, "--stage", "a", status=2).stderr


def test_a_folder_that_is_no_baseline(trained: Path, models: Models, decoder_folder: str, tmp_path: Path) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    with (
        pytest.raises(LlinkError, match=r"\[E527\].*holds no direct-lora baseline"),
        direct_lora.carrying(decoder, tmp_path),
    ):
        pass
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(LlinkError, match=r"\[E527\]"):
        direct_lora.read_about(tmp_path)
    other = load_decoder(models("qwen2"), dtype="float32")
    with pytest.raises(LlinkError, match=r"\[E527\].*not on 'qwen2'"), direct_lora.carrying(other, trained):
        pass


def test_losses_of_answers_are_transformers_own(decoder_folder: str) -> None:
    decoder: Any = load_decoder(decoder_folder, dtype="float32")
    prompts = [build(decoder, TASKS["translate"], text=p.foreign) for p in PAIRS[:3]]
    answers = [[*decoder.tokenize(p.english)[: 3 + 2 * i], decoder.end_of_turn] for i, p in enumerate(PAIRS[:3])]
    with torch.inference_mode():
        losses, greedy = answer_losses(decoder, embedded(decoder, prompts), answers)
        for i, (prompt, ids) in enumerate(zip(prompts, answers, strict=True)):
            logits = decoder.model(torch.tensor([[*prompt.ids, *ids]])).logits[0, len(prompt.ids) - 1 : -1]
            expected = -logits.log_softmax(-1)[torch.arange(len(ids)), ids]
            torch.testing.assert_close(losses[i, : len(ids)], expected, atol=1e-4, rtol=1e-4)
            assert not losses[i, len(ids) :].any()
            assert greedy[i, : len(ids)].tolist() == (logits.argmax(-1) == torch.tensor(ids)).tolist()
            assert greedy[i, len(ids) :].all()


def test_loss_of_nothing(decoder_folder: str) -> None:
    assert math.isnan(direct_lora.loss(load_decoder(decoder_folder, dtype="float32"), []))
