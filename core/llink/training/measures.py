"""What a run measures on its dev sets: retrieval, losses with and without the slots, and against the shared adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel, set_peft_model_state_dict
from torch import Tensor

from llink import plugins
from llink.adapter.bridge import Bridge
from llink.adapter.files import check, find_adapter, load_bridge, read_manifest
from llink.adapter.lora_files import lora_weights
from llink.adapter.shared import SHARED, has_shared
from llink.data.pairs import Pair, share
from llink.errors import LlinkError
from llink.features.cache import FeatureCache
from llink.interfaces import Decoder, Encoder, Language
from llink.recipe import Recipe
from llink.training.examples import Example, with_values
from llink.training.ranks import answers, both_directions, retrieval_metrics
from llink.training.stage_b import dev_losses
from llink.training.with_decoder import add_lora

MEANS = 4096
"""Pairs that the means of the encoder's vectors are taken over."""


@dataclass
class Measures:
    """The dev sets of a run, and the models that are measured on them.

    Args:
        cache, taught: features of the encoder, and states of the teacher.
    """

    recipe: Recipe
    language: Language
    encoder: Encoder
    decoder: Decoder
    cache: FeatureCache
    taught: FeatureCache
    dev: dict[str, list[Pair]]
    accelerator: Accelerator
    bare: dict[str, dict[str, float]] = field(default_factory=dict)
    """Retrieval of each dev set among the encoder's own vectors, once it is settled."""

    @torch.inference_mode()
    def retrieval(self, bridge: Bridge) -> dict[str, dict[str, float]]:
        """Retrieval metrics of each dev set, both directions."""
        return {name: both_directions(*found) for name, found in self._aligned(bridge.projector).items()}

    @torch.inference_mode()
    def ranks(self, projector: Any) -> dict[str, float]:
        """R@1 of each dev set, as ``<dev>.r1``, while the projector is trained."""
        return {f"{name}.r1": retrieval_metrics(*found)["r1"] for name, found in self._aligned(projector).items()}

    def _aligned(self, projector: Any) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """pF and centred hE of each dev set, on the CPU, and which answer which."""
        device, mean = projector.teacher_mean.device, projector.teacher_mean.cpu()
        return {
            name: (projector(pooled.to(device)).cpu(), teachers - mean, answers(self.dev[name]))
            for name, (pooled, teachers) in self._vectors.items()
        }

    @cached_property
    def _vectors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """zF and hE of each dev set."""
        return {
            name: (self.cache.pooled([p.foreign for p in rows]), self._taught([p.english for p in rows]))
            for name, rows in self.dev.items()
        }

    def _taught(self, english: list[str]) -> Tensor:
        """hE ``[N, D]``, float32."""
        self._ensure(self.taught, english, "Teacher states")
        return self.taught.vectors(english)[:]

    def _ensure(self, cache: FeatureCache, texts: list[str], label: str) -> None:
        cache.ensure(texts, label, accelerator=self.accelerator)

    def found(self, bridge: Bridge) -> dict[str, float]:
        """R@1 of every dev set, as ``<dev>.r1``; the teacher states are in the cache by now."""
        return {f"{name}.r1": metrics["r1"] for name, metrics in self.retrieval(bridge).items()}

    def losses(self, bridge: Bridge) -> dict[str, float]:
        """Dev losses of the first examples of every dev set, as ``<dev>.<name>``."""
        return {
            f"{name}.{key}": value
            for name, rows in self.dev.items()
            if self.recipe.dev_examples
            for key, value in self.usage(bridge, rows[: self.recipe.dev_examples]).items()
        }

    def usage(self, bridge: Bridge, rows: list[Pair], limit: int = 200) -> dict[str, float]:
        examples = [Example(p.foreign, "translate", p.english, p.english) for p in rows[:limit]]
        tokens = self.recipe.verbatim.tokens
        return dev_losses(
            bridge,
            self.decoder,
            self.cache,
            with_values(examples, self.language) if tokens else examples,
            verbatim=tokens,
        )

    def result(self, bridge: Bridge, lora: PeftModel) -> dict[str, Any]:
        """The manifest's metrics."""
        # The teacher is the frozen decoder: where its states are not in the cache yet, the LoRA must be off.
        with lora.disable_adapter():
            retrieval = self.retrieval(bridge)
        taken = {"retrieval through the projector": retrieval} if bridge.space == "encoder" else {}
        return {
            "retrieval": self.bare if bridge.space == "encoder" else retrieval,
            **taken,
            "usage": {name: self.usage(bridge, rows) for name, rows in self.dev.items()},
        }

    def of_shared_adapter(self) -> dict[str, float]:
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

    def over_shared_adapter(self, shared: dict[str, float], bridge: Bridge) -> dict[str, Any]:
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

    def settle(self, bridge: Bridge, pairs: list[Pair]) -> None:
        """Retrieve among the encoder's own vectors where that finds more of the dev sets' pairs, both ways, than the projector."""
        some = sorted(pairs, key=lambda pair: share(pair.english))[:MEANS]
        sides = [p.foreign for p in some], [p.english for p in some]
        self._ensure(self.cache, [text for side in sides for text in side], "Encoding for the means")
        self._ensure(self.cache, [p.english for rows in self.dev.values() for p in rows], "Encoding dev English")
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
