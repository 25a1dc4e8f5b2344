"""The baseline ``direct-lora``: what one would do without LLINK, a LoRA trained on the raw foreign text.

The same frozen decoder, prompt, pairs, tasks, targets and seed as in stage B, the same LoRA. Only the way in differs:
the text stands in the prompt as the decoder's own tokens, and there is neither encoder nor slots.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel, set_peft_model_state_dict
from torch import Tensor

from llink import plugins
from llink.adapter.files import MANIFEST, lora_weights
from llink.adapter.lora import Lora, LoraSwitch
from llink.adapter.prompt import TASKS, build
from llink.adapter.scoring import answer_losses, embedded
from llink.adapter.slots import in_batches
from llink.data.instruct import read_instructions
from llink.data.pairs import Pair, dev_pairs, english_text, training_pairs
from llink.errors import LlinkError
from llink.home import write_json
from llink.interfaces import Decoder
from llink.progress import track
from llink.recipe import Recipe, StageB
from llink.store.models import load_decoder
from llink.training import trackers
from llink.training.data_record import check_data
from llink.training.loop import Log, Measure, Part, Stage, accelerator_for, fit, warmup_cosine, whole_batch
from llink.training.run import claim, training_examples
from llink.training.run_folder import RunFolder
from llink.training.stage_b import Example, add_lora, sharded_blocks, task_batches

NAME = "direct-lora"
ABOUT = "metrics.json"
FINAL_DEV = 200
"""Pairs of each dev set that the loss is measured on at the end, as many as stage B takes."""
MOST_TOKENS = 2048
"""Tokens, padding included, that go through the decoder at once: with the default one each takes some 2.4 MB until the
backward pass is done. A batch of raw texts of several passages has up to 15,000, where most have fewer than 2,000."""


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

    Where ``init_from`` is the folder of an earlier baseline, its LoRA is gone on with, and what is known of the new one
    counts the examples and seconds of both. An adapter that ``init_from`` names is left alone: its LoRA reads slots.

    Args:
        data: folder that the recipe's data paths are relative to.
        out: run folder: ``recipe.yaml``, ``metrics.jsonl``, ``train.png``, ``time_and_memory.json``, ``direct-lora/``
            and, while training, ``checkpoints/``.
        resume: go on with the run in ``out``.
        minutes: how long to train, instead of ``stage_b.examples``; what an earlier run in ``out`` took counts.
        track: trackers that get the log too, see ``llink.training.trackers``.

    Raises:
        LlinkError: E404 when ``out`` holds another run, E402 when the loss is not finite, E407 for an earlier baseline
            of another size, E410 when the data of a run changed, E420 for a tracker, E527 for one of another decoder or
            a folder that holds none, E201 when ``init_from`` is neither a folder nor a language.
    """
    language = plugins.language(recipe.language)
    earlier = _earlier(recipe)
    accelerator = accelerator_for(recipe.device, **trackers.options(track, out))
    claim(recipe, out, resume, accelerator)
    folder = out / NAME
    if folder.exists():
        return folder
    pairs = training_pairs(recipe.data, data, language.normalise)
    english, _ = english_text(recipe.data, data, language.normalise, pairs)
    dev = {name: dev_pairs(recipe.data, data, name, language.normalise).rows for name in recipe.data.dev}
    first = {name: rows[: recipe.dev_examples] for name, rows in dev.items()}
    instructions, about_them = read_instructions(recipe.data, data, language.normalise)
    accelerator.print(f"Training data: {pairs.summary()}" + (f"; {about_them}" if instructions else ""), flush=True)
    check_data(out, accelerator, pairs=pairs.rows, english=english, instructions=instructions, dev=dev)
    with RunFolder(out, accelerator, recipe.model_dump(mode="json")) as run:
        device = str(accelerator.device) if recipe.device == "auto" else recipe.device
        with run.timed("load"), accelerator.local_main_process_first():  # which fetches it
            decoder = load_decoder(
                recipe.decoder.name, device=device, dtype=None if recipe.dtype == "auto" else recipe.dtype,
                **recipe.decoder.options,
            )  # fmt: skip
        with_english = recipe.stage_a.english_side or recipe.stage_b.english_share > 0
        with accelerator.main_process_first():  # which lets the decoder answer, and keeps the answers
            examples = training_examples(recipe, decoder, pairs.rows, english if with_english else None, instructions)
        # English in, the same English out teaches slots; a decoder that reads the English itself would only copy.
        examples = [example for example in examples if example.text != example.english]
        torch.manual_seed(recipe.seed)
        lora = add_lora(decoder, recipe.stage_b)
        before: dict[str, Any] = {}
        if earlier:
            before = read_about(earlier, decoder)
            set_peft_model_state_dict(lora, lora_weights(earlier, decoder, lora.peft_config["default"]))
        with run.timed(NAME):
            trained, losses = train_direct_lora(
                decoder,
                lora,
                examples,
                recipe.stage_b,
                seed=recipe.seed,
                accelerator=accelerator,
                seconds=None if minutes is None else 60 * minutes,
                dev=lambda: {f"{name}.right": loss(decoder, rows) for name, rows in first.items() if rows},
                last=lambda: {name: {"right": loss(decoder, rows[:FINAL_DEV])} for name, rows in dev.items()},
                every=recipe.checkpoint_every,
                checkpoint=out / "checkpoints" / f"{NAME}.safetensors",
                log=run.log,
                seen=run.seen,
            )
        trained = {key: before.get(key, 0) + value for key, value in trained.items()}
        about = {
            "baseline": NAME,
            "language": language.code,
            "recipe": recipe.name,
            "decoder": decoder.name,
            "decoder_fingerprint": decoder.fingerprint,
            **trained,
            "usage": losses,
        }
        if accelerator.is_main_process:
            _save(folder, lora, about)
        accelerator.wait_for_everyone()
    return folder


