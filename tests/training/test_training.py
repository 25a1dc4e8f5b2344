"""Training: that it learns, that a kill costs nothing, and that the feature cache keeps its word."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn

from llink import LlinkError, plugins
from llink.adapter.projectors.mlp import MLPProjector
from llink.data.instruct import DISTILLED_TASKS, distil
from llink.features.cache import token_batches
from llink.interfaces import LossTerm
from llink.recipe import Recipe, StageA, validate
from llink.store.models import load_decoder
from llink.training.loop import warmup_cosine
from llink.training.ranks import retrieval_metrics
from llink.training.run import Run, train
from llink.training.stage_a import AlignmentData, epoch_batches, train_stage_a
from llink.training.stage_b import Example, task_batches
from llink.training.warm_start import SlotTargets, length_batches
from llink_khmer import SAMPLES

# A run in a process of its own that kills itself, as the kernel would, as soon as a file appears.
VICTIM = """
import json, os, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from llink.recipe import validate
from llink.training.run import train

recipe, data, out, fatal, resume = sys.argv[1:]

def watch():
    while not os.path.exists(fatal):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
train(validate(json.loads(recipe), "victim"), stage="all", data=Path(data), out=Path(out), resume=resume == "yes")
"""


def killed_when(fatal: Path, raw: dict[str, Any], data: Path, out: Path, resume: bool) -> None:
    arguments = [json.dumps(raw), str(data), str(out), str(fatal), "yes" if resume else "no"]
    result = subprocess.run([sys.executable, "-c", VICTIM, *arguments], capture_output=True, timeout=240)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()[-2000:]


def step_of(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="pt") as file:
        return int(file.metadata()["step"])


def rows_of(out: Path, stage: str) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["stage"] == stage]


def test_killed_twice_and_resumed_is_the_unbroken_run(
    tiny_run: Path, raw_recipe: dict[str, Any], tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    checkpoints = out / "checkpoints"
    killed_when(checkpoints / "stage_a.safetensors", raw_recipe, pairs_folder, out, resume=False)
    assert not (out / "warm_start.safetensors").exists()
    killed_when(checkpoints / "stage_b.safetensors", raw_recipe, pairs_folder, out, resume=True)
    assert (out / "warm_start.safetensors").exists()
    assert not (out / "adapter").exists()
    # What a kill in the middle of a write leaves behind is not taken for a checkpoint.
    (checkpoints / ".stage_b.safetensors.new").write_bytes(b"half of i")
    step = step_of(checkpoints / "stage_b.safetensors")
    assert 0 < step < 8
    before = len(rows_of(out, "b"))

    adapter = train(tiny_recipe, stage="all", data=pairs_folder, out=out, resume=True)
    assert rows_of(out, "b")[before]["step"] >= step  # it went on, it did not begin anew
    for name in ("stage_a.safetensors", "warm_start.safetensors"):
        assert (out / name).read_bytes() == (tiny_run / name).read_bytes()
    for name in ("bridge.safetensors", "adapter_model.safetensors", "adapter_config.json"):
        assert (adapter / name).read_bytes() == (tiny_run / "adapter" / name).read_bytes()


def test_another_seed_is_another_adapter(
    tiny_run: Path, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    """Or the test above would show nothing."""
    recipe = validate({**raw_recipe, "seed": 18}, "x")
    adapter = train(recipe, stage="all", data=pairs_folder, out=tmp_path / "run")
    for name in ("bridge.safetensors", "adapter_model.safetensors"):
        assert (adapter / name).read_bytes() != (tiny_run / "adapter" / name).read_bytes()


def test_a_run_reports_itself(tiny_run: Path) -> None:
    [a] = [row for row in rows_of(tiny_run, "a") if "dev" in row]
    assert {"r1", "r5", "r10", "mrr", "mean_rank", "back_r1"} <= set(a)
    b = rows_of(tiny_run, "b")
    terms = {"loss", "cosine", "info_nce", "bag_of_words", "usage_contrast"}
    assert terms <= set(b[0])
    dev = [row for row in b if "dev.right" in row]
    assert [row["step"] for row in dev] == [1, 3, 5, 7]
    for row in dev:
        assert row["dev.usage_gap"] == pytest.approx(row["dev.zero"] - row["dev.right"], abs=1e-4)
    assert {row["stage"] for row in map(json.loads, (tiny_run / "metrics.jsonl").open())} >= {
        "encode", "stage_a", "warm_start", "distil", "stage_b",
    }  # fmt: skip


def test_stages_one_by_one_are_the_whole_run(
    tiny_run: Path, tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(LlinkError, match=r"\[E405\]"):
        train(tiny_recipe, stage="b", data=pairs_folder, out=out)
    assert train(tiny_recipe, stage="a", data=pairs_folder, out=out, resume=True) == out
    assert not (out / "adapter").exists()
    adapter = train(tiny_recipe, stage="b", data=pairs_folder, out=out, resume=True)
    for name in ("bridge.safetensors", "adapter_model.safetensors"):
        assert (adapter / name).read_bytes() == (tiny_run / "adapter" / name).read_bytes()


def test_runs_that_share_their_models_do_not_meet(
    tiny_run: Path, tiny_recipe: Recipe, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path
) -> None:
    """The LoRA of the first must be off the decoder when the second begins."""
    first = Run.open(validate({**raw_recipe, "seed": 18}, "x"), pairs_folder, tmp_path / "first", resume=False)
    second = first.beside(tiny_recipe, tmp_path / "second")
    first.stage_a()
    first.stage_b()
    assert not [name for name, _ in first.decoder.model.named_modules() if "lora" in name]
    second.stage_a()
    adapter = second.stage_b()
    for name in ("bridge.safetensors", "adapter_model.safetensors"):
        assert (adapter / name).read_bytes() == (tiny_run / "adapter" / name).read_bytes()
    with pytest.raises(LlinkError, match=r"\[E404\].*another recipe"):
        second.beside(validate({**raw_recipe, "seed": 19}, "x"), tmp_path / "first")


def test_a_folder_belongs_to_one_recipe(
    tiny_run: Path, tiny_recipe: Recipe, raw_recipe: dict[str, Any], pairs_folder: Path
) -> None:
    with pytest.raises(LlinkError, match=r"\[E404\].*already holds a run.*--resume"):
        train(tiny_recipe, stage="all", data=pairs_folder, out=tiny_run)
    other = validate({**raw_recipe, "seed": 99}, "x")
    with pytest.raises(LlinkError, match=r"\[E404\].*another recipe"):
        train(other, stage="all", data=pairs_folder, out=tiny_run, resume=True)
    # The finished run is handed out as it is.
    assert train(tiny_recipe, stage="all", data=pairs_folder, out=tiny_run, resume=True) == tiny_run / "adapter"


def test_run_folder_that_cannot_be_made(tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LlinkError, match=r"\[E404\].*--out"):
        train(tiny_recipe, stage="all", data=pairs_folder, out=tmp_path / "file" / "run")


def test_unwritable_cache_stops_a_run(
    tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLINK_HOME", str(tmp_path / "file"))
    with pytest.raises(LlinkError, match=r"\[E112\].*LLINK_HOME"):
        train(tiny_recipe, stage="all", data=pairs_folder, out=tmp_path / "run")


@pytest.mark.parametrize("position", ["mean", "reserved"])
def test_other_teachers(position: str, raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    """Also when stage B starts where nothing of stage A is cached: the LoRA must not reach the teacher."""
    recipe = validate({**raw_recipe, "teacher": {"layer": -1, "position": position}}, "x")
    train(recipe, stage="a", data=pairs_folder, out=tmp_path / "run")
    [stage_a] = [row for row in rows_of(tmp_path / "run", "a") if "dev" in row]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(tmp_path / "other"))
        adapter = train(recipe, stage="b", data=pairs_folder, out=tmp_path / "run", resume=True)
    # The projector stays as it was, and so must its ranks.
    metrics = json.loads((adapter / "manifest.json").read_text())["metrics"]
    retrieval = metrics.get("retrieval through the projector", metrics["retrieval"])["dev"]
    assert retrieval == pytest.approx({k: v for k, v in stage_a.items() if k in retrieval}, abs=1e-4)


# Stage A alone.


def linear_problem(count: int) -> tuple[Tensor, Tensor]:
    """Inputs, and teachers that are a fixed linear map of them with a little noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 16, generator=generator)
    turn = torch.randn(16, 8, generator=generator)
    return inputs, inputs @ turn + 0.1 * torch.randn(count, 8, generator=generator)


