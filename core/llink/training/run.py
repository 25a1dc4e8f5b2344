"""One training run: recipe and data in, adapter folder out; each finished stage is kept and never redone."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llink import plugins
from llink.adapter import prompt
from llink.adapter.bridge import Bridge
from llink.adapter.files import (
    Manifest,
    check,
    find_adapter,
    load_bridge,
    lora_weights,
    read_manifest,
    save_adapter,
)
from llink.adapter.shared import SHARED, has_shared
from llink.data.instruct import Instruction, distil, read_instructions
from llink.data.pairs import Pair, Pairs, dev_pairs, english_text, repeated, share, training_pairs
from llink.errors import LlinkError
from llink.features.cache import FeatureCache, Features, MatchedMeans, Vectors
from llink.features.teacher import TeacherEncoder
from llink.home import atomic_write, expand, home, sweep
from llink.interfaces import Decoder, Encoder, Language
from llink.recipe import Injection, Recipe, load_recipe
from llink.store.models import load_decoder, load_encoder
from llink.training import trackers
from llink.training.data_record import check_data
from llink.training.loop import accelerator_for
from llink.training.objective import check_losses, check_parts
from llink.training.ranks import answers, both_directions, retrieval_metrics
from llink.training.run_folder import RunFolder, hold
from llink.training.stage_a import AlignmentData, train_stage_a
from llink.training.stage_b import Example, Passage, add_lora, dev_losses, train_stage_b, with_values
from llink.training.warm_start import train_warm_start

CANDIDATES = 1024
MEANS = 4096
"""Pairs that the means of the encoder's vectors are taken over."""
THROUGH = ", through init_from)"