def _earlier(recipe: Recipe) -> Path | None:
    """The folder of the baseline that ``init_from`` names; None where it names an adapter, or nothing.

    Raises:
        LlinkError: E527 for a folder of neither, E201 for what is neither a folder nor a language.
    """
    if not recipe.init_from:
        return None
    folder = Path(recipe.init_from).expanduser()
    if not folder.is_dir():
        plugins.select(recipe.init_from)
        return None
    if (folder / MANIFEST).is_file():
        return None
    read_about(folder)
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
    dev: Measure = dict,
    last: Measure = dict,
    every: int = 500,
    checkpoint: Path | None = None,
    log: Log = lambda _: None,
    seen: Callable[[int, int], None] = lambda *_: None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train the LoRA in place; only target tokens count in the loss.

    Args:
        config: of stage B: ``examples``, ``batch``, ``accumulation``, ``lr_lora``, ``warmup``, ``weight_decay``, ``clip``.
        seconds: train for this long, however many examples that is; the learning rate follows the clock then.
        dev, last, log, seen: as for ``train_stage_b``.

    Returns:
        ``examples`` seen and ``seconds`` taken; and what ``last`` measured.

    Raises:
        LlinkError: E402 when the loss is not finite.
    """
    size = whole_batch(config.batch, config.accumulation, accelerator)
    done = fit(
        _DirectLora(decoder, lora, examples, config, seed, size),
        accelerator=accelerator,
        seed=seed,
        size=size,
        accumulation=config.accumulation,
        steps=max(1, config.examples // size),
        schedule=lambda step, of: warmup_cosine(step, of, config.warmup),
        weight_decay=config.weight_decay,
        clip=config.clip,
        seconds=seconds,
        every=every,
        checkpoint=checkpoint,
        dev=dev,
        last=last,
        log=log,
        seen=seen,
    )
    trained = {"examples": done.steps * size, "seconds": round(done.seconds, 1)}
    log({"stage": NAME, "step": done.steps, **trained})
    return trained, done.measured


class _DirectLora(Stage):
    """The decoder's cross-entropy given the raw text."""

    name, label, cure = NAME, "Direct LoRA", "Lower its learning rate, stage_b.lr_lora."
    shares = False

    def __init__(
        self, decoder: Decoder, lora: PeftModel, examples: Sequence[Example], config: StageB, seed: int, batch: int
    ) -> None:
        super().__init__()
        self.lora, self._no_split_modules = lora, sharded_blocks(decoder)
        self.decoder, self.rows, self.config, self.seed, self.batch = decoder, examples, config, seed, batch
        self.prompts = [build(decoder, e.instruction, text=e.whole) for e in examples]
        most = config.max_target_tokens
        self.targets = [[*decoder.tokenize(e.target)[: most * len(e.passages)], decoder.end_of_turn] for e in examples]
        self._step = 0

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.lora.parameters() if p.requires_grad], "lr": self.config.lr_lora}]

    def batches(self, size: int, first: int) -> Iterator[list[int]]:
        lengths = [len(p.ids) + len(t) for p, t in zip(self.prompts, self.targets, strict=True)]
        return task_batches(self.rows, lengths, size, self.seed, first)

    def loss(self, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        self._step = part.step
        answers = [self.targets[i] for i in part.rows]
        prompts = embedded(self.decoder, [self.prompts[i] for i in part.rows])
        nats, _ = answer_losses(self.decoder, prompts, answers)
        tokens = sum(len(self.targets[i]) for i in part.batch)
        return nats.sum() * (part.count * part.weight / tokens), {}

    def pieces(self, part: Part) -> list[Part]:
        longest = max(len(self.prompts[i].ids) + len(self.targets[i]) for i in part.batch)
        return part.cut(MOST_TOKENS // longest)

    def size(self, part: Part) -> tuple[int, int]:
        return len(part.rows), sum(len(self.prompts[i].ids) + len(self.targets[i]) for i in part.rows)

    def numbers(self) -> dict[str, float]:
        return {"examples": (self._step + 1) * self.batch}

    def examples(self, part: Part) -> list[dict[str, str]]:
        return [{"text": e.whole, "task": e.task, "target": e.target} for e in (self.rows[i] for i in part.rows)]


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
    read_about(folder, decoder)
    switch = LoraSwitch(decoder)
    try:
        with switch.using(Lora.load(folder, decoder)):
            yield
    finally:
        switch.close()


def read_about(folder: Path, decoder: Decoder | None = None) -> dict[str, Any]:
    """What is known of a trained baseline: examples, seconds, losses by dev set; E527 where the folder holds none, or one
    for another decoder than the one given."""
    try:
        about = dict(json.loads((folder / ABOUT).read_text(encoding="utf-8")))
        found = about["baseline"] == NAME
    except (OSError, ValueError, KeyError, TypeError):
        found = False
    if not found:
        raise LlinkError(
            "E527", f"{folder} holds no {NAME} baseline.", f"Train one: llink train CODE --baseline {NAME}"
        )
    if decoder and about.get("decoder_fingerprint") != decoder.fingerprint:
        raise LlinkError(
            "E527", f"The baseline in {folder} was trained on '{about.get('decoder')}', not on '{decoder.name}'.",
            f"Train one for it: llink train {about.get('language', 'CODE')} --baseline {NAME}",
        )  # fmt: skip
    return about


def _prompts(decoder: Decoder, examples: Sequence[Example]) -> list[Tensor]:
    return embedded(decoder, [build(decoder, e.instruction, text=e.whole) for e in examples])


def _save(folder: Path, lora: PeftModel, about: dict[str, Any]) -> None:
    """A clean PEFT LoRA and what is known of it; the folder appears only whole."""
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        lora.save_pretrained(str(new))
        (new / "README.md").unlink(missing_ok=True)
        write_json(new / ABOUT, about)
        os.rename(new, folder)
    except OSError as error:
        raise LlinkError(
            "E406", f"{folder} cannot be written: {error}.", "Free some space and go on with --resume."
        ) from error
