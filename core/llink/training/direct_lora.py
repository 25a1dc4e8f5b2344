"""The baseline ``direct-lora``: what one would do without LLINK, a LoRA trained on the raw foreign text.

The same frozen decoder, prompt, pairs, tasks, targets and seed as in stage B, the same LoRA. Only the way in differs:
the text stands in the prompt as the decoder's own tokens, and there is neither encoder nor slots.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from llink import plugins
from llink.data.instruct import read_instructions
from llink.data.pairs import Pair, dev_pairs, english_text, training_pairs
from llink.errors import LlinkError
from llink.home import atomic_write
from llink.interfaces import Decoder
from llink.lora import Lora, LoraSwitch
from llink.models import load_decoder
from llink.progress import track
from llink.prompt import TASKS, build
from llink.reading import in_batches
from llink.recipe import Recipe, StageB
from llink.scoring import answer_losses, embedded
from llink.training import trackers
from llink.training.checkpoints import Checkpoint
from llink.training.run import claim, training_examples
from llink.training.run_folder import RunFolder
from llink.training.stage_a import set_lr, warmup_cosine
from llink.training.stage_b import Example, add_lora, keep_rng, task_batches

NAME = "direct-lora"
ABOUT = "metrics.json"
FINAL_DEV = 200
"""Pairs of each dev set that the loss is measured on at the end, as many as stage B takes."""


def train(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    resume: bool = False,
    minutes: float | None = None,
    track: Sequence[str] = (),
) -> Path:
    """Train the baseline of a recipe; returns the folder of its LoRA.

    Args:
        data: folder that the recipe's data paths are relative to.
        out: run folder: ``recipe.yaml``, ``metrics.jsonl``, ``train.png``, ``time_and_memory.json``, ``direct-lora/``
            and, while training, ``checkpoints/``.
        resume: go on with the run in ``out``.
        minutes: how long to train, instead of ``stage_b.examples``; what an earlier run in ``out`` took counts.
        track: trackers that get the log too, see ``llink.training.trackers``.

    Raises:
        LlinkError: E404 when ``out`` holds another run, E402 when the loss is not finite, E420 for a tracker.
    """
    language = plugins.language(recipe.language)
    claim(recipe, out, resume)
    folder = out / NAME
    if folder.exists():
        return folder
    pairs = training_pairs(recipe.data, data, language.normalise)
    english = english_text(recipe.data, data, language.normalise)
    dev = {name: dev_pairs(recipe.data, data, name, language.normalise).rows for name in recipe.data.dev}
    first = {name: rows[: recipe.dev_examples] for name, rows in dev.items()}
    print(f"Training data: {pairs.summary()}", flush=True)
    accelerator = Accelerator(cpu=recipe.device == "cpu", **trackers.options(track, out))
    with RunFolder(out, accelerator, recipe.model_dump(mode="json")) as run:
        device = str(accelerator.device) if recipe.device == "auto" else recipe.device
        with run.timed("load"):
            decoder = load_decoder(
                recipe.decoder.name, device=device, dtype=None if recipe.dtype == "auto" else recipe.dtype,
                **recipe.decoder.options,
            )  # fmt: skip
        with_english = recipe.stage_a.english_side or recipe.stage_b.english_share > 0
        instructions, _ = read_instructions(recipe.data, data, language.normalise)
        examples = training_examples(recipe, decoder, pairs.rows, english if with_english else None, instructions)
        # English in, the same English out teaches slots; a decoder that reads the English itself would only copy.
        examples = [example for example in examples if example.text != example.english]
        torch.manual_seed(recipe.seed)
        lora = add_lora(decoder, recipe.stage_b)
        with run.timed(NAME):
            trained = train_direct_lora(
                decoder,
                lora,
                examples,
                recipe.stage_b,
                seed=recipe.seed,
                accelerator=accelerator,
                seconds=None if minutes is None else 60 * minutes,
                dev=lambda: {f"{name}.right": loss(decoder, rows) for name, rows in first.items() if rows},
                every=recipe.checkpoint_every,
                checkpoint=out / "checkpoints" / NAME,
                log=run.log,
                seen=run.seen,
            )
        losses = {name: {"right": loss(decoder, rows[:FINAL_DEV])} for name, rows in dev.items()}
        about = {
            "baseline": NAME,
            "language": language.code,
            "recipe": recipe.name,
            "decoder": decoder.name,
            "decoder_fingerprint": decoder.fingerprint,
            **trained,
            "usage": losses,
        }
        _save(folder, lora, about)
    return folder


def train_direct_lora(
    decoder: Decoder,
    lora: PeftModel,
    examples: Sequence[Example],
    config: StageB,
    *,
    seed: int,
    accelerator: Accelerator,
    seconds: float | None = None,
    dev: Callable[[], dict[str, float]] = dict,
    every: int = 500,
    checkpoint: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda _: None,
    seen: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, float]:
    """Train the LoRA in place; only target tokens count in the loss. Returns ``examples`` seen and ``seconds`` taken.

    Args:
        config: of stage B: ``examples``, ``batch``, ``lr_lora``, ``warmup``, ``weight_decay``, ``clip``.
        seconds: train for this long, however many examples that is; the learning rate follows the clock then.

    Raises:
        LlinkError: E402 when the loss is not finite.
    """
    trainable = [p for p in lora.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.lr_lora, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    steps = max(1, config.examples // config.batch)
    targets = [[*decoder.tokenize(e.target)[: config.max_target_tokens], decoder.end_of_turn] for e in examples]
    lengths = [len(decoder.tokenize(e.text)) + len(t) for e, t in zip(examples, targets, strict=True)]
    torch.manual_seed(seed)
    state = Checkpoint({"lora": lora}, {"all": optimizer}, {"seconds": torch.zeros(1, dtype=torch.float64)})
    first = state.load(checkpoint) if checkpoint else 0
    before, start = float(state.tensors["seconds"]), time.monotonic()
    batches = task_batches(examples, lengths, config.batch, seed, first)
    total = steps if seconds is None else round(seconds)
    with track("Direct LoRA", total=total, unit="it" if seconds is None else "s") as bar:
        shown = first if seconds is None else min(round(before), total)
        bar(shown)
        for step in count(first):
            spent = before + time.monotonic() - start
            done = step if seconds is None else min(round(spent), total)
            bar(done - shown)
            shown = done
            share = step / steps if seconds is None else spent / seconds
            if share >= 1:
                break
            lora.train()
            rows = next(batches)
            # In thousandths of the way where the clock decides, so that the schedule has a length.
            here, whole = (step, steps) if seconds is None else (math.floor(1000 * share), 1000)
            set_lr(optimizer, config.lr_lora * warmup_cosine(here, whole, config.warmup))
            answers = [targets[i] for i in rows]
            prompts = _prompts(decoder, [examples[i] for i in rows])
            nats, _ = answer_losses(decoder, prompts, answers)
            value = nats.sum() / sum(map(len, answers))
            if not torch.isfinite(value):
                raise LlinkError("E402", f"Direct LoRA: the loss is {value.item()} at step {step}.",
                                 "Lower its learning rate, stage_b.lr_lora.")  # fmt: skip
            accelerator.backward(value)
            accelerator.clip_grad_norm_(trainable, config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen(len(rows), sum(map(len, prompts)) + sum(map(len, answers)))
            if step % 20 == 0:
                log({"stage": NAME, "step": step, "examples": (step + 1) * config.batch, "loss": value.item()})
            if (step + 1) % every == 0:
                if checkpoint:
                    spent = before + time.monotonic() - start
                    state.tensors["seconds"] = torch.tensor([spent], dtype=torch.float64)
                    state.save(checkpoint, step + 1)
                lora.eval()
                log({"stage": NAME, "step": step, **keep_rng(dev)})
    lora.eval()
    trained = {"examples": step * config.batch, "seconds": round(before + time.monotonic() - start, 1)}
    log({"stage": NAME, "step": step, **trained})
    return trained


@torch.inference_mode()
def loss(decoder: Decoder, rows: Sequence[Pair], batch: int = 16) -> float:
    """Nats per token of the English of pairs, their raw foreign text in the prompt, with whatever LoRA is on."""
    ordered = sorted(rows, key=lambda p: len(p.foreign))
    total, tokens = 0.0, 0
    for part in in_batches(len(ordered), batch):
        answers = [[*decoder.tokenize(p.english), decoder.end_of_turn] for p in ordered[part]]
        examples = [Example(p.foreign, "translate", p.english, p.english) for p in ordered[part]]
        nats, _ = answer_losses(decoder, _prompts(decoder, examples), answers)
        total, tokens = total + float(nats.sum()), tokens + sum(map(len, answers))
    return total / tokens if tokens else math.nan


@torch.inference_mode()
def vectors(decoder: Decoder, texts: Sequence[str], batch: int = 16) -> Tensor:
    """One vector ``[N, D]`` a text, float32: the last hidden state where the translation would begin.

    With whatever LoRA is on: within ``carrying`` that of the baseline, else the raw decoder. This is all that the
    decoder has made of a text it read as its own tokens, so it is what the baseline can be asked to retrieve by.
    """
    model: Any = decoder.model
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.empty(len(texts), decoder.hidden_size)
    with track("Reading raw text", total=len(texts)) as bar:
        for part in in_batches(len(order), batch):
            rows = embedded(decoder, [build(decoder, TASKS["translate"], text=texts[i]) for i in order[part]])
            ends = torch.tensor([len(row) - 1 for row in rows])
            # Padding stands on the right, where a causal model does not look.
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            states = model.base_model(inputs_embeds=padded, use_cache=False).last_hidden_state
            found[order[part]] = states[torch.arange(len(rows)), ends].float().cpu()
            bar(len(rows))
    return found


@contextmanager
def carrying(decoder: Decoder, folder: Path) -> Iterator[None]:
    """Within the block this thread's passes through the decoder carry the baseline's LoRA; E527 where
    the folder holds none, or one for another decoder."""
    about = read_about(folder)
    if about.get("decoder_fingerprint") != decoder.fingerprint:
        raise LlinkError(
            "E527", f"The baseline in {folder} was trained on '{about.get('decoder')}', not on '{decoder.name}'.",
            f"Train one for it: llink train {about.get('language', 'CODE')} --baseline {NAME}",
        )  # fmt: skip
    switch = LoraSwitch(decoder)
    try:
        with switch.using(Lora.load(folder, decoder)):
            yield
    finally:
        switch.close()


def read_about(folder: Path) -> dict[str, Any]:
    """What is known of a trained baseline: examples, seconds, losses by dev set; E527 where the folder holds none."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["baseline"] == NAME:
            return dict(about)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise LlinkError("E527", f"{folder} holds no {NAME} baseline.", f"Train one: llink train CODE --baseline {NAME}")


def _prompts(decoder: Decoder, examples: Sequence[Example]) -> list[Tensor]:
    return embedded(decoder, [build(decoder, e.instruction, text=e.text) for e in examples])


def _save(folder: Path, lora: PeftModel, about: dict[str, Any]) -> None:
    """A clean PEFT LoRA and what is known of it; the folder appears only whole."""
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        lora.save_pretrained(str(new))
        (new / "README.md").unlink(missing_ok=True)
        atomic_write(new / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        os.rename(new, folder)
    except OSError as error:
        raise LlinkError(
            "E406", f"{folder} cannot be written: {error}.", "Free some space and go on with --resume."
        ) from error