def train(
    recipe: Recipe, *, stage: str, data: Path, out: Path, resume: bool = False, track: Sequence[str] = ()
) -> Path:
    """Run one stage, or all that the recipe has; returns the adapter folder (stage A alone: the run folder).

    Args:
        stage: ``a``, ``b``, ``c`` (each takes up the result of the one before in ``out``) or ``all``. ``b`` alone in a
            new folder goes on from an adapter of the same language, where ``init_from`` names one.
        data: folder that the recipe's data paths are relative to.
        out: run folder: ``recipe.yaml``, ``metrics.jsonl``, ``train.png``, ``time_and_memory.json``,
            ``stage_a.safetensors``, ``warm_start.safetensors``, ``adapter/``, after stage C ``adapter_c/`` and, while
            training, ``checkpoints/``; ``data.json`` has digests of what it is trained on.
        resume: go on with the run in ``out``.
        track: trackers that get the log too, see ``llink.training.trackers``.

    Raises:
        LlinkError: E404 when ``out`` holds another run, E405 for a stage without the one before, E409 for a stage C
            that the recipe has off, E410 when the data of a run changed, E420 for a tracker.
    """
    if stage == "c" and not recipe.stage_c.examples:
        raise LlinkError("E409", f"Stage C is off in recipe '{recipe.name}'.", "Try --set stage_c.examples=2000.")
    run = Run.open(recipe, data, out, resume, track)
    with run.folder:
        if stage in ("a", "all"):
            run.stage_a()
        if stage == "a":
            return out
        if stage != "c":
            adapter = run.stage_b()
            if stage == "b" or not recipe.stage_c.examples:
                return adapter
        return run.stage_c()


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
    english_sources: dict[str, dict[str, Any]]
    """Source of general English -> number of sentences and licence."""
    instructions: list[Instruction]
    dev: dict[str, list[Pair]]
    accelerator: Accelerator
    folder: RunFolder
    parent: tuple[Path, Manifest] | None = None
    """The adapter that ``init_from`` names."""
    metrics: dict[str, Any] = field(default_factory=dict)
    bare: dict[str, dict[str, float]] = field(default_factory=dict)
    """Retrieval of each dev set among the encoder's own vectors."""

    @classmethod
    def open(cls, recipe: Recipe, data: Path, out: Path, resume: bool, track: Sequence[str] = ()) -> Run:
        """Load everything a run needs; the folder is claimed first, so that a mistake there costs no time."""
        language = plugins.language(recipe.language)
        check_losses(recipe)
        check_parts(recipe)
        accelerator = accelerator_for(recipe.device, **trackers.options(track, out))
        claim(recipe, out, resume, accelerator)
        pairs = training_pairs(recipe.data, data, language.normalise)
        english, about_english = english_text(recipe.data, data, language.normalise, pairs)
        instructions, about = read_instructions(recipe.data, data, language.normalise)
        read = {name: dev_pairs(recipe.data, data, name, language.normalise) for name in recipe.data.dev}
        dev = {name: found.rows[:CANDIDATES] for name, found in read.items()}
        accelerator.print(f"Training data: {pairs.summary()}" + (f"; {about}" if instructions else ""), flush=True)
        for name, found in read.items():
            if found.skipped:
                accelerator.print(f"Dev set {name}: {found.summary()}", flush=True)
        check_data(out, accelerator, pairs=pairs.rows, english=english, instructions=instructions, dev=dev)
        folder = RunFolder(out, accelerator, recipe.model_dump(mode="json"))
        with folder.timed("load"), accelerator.local_main_process_first():  # which fetches them
            place = _place(recipe, accelerator)
            encoder = load_encoder(recipe.encoder.name, **place, **recipe.encoder.options)
            decoder = load_decoder(recipe.decoder.name, **place, **recipe.decoder.options)
        cache = FeatureCache(home() / "features", encoder)
        parent = _parent(recipe, encoder, decoder) if recipe.init_from else None
        return cls(
            recipe,
            out,
            language,
            encoder,
            decoder,
            cache,
            pairs,
            english,
            about_english,
            instructions,
            dev,
            accelerator,
            folder,
            parent,
        )

    def beside(self, recipe: Recipe, out: Path) -> Run:
        """A run of a variant of the recipe on the same models and data, in a folder of its own; it goes on there.

        Args:
            recipe: differs from this run's in settings of training alone, not in language, data or models.

        Raises:
            LlinkError: E404 when ``out`` holds another run.
        """
        claim(recipe, out, True, self.accelerator)
        folder = RunFolder(out, self.accelerator, recipe.model_dump(mode="json"))
        return replace(self, recipe=recipe, out=out, folder=folder, metrics={})

    def bridge(self) -> Bridge:
        """The bridge that training starts with: fresh, or that of the adapter named by ``init_from``."""
        torch.manual_seed(self.recipe.seed)
        bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)
        if self.parent:
            folder, manifest = self.parent
            older = load_bridge(folder, manifest)
            if {n: t.shape for n, t in older.weights().items()} != {n: t.shape for n, t in bridge.weights().items()}:
                raise LlinkError(
                    "E407", f"The bridge of {folder} has other sizes than the recipe's projector and injector.",
                    "Use the same projector and injector, or leave init_from out.",
                )  # fmt: skip
            bridge.load_state_dict(older.weights())
        return bridge

    def encode(self) -> None:
        """Run the frozen encoder once over every text that is not in the cache yet; the ranks share them out."""
        with self.folder.timed("encode"):
            self._ensure([p.foreign for p in self.pairs.rows], f"Encoding {self.language.name}")
            self._ensure([p.foreign for rows in self.dev.values() for p in rows], "Encoding dev sets")
            english = [p.english for p in self.pairs.rows] if self.english_side else []
            self._ensure(english + self.english, "Encoding English")

    def _ensure(self, texts: list[str], label: str) -> None:
        self.cache.ensure(texts, label, accelerator=self.accelerator)

    @property
    def english_side(self) -> bool:
        """Whether English texts go through the encoder too."""
        recipe = self.recipe
        joint = recipe.stage_c.examples > 0 and recipe.stage_c.english_share > 0
        return recipe.stage_a.english_side or recipe.stage_b.english_share > 0 or joint

    @cached_property
    def often(self) -> list[Pair]:
        """The training pairs, each as many times as it is seen in an epoch."""
        return repeated(self.pairs.rows, self.recipe.data.repeat)

    @cached_property
    def features(self) -> Features:
        """The encoded training texts as the bridge sees them; asked for after ``encode``."""
        foreign, english = [p.foreign for p in self.pairs.rows], [p.english for p in self.pairs.rows] + self.english
        if self.recipe.data.match_means and self.english_side:
            return MatchedMeans(self.cache, foreign, english)
        return self.cache

    def stage_a(self) -> None:
        """Align the projector, measure retrieval, keep the result."""
        done = self.out / "stage_a.safetensors"
        if done.exists():
            return
        self.encode()
        with self.folder.timed("stage_a"):
            bridge = self.bridge()
            projector = bridge.projector
            inputs, teachers, groups, texts, answers = self._alignment()
            mean = teachers.first(len(self.often)).mean()
            if self.recipe.teacher.centre:
                teachers = replace(teachers, offset=-mean)
                projector.teacher_mean.copy_(mean)
            projector.fit_input(inputs.sample())
            train_stage_a(
                projector,
                AlignmentData(inputs, teachers, groups, texts, answers),
                self.recipe.stage_a,
                seed=self.recipe.seed,
                accelerator=self.accelerator,
                dev=lambda: self._dev_ranks(projector),
                checkpoint=self.out / "checkpoints" / "stage_a.safetensors",
                checkpoint_every=self.recipe.checkpoint_every,
                log=self.folder.log,
                seen=self.folder.seen,
            )
        self._tell("a", self.retrieval(bridge))
        self._save(projector.state_dict(), done)

    def _tell(self, stage: str, retrieval: dict[str, dict[str, float]], when: str = "") -> None:
        """Log and print the retrieval of each dev set, in stage C ``before`` and ``after`` it."""
        for name, metrics in retrieval.items():
            self.folder.log({"stage": stage, "dev": name, **({"when": when} if when else {}), **metrics})
            self.accelerator.print(
                f"{' '.join(['Stage', stage.upper(), when]).strip()}, {name}: R@1 {metrics['r1']:.3f}, "
                f"R@5 {metrics['r5']:.3f}, MRR {metrics['mrr']:.3f} of {len(self.dev[name])}", flush=True,
            )  # fmt: skip

    def _alignment(self) -> tuple[Vectors, Vectors, Tensor, list[str], list[str]]:
        """``AlignmentData`` of the foreign side, the English side, general English."""
        foreign, english = [p.foreign for p in self.often], [p.english for p in self.often]
        texts, answers = list(foreign), list(english)
        if self.recipe.stage_a.english_side:
            # An English string that stands in several pairs is one input.
            distinct = list(dict.fromkeys(english + self.english))
            texts += distinct
            answers += distinct
        group = {text: n for n, text in enumerate(dict.fromkeys(answers))}
        groups = torch.tensor([group[answer] for answer in answers])
        return self.features.vectors(texts), self.teacher_vectors(answers), groups, texts, answers

    def teachers(self, english: list[str]) -> Tensor:
        """hE ``[N, D]`` of English texts, float32, from the cache."""
        return self.teacher_vectors(english)[:]

    def teacher_vectors(self, english: list[str]) -> Vectors:
        """As ``teachers``, left on disk."""
        cache = FeatureCache(home() / "features", TeacherEncoder(self.decoder, self.recipe.teacher))
        cache.ensure(english, "Teacher states", accelerator=self.accelerator)
        return cache.vectors(english)

    @torch.inference_mode()
    def retrieval(self, bridge: Bridge) -> dict[str, dict[str, float]]:
        """Retrieval metrics of each dev set, both directions."""
        return {name: both_directions(*found) for name, found in self._dev_aligned(bridge.projector).items()}

    @torch.inference_mode()
    def _dev_ranks(self, projector: Any) -> dict[str, float]:
        """R@1 of each dev set, as ``<dev>.r1``, while the projector is trained."""
        return {f"{name}.r1": retrieval_metrics(*found)["r1"] for name, found in self._dev_aligned(projector).items()}

    def _dev_aligned(self, projector: Any) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """pF and centred hE of each dev set, on the CPU, and which answer which."""
        device, mean = projector.teacher_mean.device, projector.teacher_mean.cpu()
        return {
            name: (projector(pooled.to(device)).cpu(), teachers - mean, answers(self.dev[name]))
            for name, (pooled, teachers) in self._dev_vectors.items()
        }

    @cached_property
    def _dev_vectors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """zF and hE of each dev set."""
        return {
            name: (self.cache.pooled([p.foreign for p in rows]), self.teachers([p.english for p in rows]))
            for name, rows in self.dev.items()
        }

    def stage_b(self) -> Path:
        """Warm-start the injector, train it with LoRA on the frozen decoder, write the adapter."""
        adapter = self.out / "adapter"
        if adapter.exists():
            return adapter
        return self._inject("b", self.warm_start(), self.parent[0] if self.parent else None, adapter)

    def stage_c(self) -> Path:
        """Go on after stage B with the projector unfrozen; write another adapter beside stage B's.

        Retrieval is measured before, at every checkpoint and after: it shows whether the alignment drifts.
        """
        before, adapter = self.out / "adapter", self.out / "adapter_c"
        if adapter.exists():
            return adapter
        if not before.exists():
            raise LlinkError("E405", f"{self.out} holds no stage B result.", "Run --stage b first, or --stage all.")
        if self.accelerator.is_fsdp2:  # what stage B cut into shards does not come together again
            choice = self.recipe.decoder
            self.decoder = load_decoder(choice.name, **_place(self.recipe, self.accelerator), **choice.options)
        self.encode()
        bridge = self.bridge()
        bridge.load_state_dict(load_bridge(before, read_manifest(before)).weights())
        bridge.eval()
        retrieval = self.retrieval(bridge)
        if not (self.out / "checkpoints" / "stage_c.safetensors").exists():
            self._tell("c", retrieval, "before")
        self.metrics = {"retrieval before stage C": retrieval}
        self._inject("c", bridge, before, adapter)
        self._tell("c", self.metrics["retrieval"], "after")
        return adapter

    def _inject(self, stage: str, bridge: Bridge, start: Path | None, adapter: Path) -> Path:
        """Train bridge and LoRA with the decoder in the loop and write the adapter.

        Args:
            stage: ``b`` or ``c``.
            start: an adapter that has the LoRA to start from; None for a fresh one.
        """
        config: Injection = self.recipe.stage_c if stage == "c" else self.recipe.stage_b
        with self.folder.timed("distil"):
            examples = self.examples(config) if config.examples else []
        shared = self._shared_losses()
        torch.manual_seed(self.recipe.seed)
        lora = add_lora(self.decoder, self.recipe.stage_b)
        if start:
            weights = lora_weights(start, self.decoder, lora.peft_config["default"])
            set_peft_model_state_dict(lora, weights)
        self._settle(bridge)
        with self.folder.timed(f"stage_{stage}"):
            self.metrics |= train_stage_b(
                bridge,
                self.decoder,
                lora,
                self.features,
                examples,
                config,
                stage=stage,
                # Not once more the order in which stage B saw the examples first.
                seed=self.recipe.seed + (stage == "c"),
                accelerator=self.accelerator,
                verbatim=self.recipe.verbatim,
                dev=lambda: self.losses(bridge) | (self._found(bridge) if stage == "c" else {}),
                last=lambda: self._result(bridge, lora) | self._over_shared(shared, bridge),
                every=self.recipe.checkpoint_every,
                checkpoint=self.out / "checkpoints" / f"stage_{stage}.safetensors",
                log=self.folder.log,
                seen=self.folder.seen,
            )
        if self.accelerator.is_main_process:
            save_adapter(adapter, bridge, lora, self.manifest())
        self.accelerator.wait_for_everyone()
        lora.unload()  # the decoder is bare again, for whoever uses it next
        return adapter

    def _result(self, bridge: Bridge, lora: PeftModel) -> dict[str, Any]:
        """The manifest's metrics."""
        # The teacher is the frozen decoder: where its states are not in the cache yet, the LoRA must be off.
        with lora.disable_adapter():
            retrieval = self.retrieval(bridge)
        taken = {"retrieval through the projector": retrieval} if bridge.space == "encoder" else {}
        return {
            "retrieval": self.bare if bridge.space == "encoder" else retrieval,
            **taken,
            "usage": {name: self._usage(bridge, rows) for name, rows in self.dev.items()},
        }

    def _shared_losses(self) -> dict[str, float]:
        """Dev losses of the shared adapter, which would be used without one of the language's own; none without it."""
        names = (self.encoder.name, self.decoder.name)
        if self.language.code == SHARED or self.accelerator.is_fsdp2 or not has_shared(*names):
            return {}
        folder = find_adapter(plugins.language(SHARED), *names)
        manifest = read_manifest(folder)
        lora = add_lora(self.decoder, self.recipe.stage_b)
        try:
            check(folder, manifest, self.encoder, self.decoder)
            set_peft_model_state_dict(lora, lora_weights(folder, self.decoder, lora.peft_config["default"]))
            return self.losses(load_bridge(folder, manifest).to(self.accelerator.device))
        except LlinkError as error:
            self.accelerator.print(f"The shared adapter is left out of the comparison: {error}")
            return {}
        finally:
            lora.unload()

    def _over_shared(self, shared: dict[str, float], bridge: Bridge) -> dict[str, Any]:
        """What the language's own adapter adds, told and kept: nats per token of each dev set, and where that is nothing."""
        own = self.losses(bridge) if shared else {}
        found = {}
        for name in self.dev:
            if f"{name}.right" not in shared:
                continue
            before, after = shared[f"{name}.right"], own[f"{name}.right"]
            found[name] = {"loss": after, "loss of the shared adapter": before, "gain": before - after}
            said = f"{before - after:.2f} nats a token better" if after < before else "no better"
            self.accelerator.print(f"{name}: {said} than the shared adapter ({after:.2f} and {before:.2f})", flush=True)
        return {"over the shared adapter": found} if found else {}

    def _settle(self, bridge: Bridge) -> None:
        """Retrieve among the encoder's own vectors where that finds more of the dev sets' pairs, both ways, than the projector."""
        some = sorted(self.pairs.rows, key=lambda pair: share(pair.english))[:MEANS]
        sides = [p.foreign for p in some], [p.english for p in some]
        self._ensure([text for side in sides for text in side], "Encoding for the means")
        self._ensure([p.english for rows in self.dev.values() for p in rows], "Encoding dev English")
        foreign, english = (self.cache.vectors(side).mean() for side in sides)
        bare = {
            name: both_directions(
                self.cache.pooled([p.foreign for p in rows]) - foreign,
                self.cache.pooled([p.english for p in rows]) - english,
                answers(rows),
            )
            for name, rows in self.dev.items()
        }
        own = self.retrieval(bridge)
        found = {
            space: sum(m["r1"] + m["back_r1"] for m in of.values()) for space, of in (("own", own), ("bare", bare))
        }
        if found["bare"] > found["own"]:
            bridge.settle(foreign.to(bridge.reserved), english.to(bridge.reserved))
        self.bare = bare

    def aligned(self) -> Bridge:
        """The bridge with the projector of stage A; E405 when the folder holds no result of it."""
        done = self.out / "stage_a.safetensors"
        if not done.exists():
            raise LlinkError("E405", f"{self.out} holds no stage A result.", "Run --stage a first, or --stage all.")
        bridge = self.bridge()
        bridge.projector.load_state_dict(load_file(done))
        return bridge.eval()

    @property
    def goes_on(self) -> bool:
        """Whether stage B goes on from this language's own adapter: its bridge needs neither stage A nor a warm start."""
        own = self.parent is not None and self.parent[1].language == self.language.code
        return own and not (self.out / "stage_a.safetensors").exists()

    def warm_start(self) -> Bridge:
        """The bridge that stage B begins with: stage A's projector and an injector that is warm by now; it is kept."""
        if self.goes_on:
            self.encode()
            return self.bridge().eval()
        bridge = self.aligned()
        self.encode()
        done = self.out / "warm_start.safetensors"
        if self.recipe.warm_start.epochs and not done.exists():
            texts = [(p.foreign, p.english) for p in self.often]
            if self.english_side:
                texts += [(text, text) for text in dict.fromkeys([p.english for p in self.pairs.rows] + self.english)]
            with self.folder.timed("warm_start"):
                train_warm_start(
                    bridge, self.decoder, self.features, texts, self.recipe.warm_start, seed=self.recipe.seed,
                    accelerator=self.accelerator, checkpoint=self.out / "checkpoints" / "warm_start.safetensors",
                    checkpoint_every=self.recipe.checkpoint_every, log=self.folder.log, seen=self.folder.seen,
                )  # fmt: skip
            self._save(bridge.state_dict(), done)
        if done.exists():
            bridge.load_state_dict(load_file(done))
        return bridge

    def examples(self, config: Injection) -> list[Example]:
        """The training examples of stage B or C, all of their texts encoded."""
        english = self.english if self.english_side else None
        with self.accelerator.main_process_first():  # which lets the decoder answer, and keeps the answers
            examples = training_examples(self.recipe, self.decoder, self.pairs.rows, english, self.instructions, config)
        self._ensure([p.text for example in examples for p in example.passages], "Encoding instructions")
        channel = self.recipe.verbatim
        return with_values(examples, self.language, channel.share) if channel.tokens else examples

    def _found(self, bridge: Bridge) -> dict[str, float]:
        """R@1 of every dev set, as ``<dev>.r1``; the teacher states are in the cache by now."""
        return {f"{name}.r1": metrics["r1"] for name, metrics in self.retrieval(bridge).items()}

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
        tokens = self.recipe.verbatim.tokens
        return dev_losses(
            bridge, self.decoder, self.cache, with_values(examples, self.language) if tokens else examples,
            verbatim=tokens,
        )  # fmt: skip

    def manifest(self) -> dict[str, Any]:
        """The adapter manifest's fields."""
        counts = Counter(p.source for p in self.pairs.rows)
        licences = {p.source: p.licence for p in self.pairs.rows}
        data: dict[str, dict[str, Any]] = {s: {"pairs": n, "licence": licences[s]} for s, n in counts.most_common()}
        data |= self.english_sources
        data |= instruction_sources(self.instructions)
        init_from: dict[str, Any] = {}
        if self.parent:
            # What the older adapter was made of is in these weights too.
            older = self.parent[1]
            data = with_older(data, older, self.language.code)
            init_from = {"language": older.language, "files": older.files}
        return {
            "language": self.language.code,
            "encoder": self.encoder.name,
            "encoder_fingerprint": self.encoder.fingerprint,
            "encoder_signature": self.encoder.signature,
            "encoder_options": self.recipe.encoder.options,
            "decoder": self.decoder.name,
            "decoder_fingerprint": self.decoder.fingerprint,
            "prompt": prompt.fingerprint(self.decoder, self.recipe.injector.most, self.recipe.verbatim.tokens),
            "verbatim": self.recipe.verbatim.tokens,
            "recipe": self.recipe.model_dump(mode="json"),
            "data": data,
            "metrics": self.metrics,
            "init_from": init_from,
        }

    def _save(self, tensors: dict[str, Tensor], path: Path) -> None:
        """Write a stage's result on one rank; the others wait for it."""
        if self.accelerator.is_main_process:
            _save(tensors, path)
        self.accelerator.wait_for_everyone()