def aligned(seed: int = 1, checkpoint: Path | None = None, **config: Any) -> nn.Module:
    inputs, teachers = linear_problem(400)
    torch.manual_seed(seed)
    projector = MLPProjector(encoder_size=16, decoder_size=8, hidden=64, dropout=0.1)
    data = AlignmentData(inputs[:300], teachers[:300], torch.arange(300))
    settings = StageA(**{"epochs": 20, "batch": 50, "queue": 100, "hardest": 20, **config})
    accelerator = Accelerator(cpu=True)
    train_stage_a(
        projector, data, settings, seed=seed, accelerator=accelerator, checkpoint=checkpoint, checkpoint_every=7
    )
    return projector


def test_stage_a_learns_to_find_what_it_never_saw() -> None:
    inputs, teachers = linear_problem(400)
    torch.manual_seed(1)
    fresh = MLPProjector(encoder_size=16, decoder_size=8, hidden=64)
    trained = aligned()
    with torch.no_grad():
        before, after = (retrieval_metrics(p.eval()(inputs[300:]), teachers[300:]) for p in (fresh, trained))
    assert before["r1"] < 0.1  # chance is 0.01
    assert after["r1"] > 0.5
    assert after["mean_rank"] < 5


@pytest.mark.parametrize("share", [0.0, 0.75])
def test_stage_a_goes_on_from_its_last_checkpoint(share: float, tmp_path: Path) -> None:
    whole = aligned(checkpoint=tmp_path / "c", start_share=share)
    assert step_of(tmp_path / "c") == 119
    again = aligned(checkpoint=tmp_path / "c", start_share=share)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_stage_a_can_stay_near_its_start() -> None:
    """The same training, of which only what is kept and measured lies nearer to the start."""
    inputs, teachers = linear_problem(300)
    found: dict[float, list[list[Tensor]]] = {}
    for share in (0.0, 0.75):
        torch.manual_seed(1)
        projector = MLPProjector(encoder_size=16, decoder_size=8, hidden=64, dropout=0.1)
        found[share] = [[p.detach().clone() for p in projector.parameters()]]

        def dev(seen: list[list[Tensor]] = found[share], projector: MLPProjector = projector) -> dict[str, float]:
            seen.append([p.detach().clone() for p in projector.parameters()])
            return {}

        train_stage_a(
            projector, AlignmentData(inputs, teachers, torch.arange(300)),
            StageA(epochs=4, batch=50, queue=100, start_share=share), seed=1, accelerator=Accelerator(cpu=True),
            dev=dev, checkpoint_every=7,
        )  # fmt: skip
        dev()
    start, *whole = found[0.0]
    assert len(whole) == len(found[0.75]) - 1 == 5
    for trained, kept in zip(whole, found[0.75][1:], strict=True):
        assert not torch.allclose(trained[0], start[0], atol=1e-4)
        assert all(
            torch.allclose(k, 0.75 * s + 0.25 * t, atol=1e-6) for k, s, t in zip(kept, start, trained, strict=True)
        )


