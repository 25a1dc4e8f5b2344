"""The card of a shared adapter: that of its manifest, under the metadata by which a hub finds and shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llink.adapter.card import card
from llink.adapter.files import Manifest
from llink.store.registry import load_registry

TAG = "llink"
"""What `llink search` looks for."""
SHOWN = {
    ("retrieval", "r1"): ("sentence-similarity", "recall_at_1", "R@1 to English"),
    ("usage", "usage_gap"): ("translation", "usage_gap", "usage gap, nats a token"),
    ("translate", "chrf++"): ("translation", "chrf", "chrF++"),
    ("translate", "bleu"): ("translation", "bleu", "BLEU"),
    ("exact", "exact"): ("translation", "exact_values", "exact values"),
    ("tasks", "agreement"): ("text-generation", "agreement", "agreement with the decoder's answers to the English"),
}
"""Suite and measure -> the hub's task, its name for the metric, and ours."""


def shared_card(manifest: Manifest, licence: str, name: str) -> str:
    """README.md of an adapter as it is shared, metadata first.

    Args:
        licence: an identifier such as ``apache-2.0``, or ``other``.
        name: of the adapter, as in ``model-index``.
    """
    return f"---\n{metadata(manifest, licence, name)}\n---\n\n{card(manifest)}"


def metadata(manifest: Manifest, licence: str, name: str) -> str:
    """The YAML: language, base_model, library_name, licence, datasets, and the measures in ``model-index``."""
    from huggingface_hub import ModelCardData

    results = list(_results(manifest.metrics))
    data = ModelCardData(
        language=[manifest.language, "en"],
        license=licence.lower(),
        library_name="llink",
        base_model=[upstream(manifest.decoder), upstream(manifest.encoder)],
        base_model_relation="adapter",
        pipeline_tag="translation",
        tags=[TAG, "llink-adapter", "lora"],
        datasets=[source for source in manifest.data if _is_dataset(source)] or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name,
        eval_results=results or None,
        llink={
            "version": manifest.version,
            "encoder": manifest.encoder,
            "decoder": manifest.decoder,
            "slots": manifest.slots,
            "verbatim": manifest.verbatim,
            "sources": {source: str(row["licence"]) for source, row in manifest.data.items()},
        },
    )
    return data.to_yaml()


def upstream(model: str) -> str:
    """The hub's name of a model of the registry; the registry's own where it has none."""
    entry = load_registry().models.get(model)
    if entry is None:
        return model
    return entry.upstream or (entry.source.hub.repo if entry.source.hub else model)


def _results(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
    from huggingface_hub import EvalResult

    for (suite, measure), (task, kind, label) in SHOWN.items():
        for dev, values in metrics.get(suite, {}).items():
            if isinstance(values.get(measure), int | float):
                yield EvalResult(
                    task_type=task,
                    dataset_type=dev,
                    dataset_name=dev,
                    metric_type=kind,
                    metric_name=label,
                    metric_value=round(values[measure], 4),
                )


def _is_dataset(source: str) -> bool:
    """Whether a source of pairs is called as a hub calls data sets."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is not None