def training_examples(
    recipe: Recipe,
    decoder: Decoder,
    pairs: list[Pair],
    english: list[str] | None,
    instructions: Sequence[Instruction] = (),
    config: Injection | None = None,
) -> list[Example]:
    """The training examples of stage B or C: translation from both sides, and tasks.

    Args:
        english: general English sentences; None leaves examples with an English input out.
        instructions: the tasks, answered; without any, the decoder answers ``distilled`` itself.
        config: of the stage; None for stage B's.
    """
    config, pick = config or recipe.stage_b, random.Random(recipe.seed)
    often = repeated(pairs, recipe.data.repeat)
    examples = [Example(p.foreign, "translate", p.english, p.english) for p in often]
    pool = [] if english is None else list(dict.fromkeys([p.english for p in pairs] + english))
    count = round(len(examples) * config.english_share / max(1 - config.english_share, 0.01))
    examples += [Example(t, "translate", t, t) for t in pick.sample(pool, min(count, len(pool)))]
    if config.long_share:
        count = round(len(examples) * config.long_share / (1 - config.long_share))
        examples += [_long(group, "translate") for group in longer(often, count, config.passages, pick)]
    tasks = [Example(row.foreign, _task(row), row.target, row.english) for row in instructions]
    if config.distilled and not instructions:
        long = sorted(pairs, key=lambda p: -len(p.english.split()))[: config.distilled * 4]
        chosen = pick.sample(long, min(config.distilled, len(long)))
        texts = [[pair] for pair in chosen]
        # Every fourth is asked of a longer text.
        texts += longer(often, config.distilled // 4 if config.long_share else 0, config.passages, pick)
        answers = distil(decoder, [" ".join(p.english for p in text) for text in texts], home() / "distilled")
        tasks = [_long(texts[i], task, answer) for i, task, answer in answers]
    if tasks:
        share = len(examples) * config.task_share / (1 - min(config.task_share, 0.99))
        examples += (tasks * (int(share / len(tasks)) + 1))[: max(round(share), len(tasks))]
    return examples


def longer(pairs: Sequence[Pair], count: int, most: int, pick: random.Random) -> list[list[Pair]]:
    """So many longer texts: 2 to ``most`` pairs of one source each, put together at random."""
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair)
    sources = {source: list(dict.fromkeys(rows)) for source, rows in by_source.items() if len(set(rows)) > 1}
    if not sources:
        return []
    weights = [len(by_source[source]) for source in sources]
    drawn = pick.choices(list(sources.values()), weights, k=count)
    return [pick.sample(rows, min(pick.randint(2, most), len(rows))) for rows in drawn]


