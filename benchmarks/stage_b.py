"""Stage B on slots, and the same decoder trained on the raw foreign text with peft and the `Trainer` of transformers."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from common import adapters, arguments, clocked, figure, report, training_text
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from llink.adapter.files import load_bridge, read_manifest
from llink.adapter.prompt import TASKS, build
from llink.features.cache import FeatureCache
from llink.interfaces import Decoder
from llink.recipe import StageB, load_recipe, recipe_files
from llink.store.models import load_decoder, load_encoder
from llink.store.registry import load_registry
from llink.training.stage_b import Example, add_lora, train_stage_b
from llink.training.warm_start import length_batches

WARM = 2
"""Steps at the start of each turn that are not counted."""


class Clock(TrainerCallback):
    """Notes when each step of a ``Trainer`` ends."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.marks.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.marks.append(time.perf_counter())


def raw_text(
    decoder: Decoder, examples: Sequence[Example], config: StageB, seed: int, folder: str
) -> tuple[list[float], float]:
    """Train a LoRA on the raw text, in batches of like length; each step's seconds, and tokens a step."""
    rows = []
    for example in examples:
        prompt = list(build(decoder, TASKS[example.task], text=example.text).ids)
        target = [*decoder.tokenize(example.target)[: config.max_target_tokens], decoder.end_of_turn]
        rows.append({"input_ids": prompt + target, "labels": [-100] * len(prompt) + target})
    lengths = [len(row["input_ids"]) for row in rows]
    batches = islice(length_batches(lengths, config.batch, seed), len(examples) // config.batch)
    ordered = [rows[i] for batch in batches for i in batch]

    def collate(some: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        def pad(key: str, value: int) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence([torch.tensor(row[key]) for row in some], True, value)

        mask = [torch.ones(len(row["input_ids"]), dtype=torch.long) for row in some]
        return {
            "input_ids": pad("input_ids", decoder.end_of_turn),
            "labels": pad("labels", -100),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(mask, True, 0),
        }

    lora, clock = add_lora(decoder, config), Clock()
    settings = TrainingArguments(
        folder, per_device_train_batch_size=config.batch, num_train_epochs=1, learning_rate=config.lr_lora,
        warmup_steps=config.warmup, lr_scheduler_type="cosine", max_grad_norm=config.clip, seed=seed, report_to=[],
        weight_decay=config.weight_decay, adam_beta2=0.98, train_sampling_strategy="sequential", save_strategy="no",
        disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(), remove_unused_columns=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(lora, settings, data_collator=collate, train_dataset=ordered, callbacks=[clock]).train()  # type: ignore[arg-type]
    lora.unload()
    return _steps(clock.marks), sum(lengths) * config.batch / len(lengths)


def slots(
    bridge: Any,
    decoder: Decoder,
    cache: FeatureCache,
    examples: Sequence[Example],
    config: StageB,
    accelerator: Accelerator,
    seed: int,
) -> tuple[list[float], float]:
    """Train stage B; each step's seconds, and tokens a step."""
    marks, tokens = [time.perf_counter()], [0]

    def seen(_: int, number: int) -> None:
        marks.append(time.perf_counter())
        tokens.append(number)

    lora = add_lora(decoder, config)
    train_stage_b(
        bridge,
        decoder,
        lora,
        cache,
        examples,
        config,
        seed=seed,
        accelerator=accelerator,
        every=len(examples),
        seen=seen,
    )
    lora.unload()
    return _steps(marks), sum(tokens) / (len(tokens) - 1)


def _steps(marks: Sequence[float]) -> list[float]:
    seconds = [after - before for before, after in pairwise(marks)]
    return seconds[WARM:] or seconds


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=2)
    parser.add_argument("--data", type=Path, help="folder with km/train.jsonl.gz  [default: that of llink train]")
    parser.add_argument("--steps", type=int, default=12, help="of each way in each turn")
    options = parser.parse_args()
    recipe = load_recipe(recipe_files("llink_khmer")["cpu"])
    pairs, note = training_text(options.data, recipe.data)
    seed, count = recipe.seed, options.steps * recipe.stage_b.batch
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [pairs[i] for i in order[:count]]
    batch = min(recipe.stage_b.batch, len(chosen))
    examples = [Example(foreign, "translate", english, english) for foreign, english in chosen]
    examples = examples[: len(examples) // batch * batch]
    config = recipe.stage_b.model_copy(update={"examples": len(examples), "batch": batch})

    default = load_registry().default
    accelerator = Accelerator()
    device = str(accelerator.device)
    encoder = load_encoder(default.encoder, device=device, **recipe.encoder.options)
    decoder = load_decoder(default.decoder, device=device)
    seconds: dict[str, list[float]] = {"raw text, peft and Trainer": [], "slots, LLINK": []}
    plain, ours = seconds
    tokens: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = adapters(Path(folder))[0]["km"]
        bridge = load_bridge(place, read_manifest(place)).to(device)
        cache = FeatureCache(Path(folder) / "features", encoder)
        encoder.encode([examples[0].text])  # the first pass of a model is always slow
        encoding = clocked(lambda: cache.ensure([e.text for e in examples])) / len({e.text for e in examples})
        for turn in range(options.repeats):
            took, tokens[ours] = slots(bridge, decoder, cache, examples, config, accelerator, seed + turn)
            seconds[ours] += took
            took, tokens[plain] = raw_text(decoder, examples, config, seed + turn, folder)
            seconds[plain] += took
    step = {way: statistics.mean(found) for way, found in seconds.items()}
    once = batch * encoding
    rows = [
        [way, f"{tokens[way]:,.0f}", f"{step[way]:.2f}", f"{1 / step[way]:.2f}", f"{step[plain] / step[way]:.2f}x"]
        for way in seconds
    ]
    whole = step[ours] + once
    rows.append(["the same, each text encoded for it alone", f"{tokens[ours]:,.0f}", f"{whole:.2f}", f"{1 / whole:.2f}",
                 f"{step[plain] / whole:.2f}x"])  # fmt: skip
    notes = [
        f"Stage B's steps a second are **{step[plain] / step[ours]:.1f}x** the Trainer's: the same {len(examples)} Khmer pairs, "
        f"targets, LoRA (rank {config.lora.r}) and batch of {batch} (recipe `km/cpu`, default pair), {options.repeats} turns of "
        f"{len(examples) // batch} steps each, mean of all but the first {WARM} of a turn. Both ways have batches of like length. Tokens are "
        "those of prompts and targets a step, without padding; stage B's time includes the injector, every loss and each "
        f"{config.usage_every}rd step's second pass of the usage contrast.",
        "Stage B takes the encoder's states from the cache that stage A has filled; the last row counts them in.",
        note,
    ]
    fig, (left, right) = figure("Stage B: slots against raw text", panels=2)
    names = ["raw text", "slots"]
    left.bar(names, [step[plain], step[ours]], color=["#b8b8b8", "#0b6e4f"])
    left.set(ylabel="seconds a step")
    right.bar(names, [tokens[plain], tokens[ours]], color=["#b8b8b8", "#0b6e4f"])
    right.set(ylabel="tokens a step")
    report("stage_b", options.docs, fig, ["", "tokens a step", "s a step", "steps/s", "to raw text"], rows, notes)


if __name__ == "__main__":
    main()
