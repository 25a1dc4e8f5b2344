"""One training run: recipe and data in, adapter folder out; each finished stage is kept and never redone."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llink import plugins, prompt
from llink.adapter import save_adapter
from llink.bridge import Bridge
from llink.data.instruct import distil
from llink.data.pairs import Pair, Pairs, dev_pairs, english_text, training_pairs
from llink.errors import LlinkError
from llink.evaluation.ranks import both_directions
from llink.home import atomic_write, home
from llink.interfaces import Decoder, Encoder, Language
from llink.models import load_decoder, load_encoder
from llink.recipe import Recipe, load_recipe
from llink.training.features import FeatureCache
from llink.training.stage_a import AlignmentData, train_stage_a
from llink.training.stage_b import Example, add_lora, dev_losses, train_stage_b
from llink.training.teacher import TeacherEncoder
from llink.training.warm_start import train_warm_start

CANDIDATES = 1024


def train(recipe: Recipe, *, stage: str, data: Path, out: Path, resume: bool = False) -> Path:
    """Run stage A, stage B or both; returns the adapter folder (stage A alone: the run folder).

    Args:
        stage: ``a``, ``b`` (takes up the stage A result in ``out``) or ``all``.
        data: folder that the recipe's data paths are relative to.
        out: run folder: ``recipe.yaml``, ``metrics.jsonl``, ``stage_a.safetensors``, ``warm_start.safetensors``,
            ``adapter/`` and, while training, ``checkpoints/``.
        resume: go on with the run in ``out``.

    Raises:
        LlinkError: E404 when ``out`` holds another run, E405 for stage B without stage A.
    """
    run = Run.open(recipe, data, out, resume)
    if stage in ("a", "all"):
        run.stage_a()
    if stage == "a":
        return out
    return run.stage_b()


@dataclass
class Run:
    """The models, data and folder of one training run."""

    recipe: Recipe
    out: Path
    language: Language
    encoder: Encoder
    decoder: Decoder
    cache: FeatureCache
    pairs: Pairs
    english: list[str]
    dev: dict[str, list[Pair]]
    accelerator: Accelerator
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, recipe: Recipe, data: Path, out: Path, resume: bool) -> Run:
        """Load everything a run needs; the folder is claimed first, so that a mistake there costs no time."""
        language = plugins.language(recipe.language)
        _claim(recipe, out, resume)
        pairs = training_pairs(recipe.data, data, language.normalise)
        english = english_text(recipe.data, data, language.normalise)
        dev = {
            name: dev_pairs(recipe.data, data, name, language.normalise).rows[:CANDIDATES] for name in recipe.data.dev
        }
        print(f"Training data: {pairs.summary()}", flush=True)
        accelerator = Accelerator(cpu=recipe.device == "cpu")
        device = str(accelerator.device) if recipe.device == "auto" else recipe.device
        dtype = None if recipe.dtype == "auto" else recipe.dtype
        encoder = load_encoder(recipe.encoder.name, device=device, dtype=dtype, **recipe.encoder.options)
        decoder = load_decoder(recipe.decoder.name, device=device, dtype=dtype, **recipe.decoder.options)
        cache = FeatureCache(home() / "features", encoder)
        return cls(recipe, out, language, encoder, decoder, cache, pairs, english, dev, accelerator)

    def log(self, row: dict[str, Any]) -> None:
        """Append to ``metrics.jsonl``."""
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            if lines.tell() and not _ends_line(self.out / "metrics.jsonl"):
                lines.write("\n")  # a kill cut the last line off
            lines.write(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}) + "\n")

    def encode(self) -> None:
        """Run the frozen encoder once over every text that is not in the cache yet."""
        with self._timed("encode"):
            self.cache.ensure([p.foreign for p in self.pairs.rows], f"Encoding {self.language.name}")
            self.cache.ensure([p.foreign for rows in self.dev.values() for p in rows], "Encoding dev sets")
            english = [p.english for p in self.pairs.rows] if self._english_side else []
            self.cache.ensure(english + self.english, "Encoding English")

    @property
    def _english_side(self) -> bool:
        return self.recipe.stage_a.english_side or self.recipe.stage_b.english_share > 0

    def stage_a(self) -> None:
        """Align the projector, measure retrieval, keep the result."""
        done = self.out / "stage_a.safetensors"
        if done.exists():
            return
        self.encode()
        with self._timed("stage_a"):
            torch.manual_seed(self.recipe.seed)
            bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)
            projector = bridge.projector
            inputs, teachers, groups = self._alignment()
            mean = teachers[: len(self.pairs.rows)].mean(0)
            if self.recipe.teacher.centre:
                teachers = teachers - mean
                projector.teacher_mean.copy_(mean)
            projector.fit_input(inputs)
            train_stage_a(
                projector,
                AlignmentData(inputs, teachers, groups),
                self.recipe.stage_a,
                seed=self.recipe.seed,
                accelerator=self.accelerator,
                checkpoint=self.out / "checkpoints" / "stage_a",
                checkpoint_every=self.recipe.checkpoint_every,
                log=self.log,
            )
        for name, metrics in self.retrieval(bridge).items():
            self.log({"stage": "a", "dev": name, **metrics})
            print(f"Stage A, {name}: R@1 {metrics['r1']:.3f}, R@5 {metrics['r5']:.3f}, MRR {metrics['mrr']:.3f} "
                  f"of {len(self.dev[name])}", flush=True)  # fmt: skip
        _save(projector.state_dict(), done)

    def _alignment(self) -> tuple[Tensor, Tensor, Tensor]:
        """zF, hE and the group of each row: the foreign side, the English side, general English."""
        foreign, english = [p.foreign for p in self.pairs.rows], [p.english for p in self.pairs.rows]
        texts, answers = list(foreign), list(english)
        if self.recipe.stage_a.english_side:
            # An English string that stands in several pairs is one input.
            distinct = list(dict.fromkeys(english + self.english))
            texts += distinct
            answers += distinct
        group = {text: n for n, text in enumerate(dict.fromkeys(answers))}
        return self.cache.pooled(texts), self.teachers(answers), torch.tensor([group[a] for a in answers])

    def teachers(self, english: list[str]) -> Tensor:
        """hE ``[N, D]`` of English texts, float32, from the cache."""
        cache = FeatureCache(home() / "features", TeacherEncoder(self.decoder, self.recipe.teacher))
        cache.ensure(english, "Teacher states")
        return cache.pooled(english)

    @torch.inference_mode()
    def retrieval(self, bridge: Bridge) -> dict[str, dict[str, float]]:
        """Retrieval metrics of each dev set, both directions."""
        results = {}
        device = bridge.reserved.device
        for name, rows in self.dev.items():
            aligned = bridge.projector(self.cache.pooled([p.foreign for p in rows]).to(device)).cpu()
            teachers = self.teachers([p.english for p in rows]) - bridge.projector.teacher_mean.cpu()
            results[name] = both_directions(aligned, teachers)
        return results

    def stage_b(self) -> Path:
        """Warm-start the injector, train it with LoRA on the frozen decoder, write the adapter."""
        adapter = self.out / "adapter"
        if adapter.exists():
            return adapter
        aligned = self.out / "stage_a.safetensors"
        if not aligned.exists():
            raise LlinkError("E405", f"{self.out} holds no stage A result.", "Run --stage a first, or --stage all.")
        self.encode()
        torch.manual_seed(self.recipe.seed)
        bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)
        bridge.projector.load_state_dict(load_file(aligned))
        self._warm_start(bridge)
        with self._timed("distil"):
            examples = self.examples()
        torch.manual_seed(self.recipe.seed)
        lora = add_lora(self.decoder, self.recipe.stage_b)
        with self._timed("stage_b"):
            train_stage_b(
                bridge,
                self.decoder,
                lora,
                self.cache,
                examples,
                self.recipe.stage_b,
                seed=self.recipe.seed,
                accelerator=self.accelerator,
                dev=lambda: self.losses(bridge),
                every=self.recipe.checkpoint_every,
                checkpoint=self.out / "checkpoints" / "stage_b",
                log=self.log,
            )
        # The teacher is the frozen decoder: where its states are not in the cache yet, the LoRA must be off.
        with lora.disable_adapter():
            retrieval = self.retrieval(bridge)
        self.metrics |= {
            "retrieval": retrieval,
            "usage": {name: self._usage(bridge, rows) for name, rows in self.dev.items()},
        }
        save_adapter(adapter, bridge, lora, self.manifest())
        return adapter

    def _warm_start(self, bridge: Bridge) -> None:
        done = self.out / "warm_start.safetensors"
        if self.recipe.warm_start.epochs and not done.exists():
            texts = [(p.foreign, p.english) for p in self.pairs.rows]
            if self._english_side:
                texts += [(text, text) for text in dict.fromkeys([p.english for p in self.pairs.rows] + self.english)]
            with self._timed("warm_start"):
                train_warm_start(
                    bridge, self.decoder, self.cache, texts, self.recipe.warm_start, seed=self.recipe.seed,
                    accelerator=self.accelerator, checkpoint=self.out / "checkpoints" / "warm_start",
                    checkpoint_every=self.recipe.checkpoint_every, log=self.log,
                )  # fmt: skip
            _save(bridge.state_dict(), done)
        if done.exists():
            bridge.load_state_dict(load_file(done))

    def examples(self) -> list[Example]:
        """Stage B's training examples: translation from both sides, and self-distilled tasks."""
        config, pick = self.recipe.stage_b, random.Random(self.recipe.seed)
        foreign = [Example(p.foreign, "translate", p.english, p.english) for p in self.pairs.rows]
        pool = list(dict.fromkeys([p.english for p in self.pairs.rows] + self.english)) if self._english_side else []
        count = round(len(foreign) * config.english_share / max(1 - config.english_share, 0.01))
        english = [Example(t, "translate", t, t) for t in pick.sample(pool, min(count, len(pool)))]
        examples = foreign + english
        if config.distilled:
            long = sorted(self.pairs.rows, key=lambda p: -len(p.english.split()))[: config.distilled * 4]
            chosen = pick.sample(long, min(config.distilled, len(long)))
            answers = distil(self.decoder, [p.english for p in chosen], home() / "distilled")
            tasks = [Example(chosen[i].foreign, task, answer, chosen[i].english) for i, task, answer in answers]
            if tasks:
                share = len(examples) * config.task_share / (1 - min(config.task_share, 0.99))
                examples += (tasks * (int(share / len(tasks)) + 1))[: max(round(share), len(tasks))]
        return examples

    def losses(self, bridge: Bridge) -> dict[str, float]:
        """Dev losses of the first examples of every dev set, as ``<dev>.<name>``."""
        return {
            f"{name}.{key}": value
            for name, rows in self.dev.items()
            if self.recipe.dev_examples
            for key, value in self._usage(bridge, rows[: self.recipe.dev_examples]).items()
        }

    def _usage(self, bridge: Bridge, rows: list[Pair], limit: int = 200) -> dict[str, float]:
        examples = [Example(p.foreign, "translate", p.english, p.english) for p in rows[:limit]]
        return dev_losses(bridge, self.decoder, self.cache, examples)

    def manifest(self) -> dict[str, Any]:
        """The adapter manifest's fields."""
        counts = Counter(p.source for p in self.pairs.rows)
        licences = {p.source: p.licence for p in self.pairs.rows}
        data: dict[str, dict[str, Any]] = {s: {"pairs": n, "licence": licences[s]} for s, n in counts.most_common()}
        if self.english:
            data["general English"] = {"sentences": len(self.english), "licence": self.recipe.data.english_licence}
        return {
            "language": self.language.code,
            "encoder": self.encoder.name,
            "encoder_fingerprint": self.encoder.fingerprint,
            "encoder_signature": self.encoder.signature,
            "encoder_options": self.recipe.encoder.options,
            "decoder": self.decoder.name,
            "decoder_fingerprint": self.decoder.fingerprint,
            "prompt": prompt.fingerprint(self.decoder, self.recipe.injector.slots),
            "recipe": self.recipe.model_dump(mode="json"),
            "data": data,
            "metrics": self.metrics,
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Log how long a part took; minutes of an interrupted run count towards the run that did them."""
        start = time.monotonic()
        yield
        seconds = round(time.monotonic() - start, 1)
        self.log({"stage": part, "seconds": seconds})
        print(f"{part}: {seconds:.0f} s", flush=True)


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _claim(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make the run folder, or take up the one that is there if it is the same recipe's."""
    path = out / "recipe.yaml"
    if path.exists():
        if not resume:
            raise LlinkError("E404", f"{out} already holds a run.", "Go on with --resume, or choose another --out.")
        if load_recipe(path) != recipe:
            raise LlinkError(
                "E404", f"The run in {out} has another recipe.", "Use the same recipe and --set, or another --out."
            )
        return
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        atomic_write(path, yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False))
    except OSError as error:
        raise LlinkError(
            "E404", f"The run folder {out} cannot be made ({error.strerror}).", "Choose another --out."
        ) from error


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
    except (OSError, SafetensorError) as error:
        raise LlinkError(
            "E406", f"{path} cannot be written: {error}.", "Free some space and go on with --resume."
        ) from error
    os.replace(temporary, path)