def test_a_text_meets_no_teacher_of_its_own_in_the_queue(tmp_path: Path) -> None:
    """One English text behind all rows, as its two sides are: nothing may count as a negative, a resume included."""
    inputs, teachers = linear_problem(6)
    torch.manual_seed(1)
    projector = MLPProjector(encoder_size=16, decoder_size=8, hidden=64)
    data = AlignmentData(inputs, teachers[:1].expand(6, -1), torch.full((6,), 5))
    settings = StageA(epochs=4, batch=2, queue=8, hardest=4)
    for _ in range(2):
        rows: list[dict[str, Any]] = []
        train_stage_a(
            projector, data, settings, seed=1, accelerator=Accelerator(cpu=True), checkpoint=tmp_path / "c",
            checkpoint_every=7, log=rows.append,
        )  # fmt: skip
        assert rows[-1]["step"] == 11
        assert rows[-1]["info_nce"] == 0
        assert rows[-1]["direction"] > 0


def test_a_loss_of_weight_zero_is_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Any:
        raise AssertionError

    monkeypatch.setitem(plugins.losses(), "costly", LossTerm("costly", ("stage_a",), never))
    aligned(epochs=0.2, losses={"costly": 0})
    with pytest.raises(LlinkError, match=r"\[E408\] Loss 'costly' cannot be made: AssertionError.*losses.costly=0"):
        aligned(epochs=0.2, losses={"costly": 0.1})


