"""The method's own losses, one a file, and the plugin that brings them as any other plugin would."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from llink.hookspecs import hookimpl
from llink.interfaces import Loss, LossTerm


def _make(module: str, name: str) -> Loss:
    loss: Loss = getattr(import_module(f"llink.adapter.losses.{module}"), name)()
    return loss


@hookimpl
def llink_losses() -> list[LossTerm]:
    slots = ("warm_start", "stage_b")
    return [
        LossTerm("info_nce", ("stage_a", "stage_b"), partial(_make, "info_nce", "InfoNCE"),
                 "sentence vectors of both sides; in stage A a queue of earlier teachers too"),
        LossTerm("direction", ("stage_a",), partial(_make, "direction", "Direction"), "sentence vectors of both sides"),
        LossTerm("log_norm", ("stage_a",), partial(_make, "log_norm", "LogNorm"), "sentence vectors of both sides"),
        LossTerm("cosine", slots, partial(_make, "cosine", "Cosine"), "slots, and English embeddings for each"),
        LossTerm("bag_of_words", slots, partial(_make, "bag_of_words", "BagOfWords"),
                 "slots, and the English tokens of each"),
        LossTerm("usage_contrast", ("stage_b",), partial(_make, "usage_contrast", "UsageContrast"),
                 "a pass of the decoder without the slots, every stage_b.usage_every steps"),
        LossTerm("self_distillation_kl", ("stage_b",), partial(_make, "self_distillation", "SelfDistillationKL"),
                 "a pass of the frozen decoder over the English text"),
    ]  # fmt: skip
