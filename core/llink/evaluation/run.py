"""All suites over all dev sets, one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llink.data.pairs import Pair, dev_pairs
from llink.engine import BATCH, Engine
from llink.errors import unknown_name
from llink.evaluation.ranks import both_directions
from llink.home import home
from llink.interfaces import Language
from llink.progress import track
from llink.prompt import TASKS, build
from llink.reading import answer_prompts, in_batches
from llink.recipe import Recipe, Teacher
from llink.training.features import FeatureCache
from llink.training.stage_b import Example, dev_losses
from llink.training.teacher import TeacherEncoder

Metrics = dict[str, float]


@dataclass
class Subject:
    """An adapter under test, with what the suites need."""

    engine: Engine
    code: str
    cache: FeatureCache
    limit: int | None

    def first(self, rows: list[Pair], default: int) -> list[Pair]:
        """The pairs a suite looks at: ``--limit`` or its own default, from the start of the dev set."""
        return rows[: self.limit or default]


def retrieval(subject: Subject, rows: list[Pair]) -> Metrics:
    """R@1/5/10, MRR and mean rank over up to 1,024 candidates, both directions."""
    rows = subject.first(rows, 1024)
    resident = subject.engine.resident(subject.code)
    teacher = TeacherEncoder(subject.engine.decoder, Teacher(**resident.manifest.recipe["teacher"]))
    cache = FeatureCache(home() / "features", teacher)
    subject.cache.ensure([p.foreign for p in rows])
    with subject.engine.using(None):
        cache.ensure([p.english for p in rows], "Teacher states")
    projector = resident.bridge.projector
    with torch.inference_mode():
        aligned = projector(subject.cache.pooled([p.foreign for p in rows]).to(projector.teacher_mean.device)).cpu()
    metrics = both_directions(aligned, cache.pooled([p.english for p in rows]) - projector.teacher_mean.cpu())
    return {"candidates": len(rows), **metrics}


def usage(subject: Subject, rows: list[Pair]) -> Metrics:
    """Nats per token with right, zeroed and shuffled slots, and the gaps between them."""
    rows = subject.first(rows, 200)
    subject.cache.ensure([p.foreign for p in rows])
    examples = [Example(p.foreign, "translate", p.english, p.english) for p in rows]
    bridge = subject.engine.resident(subject.code).bridge
    with subject.engine.using(subject.code):
        return {"pairs": len(rows), **dev_losses(bridge, subject.engine.decoder, subject.cache, examples)}


def translate(subject: Subject, rows: list[Pair]) -> Metrics:
    """chrF++ of the adapter and of the same decoder given the raw text, and what each pays in prompt tokens."""
    from sacrebleu.metrics import CHRF

    rows = subject.first(rows, 100)
    engine, decoder = subject.engine, subject.engine.decoder
    references, chrf = [p.english for p in rows], CHRF(word_order=2)
    ours: list[str] = []
    raw: list[str] = []
    with track("Translating", total=2 * len(rows)) as bar:
        for part in in_batches(len(rows), BATCH):
            ours += engine.generate([p.foreign for p in rows[part]], subject.code, max_new_tokens=96)
            bar(len(rows[part]))
            with engine.using(None):
                prompts = [build(decoder, TASKS["translate"], text=p.foreign) for p in rows[part]]
                raw += answer_prompts(decoder, prompts, 96)
            bar(len(rows[part]))
    slots = engine.resident(subject.code).bridge.slots
    raw_tokens = sum(len(decoder.tokenize(p.foreign)) for p in rows) / len(rows)
    return {
        "pairs": len(rows),
        "chrf++": chrf.corpus_score(ours, [references]).score,
        "chrf++ raw": chrf.corpus_score(raw, [references]).score,
        "foreign prompt tokens": float(slots),
        "foreign prompt tokens raw": raw_tokens,
        "token ratio": raw_tokens / slots,
    }


SUITES: dict[str, Callable[[Subject, list[Pair]], Metrics]] = {
    "retrieval": retrieval,
    "usage": usage,
    "translate": translate,
}


def evaluate(
    language: Language,
    suites: Sequence[str] = tuple(SUITES),
    *,
    recipe: Recipe,
    data: Path,
    adapter: Path | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, Metrics]]:
    """Run suites on an adapter: suite -> dev set -> metric -> value.

    Args:
        recipe: names the dev sets and the pair of models.
        data: folder that its paths are relative to.
        adapter: folder; without it the shipped one.
        limit: how many pairs of each dev set; each suite has its own default.

    Raises:
        LlinkError: E506 for an unknown suite, E210/E211 for dev data, E3xx for the adapter.
    """
    for name in suites:
        if name not in SUITES:
            raise unknown_name("E506", "suite", name, SUITES)
    dev = {name: dev_pairs(recipe.data, data, name, language.normalise).rows for name in recipe.data.dev}
    engine = Engine.load(recipe.encoder.name, recipe.decoder.name)
    engine.add(language.code, adapter)
    subject = Subject(engine, language.code, FeatureCache(home() / "features", engine.encoder), limit)
    return {suite: {name: SUITES[suite](subject, rows) for name, rows in dev.items()} for suite in suites}