def test_a_loss_asks_for_what_its_stage_has(monkeypatch: pytest.MonkeyPatch) -> None:
    term = LossTerm("eager", ("stage_a",), lambda: lambda *, student, zero, more=None: student.mean())
    monkeypatch.setitem(plugins.losses(), "eager", term)
    with pytest.raises(LlinkError, match=r"\[E408\] Loss 'eager' asks for 'zero', which stage_a does not have.*queue"):
        aligned(losses={"eager": 1})


def test_losses_of_a_run(raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    """Each is logged by name as often as it is computed; switched off, it is neither."""
    stage_b = {**raw_recipe["stage_b"], "usage_every": 20, "examples": 88, "distilled": 0}
    weights = {"self_distillation_kl": 0.5, "cosine": 0, "usage_contrast": 1}
    warm = {**raw_recipe["warm_start"], "losses": {"bag_of_words": 0}}
    raw = {**raw_recipe, "stage_b": {**stage_b, "losses": weights}, "warm_start": warm, "checkpoint_every": 99}
    adapter = train(validate(raw, "x"), stage="all", data=pairs_folder, out=tmp_path / "run")
    assert {"cosine", "bag_of_words"} & set(rows_of(tmp_path / "run", "warm_start")[0]) == {"cosine"}
    rows = [row for row in rows_of(tmp_path / "run", "b") if "loss" in row]
    assert [row["step"] for row in rows] == [0, 20, 21]
    assert all(row["self_distillation_kl"] > 0 and "cosine" not in row for row in rows)
    assert [("usage_contrast" in row) for row in rows] == [True, True, False]
    assert json.loads((adapter / "manifest.json").read_text())["recipe"]["stage_b"]["losses"] == {
        "cosine": 0, "info_nce": 0.001, "bag_of_words": 0.1, "usage_contrast": 1, "self_distillation_kl": 0.5,
    }  # fmt: skip


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(LlinkError, match=r"\[E402\].*stage_a.lr"):
        aligned(lr=1e30, clip=1e30)


def test_warm_up_and_cosine() -> None:
    rates = [warmup_cosine(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


# The order of the data.


def lists(batches: Any, count: int) -> list[list[int]]:
    return [list(map(int, batch)) for batch in islice(batches, count)]


LENGTHS = [3, 50, 4, 49, 5, 48, 6, 47, 7, 46, 8]
TASKS = [Example(str(n), "translate" if n % 3 else "title", "t", "e") for n in range(11)]
STREAMS = {
    "epoch": lambda first, seed=1: epoch_batches(11, 4, seed, first),
    "length": lambda first, seed=1: length_batches(LENGTHS, 4, seed, first),
    "task": lambda first, seed=1: task_batches(TASKS, LENGTHS, 2, seed, first),
}


@pytest.mark.parametrize("name", STREAMS)
def test_batches_go_on_exactly_where_they_stopped(name: str) -> None:
    stream = STREAMS[name]
    whole = lists(stream(0), 20)
    for first in range(1, 12):
        assert lists(stream(first), 20 - first) == whole[first:]
    assert lists(stream(0, 2), 20) != whole


@pytest.mark.parametrize("name", ["epoch", "length"])
def test_an_epoch_has_every_row_once_in_a_new_order(name: str) -> None:
    epochs = [lists(STREAMS[name](3 * n), 3) for n in range(3)]
    for epoch in epochs:
        assert sorted(chain(*epoch)) == list(range(11))
    assert epochs[0] != epochs[1] != epochs[2]


def test_length_batches_hold_like_lengths() -> None:
    for batch in lists(length_batches(LENGTHS, 2, 1), 5):
        lengths = [LENGTHS[i] for i in batch]
        assert max(lengths) - min(lengths) < 2


def test_task_batches_hold_one_task_each() -> None:
    batches = lists(task_batches(TASKS, LENGTHS, 2, 1), 300)
    kinds = [{TASKS[i].task for i in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    # 7 of 11 examples are translations.
    assert sum(kind == {"translate"} for kind in kinds) / 300 == pytest.approx(7 / 11, abs=0.1)


def test_token_batches_stay_within_the_budget() -> None:
    counts = sorted([1, 1, 2, 3, 5, 8, 13, 21, 34])
    batches = list(token_batches(counts, 20))
    assert list(chain(*batches)) == list(range(9))
    assert all(len(b) == 1 or len(b) * max(counts[i] for i in b) <= 20 for b in batches)


# What the slots aim at, and where the answers come from.


def test_slot_targets(decoder_folder: str) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    targets = SlotTargets(decoder)
    assert targets.chunks([5, 6, 7, 8, 9, 10], 3) == [[5, 6], [7, 8], [9, 10]]
    assert targets.chunks([5], 3) == [[5], [targets.filler], [targets.filler]]
    assert torch.equal(targets([[[5, 6], [7]]], 4)[0], targets([[[5, 6, 7]]], 4)[0][:, [0, 1, 2, 3]])
    means, vocabulary, wanted = targets([[[5, 6, 7, 5, 9, 10]]], 3)
    table = decoder.embedding_matrix()
    torch.testing.assert_close(means[0], torch.stack([table[[a, b]].mean(0) for a, b in ((5, 6), (7, 5), (9, 10))]))
    assert vocabulary.shape == (5, 32)
    torch.testing.assert_close(vocabulary.norm(dim=-1), torch.ones(5))
    assert wanted[0].tolist() == [[0.5, 0.5, 0, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5]]


def test_distilled_answers_are_kept(decoder_folder: str, tmp_path: Path) -> None:
    decoder = load_decoder(decoder_folder, dtype="float32")
    texts = [s.english for s in SAMPLES[:5]]
    first = distil(decoder, texts, tmp_path, max_new_tokens=400)
    assert {task for _, task, _ in first} <= set(DISTILLED_TASKS)
    [log] = tmp_path.iterdir()
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 5
    # A kill cuts off the last line: that one is asked again, the others are not.
    kept = [json.dumps({**row, "answer": f"Known {n}."}) for n, row in enumerate(rows)]
    log.write_text("\n".join([*kept[:4], kept[4][:20]]) + "\n")
    again = distil(decoder, texts, tmp_path, max_new_tokens=400)
    assert {answer for _, _, answer in again} >= {f"Known {n}." for n in range(4)}
    assert [json.loads(line) for line in log.read_text().splitlines()[5:]] == [rows[4]]
