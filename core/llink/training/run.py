"""One training run: recipe and data in, adapter folder out; each finished stage is kept and never redone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from llink import plugins
from llink.adapter import prompt
from llink.adapter.bridge import Bridge
from llink.adapter.files import Manifest, check, find_adapter, load_bridge, read_manifest, save_adapter
from llink.adapter.lora_files import lora_weights
from llink.data.pairs import Pair, repeated
from llink.errors import LlinkError
from llink.features.cache import FeatureCache, Features, MatchedMeans, Vectors
from llink.features.teacher import TeacherEncoder
from llink.home import expand, home
from llink.interfaces import Decoder, Encoder, Language
from llink.recipe import Injection, Recipe
from llink.store.models import load_decoder, load_encoder
from llink.training import trackers
from llink.training.checkpoints import write_tensors
from llink.training.context import Context
from llink.training.data import TrainingData
from llink.training.examples import Example, training_examples, with_values
from llink.training.measures import Measures
from llink.training.objective import check_losses, check_parts
from llink.training.parts import accelerator_for, place_of
from llink.training.provenance import sources, with_older
from llink.training.run_folder import RunFolder, claim
from llink.training.stage_a import AlignmentData, train_stage_a
from llink.training.stage_b import train_stage_b
from llink.training.warm_start import train_warm_start
from llink.training.with_decoder import add_lora

CANDIDATES = 1024


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
    data: TrainingData
    accelerator: Accelerator
    folder: RunFolder
    parent: tuple[Path, Manifest] | None = None
    """The adapter that ``init_from`` names."""
    metrics: dict[str, Any] = field(default_factory=dict)
    _measures: Measures | None = None

    @classmethod
    def open(cls, recipe: Recipe, data: Path, out: Path, resume: bool, track: Sequence[str] = ()) -> Run:
        """Load everything a run needs; the folder is claimed first, so that a mistake there costs no time."""
        language = plugins.language(recipe.language)
        check_losses(recipe)
        check_parts(recipe)
        accelerator = accelerator_for(recipe.device, **trackers.options(track, out))
        claim(recipe, out, resume, accelerator)
        read = TrainingData.read(recipe, data, language, out, accelerator, CANDIDATES)
        folder = RunFolder(out, accelerator, recipe.model_dump(mode="json"))
        with folder.timed("load"), accelerator.local_main_process_first():  # which fetches them
            place = place_of(recipe, accelerator)
            encoder = load_encoder(recipe.encoder.name, **place, **recipe.encoder.options)
            decoder = load_decoder(recipe.decoder.name, **place, **recipe.decoder.options)
        cache = FeatureCache(home() / "features", encoder)
        parent = _parent(recipe, encoder, decoder) if recipe.init_from else None
        return cls(recipe, out, language, encoder, decoder, cache, read, accelerator, folder, parent)

    def beside(self, recipe: Recipe, out: Path) -> Run:
        """A run of a variant of the recipe on the same models and data, in a folder of its own; it goes on there.

        Args:
            recipe: differs from this run's in settings of training alone, not in language, data or models.

        Raises:
            LlinkError: E404 when ``out`` holds another run.
        """
        claim(recipe, out, True, self.accelerator)
        folder = RunFolder(out, self.accelerator, recipe.model_dump(mode="json"))
        return replace(self, recipe=recipe, out=out, folder=folder, metrics={}, _measures=None)

    @property
    def pairs(self) -> list[Pair]:
        """The training pairs."""
        return self.data.pairs.rows

    @property
    def dev(self) -> dict[str, list[Pair]]:
        """The dev sets."""
        return self.data.dev

    @property
    def measures(self) -> Measures:
        """What measures the dev sets, with the decoder as it is now."""
        known = self._measures
        if known is None or known.dev is not self.dev or known.decoder is not self.decoder:
            known = self._measures = Measures(
                self.recipe,
                self.language,
                self.encoder,
                self.decoder,
                self.cache,
                self.taught,
                self.dev,
                self.accelerator,
            )
        return known

    def context(self, name: str, seed: int | None = None) -> Context:
        """How a stage is trained, by the name of its checkpoint."""
        recipe, folder = self.recipe, self.folder
        checkpoint = self.out / "checkpoints" / f"{name}.safetensors"
        seed = recipe.seed if seed is None else seed
        return Context(self.accelerator, seed, recipe.checkpoint_every, checkpoint, folder.log, folder.seen)

    def bridge(self) -> Bridge:
        """The bridge that training starts with: fresh, or that of the adapter named by ``init_from``."""
        torch.manual_seed(self.recipe.seed)
        bridge = Bridge.create(self.encoder, self.decoder, self.recipe.projector, self.recipe.injector)
        if self.parent:
            folder, manifest = self.parent
            older = load_bridge(folder, manifest)
            if {n: t.shape for n, t in older.weights().items()} != {n: t.shape for n, t in bridge.weights().items()}:
                raise LlinkError(
                    "E407",
                    f"The bridge of {folder} has other sizes than the recipe's projector and injector.",
                    "Use the same projector and injector, or leave init_from out.",
                )
            bridge.load_state_dict(older.weights())
        return bridge

    def encode(self) -> None:
        """Run the frozen encoder once over every text that is not in the cache yet; the ranks share them out."""
        with self.folder.timed("encode"):
            self._ensure([p.foreign for p in self.pairs], f"Encoding {self.language.name}")
            self._ensure([p.foreign for rows in self.dev.values() for p in rows], "Encoding dev sets")
            english = [p.english for p in self.pairs] if self.english_side else []
            self._ensure(english + self.data.english, "Encoding English")

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
        return repeated(self.pairs, self.recipe.data.repeat)

    @cached_property
    def features(self) -> Features:
        """The encoded training texts as the bridge sees them; asked for after ``encode``."""
        foreign, english = [p.foreign for p in self.pairs], [p.english for p in self.pairs] + self.data.english
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
                self.context("stage_a"),
                dev=lambda: self.measures.ranks(projector),
            )
        self._tell("a", self.retrieval(bridge))
        self._save(projector.state_dict(), done)

    def _tell(self, stage: str, retrieval: dict[str, dict[str, float]], when: str = "") -> None:
        """Log and print the retrieval of each dev set, in stage C ``before`` and ``after`` it."""
        for name, metrics in retrieval.items():
            self.folder.log({"stage": stage, "dev": name, **({"when": when} if when else {}), **metrics})
            self.accelerator.print(
                f"{' '.join(['Stage', stage.upper(), when]).strip()}, {name}: R@1 {metrics['r1']:.3f}, "
                f"R@5 {metrics['r5']:.3f}, MRR {metrics['mrr']:.3f} of {len(self.dev[name])}",
                flush=True,
            )

    def _alignment(self) -> tuple[Vectors, Vectors, Tensor, list[str], list[str]]:
        """``AlignmentData`` of the foreign side, the English side, general English."""
        foreign, english = [p.foreign for p in self.often], [p.english for p in self.often]
        texts, answers = list(foreign), list(english)
        if self.recipe.stage_a.english_side:
            # An English string that stands in several pairs is one input.
            distinct = list(dict.fromkeys(english + self.data.english))
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
        cache = self.taught
        cache.ensure(english, "Teacher states", accelerator=self.accelerator)
        return cache.vectors(english)

    @property
    def taught(self) -> FeatureCache:
        """Teacher states of English texts."""
        return FeatureCache(home() / "features", TeacherEncoder(self.decoder, self.recipe.teacher))

    def retrieval(self, bridge: Bridge) -> dict[str, dict[str, float]]:
        """Retrieval metrics of each dev set, both directions."""
        return self.measures.retrieval(bridge)

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
            self.decoder = load_decoder(choice.name, **place_of(self.recipe, self.accelerator), **choice.options)
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
        measures = self.measures
        shared = measures.of_shared_adapter()
        torch.manual_seed(self.recipe.seed)
        lora = add_lora(self.decoder, self.recipe.stage_b)
        if start:
            weights = lora_weights(start, self.decoder, lora.peft_config["default"])
            set_peft_model_state_dict(lora, weights)
        measures.settle(bridge, self.pairs)
        with self.folder.timed(f"stage_{stage}"):
            self.metrics |= train_stage_b(
                bridge,
                self.decoder,
                lora,
                self.features,
                examples,
                config,
                # In stage C not once more the order in which stage B saw the examples first.
                self.context(f"stage_{stage}", self.recipe.seed + (stage == "c")),
                stage=stage,
                verbatim=self.recipe.verbatim,
                dev=lambda: measures.losses(bridge) | (measures.found(bridge) if stage == "c" else {}),
                last=lambda: measures.result(bridge, lora) | measures.over_shared_adapter(shared, bridge),
            )
        if self.accelerator.is_main_process:
            save_adapter(adapter, bridge, lora, self.manifest())
        self.accelerator.wait_for_everyone()
        lora.unload()  # the decoder is bare again, for whoever uses it next
        return adapter

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
                texts += [(text, text) for text in dict.fromkeys([p.english for p in self.pairs] + self.data.english)]
            with self.folder.timed("warm_start"):
                train_warm_start(
                    bridge, self.decoder, self.features, texts, self.recipe.warm_start, self.context("warm_start")
                )
            self._save(bridge.state_dict(), done)
        if done.exists():
            bridge.load_state_dict(load_file(done))
        return bridge

    def examples(self, config: Injection) -> list[Example]:
        """The training examples of stage B or C, all of their texts encoded."""
        english = self.data.english if self.english_side else None
        with self.accelerator.main_process_first():  # which lets the decoder answer, and keeps the answers
            examples = training_examples(self.recipe, self.decoder, self.pairs, english, self.data.instructions, config)
        self._ensure([p.text for example in examples for p in example.passages], "Encoding instructions")
        channel = self.recipe.verbatim
        return with_values(examples, self.language, channel.share) if channel.tokens else examples

    def manifest(self) -> dict[str, Any]:
        """The adapter manifest's fields."""
        data = sources(self.data)
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
            write_tensors(path, tensors)
        self.accelerator.wait_for_everyone()


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