def _long(pairs: Sequence[Pair], task: str, target: str | None = None) -> Example:
    """One example of pairs that are the passages of one text; without a ``target`` its translation."""
    first, *more = pairs
    return Example(
        first.foreign,
        task,
        " ".join(p.english for p in pairs) if target is None else target,
        first.english,
        more=tuple(Passage(p.foreign, p.english) for p in more),
    )


def _task(row: Instruction) -> str:
    """The task that asks exactly this, else the instruction itself."""
    return row.task if prompt.TASKS.get(row.task) == row.instruction else row.instruction


def instruction_sources(rows: Sequence[Instruction]) -> dict[str, dict[str, Any]]:
    """Who wrote how many targets about whose text, under which licences, as the manifest's ``data`` has it."""
    counts = Counter((f"instructions by {row.model}", row.model_licence) for row in rows)
    counts.update((f"{row.source} (instructions)", row.licence) for row in rows)
    return {name: {"examples": count, "licence": licence} for (name, licence), count in counts.most_common()}


def with_older(data: dict[str, dict[str, Any]], older: Manifest, language: str) -> dict[str, dict[str, Any]]:
    """The sources of an adapter and of the one that it started from, as the manifest's ``data`` has them.

    Of a source that both have in the same language the larger number stands: the fewer are among the more. What came
    from another language's adapter is marked so.
    """
    whole = dict(data)
    for source, row in older.data.items():
        if older.language == language or source.endswith(THROUGH):
            if _count(row) >= _count(whole.get(source, {})):
                whole[source] = row
        else:
            whole[f"{source} ({older.language}{THROUGH}"] = row
    return whole


