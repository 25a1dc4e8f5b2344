"""A tiny pair that has learnt twenty Khmer sentences by heart, so that a broken adapter can be told from a whole one.

The decoder has learnt to answer about their English, the adapter to answer about the Khmer as if it were that.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from variants import rehash

from llink import plugins
from llink.adapter.files import BRIDGE
from llink.adapter.prompt import TASKS, build
from llink.data.pairs import Pair, write_pairs
from llink.evaluation.exact import sentences
from llink.interfaces import Decoder
from llink.recipe import Recipe, validate
from llink.store.models import load_decoder
from llink.testing import tiny_recipe
from llink.training.run import train

BROKEN = ("random bridge", "zero slots", "swapped language")
SEED = 5


@dataclass
class Taught:
    """Where everything is: ``dev.jsonl`` of the folder holds the sentences."""

    folder: Path
    recipe: Recipe
    adapter: Path

    def eval(self, language: str, adapter: Path | None = None, data: Path | str = "") -> list[str]:
        """The arguments of ``llink eval`` on ``data``, a file; without one on ``dev.jsonl``."""
        files = ["--recipe", str(self.folder / "recipe.yaml"), "--data", str(data or self.folder)]
        return ["eval", language, *files, "--adapter", str(adapter or self.adapter)]

    def broken(self, how: str, into: Path) -> Path:
        """A copy of the adapter, broken in one of the ways of ``BROKEN`` (the last is another language's name on it)."""
        copy = Path(shutil.copytree(self.adapter, into / how.replace(" ", "-")))
        tensors = load_file(copy / BRIDGE)
        draw = torch.Generator().manual_seed(SEED)
        for name, value in tensors.items():
            if "mean" in name or "std" in name:
                continue
            if how == "random bridge":
                tensors[name] = (torch.randn(value.shape, generator=draw) * 0.3).to(value.dtype)
            if how == "zero slots" and name.startswith(("injector.norm_out", "projector.")):
                tensors[name] = torch.zeros_like(value)
        save_file(tensors, copy / BRIDGE)
        rehash(copy, "am" if how == "swapped language" else None)
        return copy


def pairs() -> list[Pair]:
    """Everyday sentences and checked templates, in Khmer."""
    khmer = plugins.language("km")
    everyday = [
        Pair(khmer.normalise(s.english), khmer.normalise(s.foreign), "samples", "CC0-1.0") for s in khmer.samples
    ]
    return everyday[4:14] + [Pair(c.english, c.foreign, "template", "CC0-1.0") for c in sentences(khmer)[:10]]


def amharic() -> list[Pair]:
    """The same English with Amharic texts beside it, which the Khmer adapter has never seen."""
    texts = [s.foreign for s in plugins.language("am").samples]
    return [Pair(p.english, text, p.source, p.licence) for p, text in zip(pairs(), texts, strict=False)]


def teach(folder: Path, encoder: str, decoder: str) -> Taught:
    """Train both; takes about 20 seconds."""
    rows = pairs()
    write_pairs(folder / "dev.jsonl", rows)
    write_pairs(folder / "am.jsonl", amharic())
    reader = _reads_english(folder, decoder, rows)
    raw: dict[str, Any] = tiny_recipe(
        "km", encoder, str(reader),
        data={"train": ["dev.jsonl"], "min_words": 1},
        stage_a={"epochs": 60, "batch": 10, "queue": 0, "hardest": 0, "lr": 3e-3},
        warm_start={"epochs": 20, "batch": 10},
        injector={"kind": "resampler", "slots": 4, "options": {"width": 64, "depth": 1, "heads": 2}},
        stage_b={
            "examples": 3200, "batch": 10, "lr_lora": 1e-2, "lr_injector": 3e-3, "warmup": 0.05, "task_share": 0.4,
            "distilled": 20, "losses": {"usage_contrast": 0, "info_nce": 0, "bag_of_words": 0, "cosine": 0},
            "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
        },
        checkpoint_every=10_000,
        dev_examples=0,
    )  # fmt: skip
    adapter = train(validate(raw, "taught"), stage="all", data=folder, out=folder / "run")
    measured = {**raw, "data": {**raw["data"], "dev": {"dev": "dev.jsonl"}}}
    (folder / "recipe.yaml").write_text(json.dumps(measured))
    return Taught(folder, validate(measured, "taught"), adapter)


def _reads_english(folder: Path, tiny: str, rows: list[Pair]) -> Path:
    """The tiny decoder, trained whole to repeat these sentences, and to answer every other task with three words."""
    decoder = load_decoder(tiny, device="cpu", dtype="float32")
    model: Any = decoder.model
    model.requires_grad_(True).train()
    examples = [_example(decoder, task, p.english) for task in TASKS for p in rows]
    width = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([row + [decoder.end_of_turn] * (width - len(row)) for row, _ in examples])
    labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in examples])
    torch.manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(12):
        for part in torch.randperm(len(ids)).split(10):
            model(input_ids=ids[part], labels=labels[part]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    place = Path(shutil.copytree(tiny, folder / "reader"))
    model.save_pretrained(place)
    return place


def _example(decoder: Decoder, task: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids of prompt and answer, and the same with the prompt left out of the loss."""
    prompt = list(build(decoder, TASKS[task], text=text).ids)
    answer = text if task == "translate" else f"{' '.join(text.split()[:3])}."
    target = [*decoder.tokenize(answer), decoder.end_of_turn]
    return prompt + target, [-100] * len(prompt) + target