def _count(row: dict[str, Any]) -> int:
    return max((value for value in row.values() if isinstance(value, int)), default=0)


def _parent(recipe: Recipe, encoder: Encoder, decoder: Decoder) -> tuple[Path, Manifest]:
    """The adapter that a recipe starts from, checked; a path where ``init_from`` has one, else a language's own."""
    name = str(recipe.init_from)
    if os.path.isdir(expand(name)):
        folder = find_adapter(plugins.language(recipe.language), encoder.name, decoder.name, expand(name))
    else:
        chosen = plugins.select(name)
        folder = find_adapter(chosen.language, encoder.name, decoder.name, name=chosen.adapter)
    manifest = read_manifest(folder)
    check(folder, manifest, encoder, decoder)
    return folder, manifest


def _place(recipe: Recipe, accelerator: Accelerator) -> dict[str, Any]:
    """Where, and in which number format, this process holds the frozen models."""
    device = str(accelerator.device) if recipe.device == "auto" else recipe.device
    return {"device": device, "dtype": None if recipe.dtype == "auto" else recipe.dtype}


def claim(recipe: Recipe, out: Path, resume: bool, accelerator: Accelerator) -> None:
    """Make the run folder on one rank, or take up the one that is there if it is the same recipe's."""
    if accelerator.is_main_process:
        _claim(recipe, out, resume)
    accelerator.wait_for_everyone()


def _claim(recipe: Recipe, out: Path, resume: bool) -> None:
    path = out / "recipe.yaml"
    if path.exists():
        if not resume:
            raise LlinkError("E404", f"{out} already holds a run.", "Go on with --resume, or choose another --out.")
        kept = load_recipe(path)
        if kept == recipe:
            hold(out)
            return
        # Stage C is at the end: until it has begun, it may be set anew.
        begun = any((out / name).exists() for name in ("adapter_c", "checkpoints/stage_c.safetensors"))
        if begun or kept.model_copy(update={"stage_c": recipe.stage_c}) != recipe:
            raise LlinkError(
                "E404", f"The run in {out} has another recipe.", "Use the same recipe and --set, or another --out."
            )
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        hold(out)
        for folder in (out, out / "checkpoints"):
            sweep(folder, 0)  # nobody else is writing there
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
