"""All suites over all dev sets, one report; what a folder already holds is not measured again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llink import __version__
from llink.adapter.files import find_adapter
from llink.adapter.shared import SHARED, has_adapter, has_shared
from llink.data.pairs import Pair, dev_pairs
from llink.errors import LlinkError, unknown_name
from llink.evaluation import BASELINES, SUITES, evaluator
from llink.evaluation.base import Evaluator, Metrics, Skip, Subject
from llink.evaluation.baselines import lora_hash
from llink.evaluation.results import METRICS, PREDICTIONS, content_of
from llink.features.cache import FeatureCache
from llink.home import atomic_write, home, read_json, write_json
from llink.interfaces import Language
from llink.plugins import select
from llink.recipe import Recipe
from llink.serving.engine import Engine

SAMPLES = "samples"
SEED = 17


@dataclass
class Report:
    """What an evaluation found.

    Attributes:
        metrics: suite -> set -> metric -> value.
        warnings, skipped: what to know of the numbers, and what could not be measured and why; each with its suite.
        notes: suite -> set -> what belongs to its numbers, such as signatures.
        about: language, models, adapter and settings.
    """

    metrics: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def add(self, suite: str, name: str, found: dict[str, Any]) -> None:
        """Take in what one suite found on one set."""
        place = f"{suite}, {name}: "
        if "skipped" in found:
            self.skipped.append(place + found["skipped"])
            return
        self.metrics.setdefault(suite, {})[name] = found["metrics"]
        self.warnings += [place + warning for warning in found["warnings"]]
        if found["notes"]:
            self.notes.setdefault(suite, {})[name] = found["notes"]

    def as_dict(self, earlier: dict[str, Any], suites: Sequence[str]) -> dict[str, Any]:
        """As ``metrics.json`` has it, with what ``earlier`` has of other suites where it is of the same evaluation."""
        now: dict[str, Any] = {
            "results": self.metrics,
            "warnings": self.warnings,
            "skipped": self.skipped,
            "notes": self.notes,
        }
        if any(earlier.get(key) != value for key, value in self.about.items()):
            return {**self.about, **now}
        found: dict[str, Any] = {**self.about}
        for key in ("results", "notes"):
            found[key] = {suite: sets for suite, sets in earlier[key].items() if suite not in suites} | now[key]
        for key in ("warnings", "skipped"):
            # Each line begins with its suite.
            others = [line for line in earlier[key] if re.split("[,:]", line)[0] not in suites]
            found[key] = list(dict.fromkeys([*others, *now[key]]))
        return found


def evaluate(language: Language, suites: Sequence[str] = SUITES, **options: Any) -> dict[str, dict[str, Metrics]]:
    """Suite -> set -> metric -> value; arguments and errors of ``measure``."""
    return measure(language, suites, **options).metrics


def measure(
    language: Language,
    suites: Sequence[str] = SUITES,
    *,
    recipe: Recipe,
    data: Path,
    adapter: Path | None = None,
    limit: int | None = None,
    against: Sequence[str] = ("raw", "english", "encoder"),
    lora: Path | None = None,
    cascade: str | None = None,
    judge: str | None = None,
    samples: bool = False,
    sets: Mapping[str, Sequence[Pair]] | None = None,
    max_slots: int | None = None,
    out: Path | None = None,
    fresh: bool = False,
) -> Report:
    """Run suites on an adapter.

    Args:
        recipe: names the dev sets and the pair of models.
        data: folder that its paths are relative to.
        adapter: folder; without it the shipped one.
        limit: how many pairs of each set; each suite has its own default.
        against: baselines beside it, of ``BASELINES``.
        lora: folder of the baseline ``direct-lora``.
        cascade: translation model of the baseline ``cascade``, see ``llink.evaluation.translators.Spec``.
        judge: name of the judge, see ``llink.evaluation.judging.open_judge``; without it that suite is skipped.
        sets: measured on in place of the recipe's dev sets, by name.
        samples: whether the language's own samples stand in where there is no dev data.
        max_slots: how many slots a passage may get, see ``Engine``.
        out: folder of what is found, a sub-folder a suite and set; what it has of this very evaluation is taken up.
        fresh: measure again what ``out`` has.

    Raises:
        LlinkError: E506 for an unknown suite or baseline, E527 for no ``lora``, E532 and E533 for ``cascade``,
            E210/E211 for dev data, E520 where there is nothing to measure on, E3xx for the adapter.
    """
    evaluators = [evaluator(suite) for suite in suites]
    for name in against:
        if name not in BASELINES:
            raise unknown_name("E506", "baseline", name, BASELINES)
    if "direct-lora" in against:
        from llink.training.direct_lora import read_about

        read_about(lora or Path())
    if "cascade" in against:
        from llink.evaluation.cascade import translator

        translator(cascade or "", language)  # before the models are at work
    report = Report()
    dev = sets or dev_sets(language, recipe, data, samples, report)
    if adapter is None:
        adapter = _shared(language, recipe, report)
    settings: dict[str, Any] = {
        "limit": limit,
        "seed": SEED,
        "against": tuple(against),
        "lora": lora,
        "cascade": cascade,
        "judge": judge,
    }
    with under_test(language, recipe, adapter, max_slots, **settings) as subject:
        manifest = subject.engine.resident(language.code).manifest
        about = {
            "llink": __version__,
            "language": language.code,
            "encoder": manifest.encoder,
            "decoder": manifest.decoder,
            "recipe": recipe.name,
            "adapter": manifest.files,
            "limit": limit,
            "seed": SEED,
            "against": list(against),
            "lora": lora_hash(lora),
            **({"max_slots": max_slots} if max_slots else {}),
            **({"cascade": translator(cascade, language).signature} if cascade and "cascade" in against else {}),
        }
        report.about = {**about, "data": _hash({name: _texts(rows) for name, rows in dev.items()})}
        earlier = content_of(out) if out else {}
        for suite in evaluators:
            try:
                sets = suite.sets(subject, dev)
            except Skip as reason:
                report.skipped.append(f"{suite.name}: {reason}")
                continue
            for name, rows in sets.items():
                report.add(suite.name, name, _one(suite, name, subject, rows, about, out, fresh))
                if out:
                    write_json(out / METRICS, report.as_dict(earlier, suites))
        if out:
            write_json(out / METRICS, report.as_dict(earlier, suites))
    return report


def _shared(language: Language, recipe: Recipe, report: Report) -> Path | None:
    """The shared adapter's folder, for a language without its own; it is then measured by the language's rules, and said."""
    names = recipe.encoder.name, recipe.decoder.name
    if has_adapter(select(language.code), *names) or not has_shared(*names):
        return None
    report.warnings.append(f"{language.name} has no adapter of its own: the shared one was measured.")
    return find_adapter(select(SHARED).language, *names)


@contextmanager
def under_test(
    language: Language, recipe: Recipe, adapter: Path | None = None, max_slots: int | None = None, **settings: Any
) -> Iterator[Subject]:
    """An adapter with the recipe's models loaded; ``settings`` are those of ``Subject``."""
    names = recipe.encoder.name, recipe.decoder.name
    engine = Engine.load(*names, max_slots=max_slots)
    try:
        engine.add(language.code, adapter)
        yield Subject(engine, language, FeatureCache(home() / "features", engine.encoder), names, **settings)
    finally:
        engine.close()


def dev_sets(
    language: Language, recipe: Recipe, data: Path, samples: bool, report: Report
) -> dict[str, Sequence[Pair]]:
    """The dev sets of a recipe, or the language's samples in their place; what was left out goes into the report.

    Raises:
        LlinkError: E210/E211 for data that cannot be had, E520 where there is nothing at all.
    """
    found: dict[str, Sequence[Pair]] = {}
    for name in recipe.data.dev:
        try:
            read = dev_pairs(recipe.data, data, name, language.normalise)
            found[name] = read.rows
            if read.skipped:
                report.warnings.append(f"{name}: {read.summary()}")
        except LlinkError as error:
            if not samples or error.code not in ("E210", "E211"):
                raise
            report.skipped.append(f"{name}: {error.message}")
    if not found:
        normal = language.normalise
        found = {SAMPLES: [Pair(normal(s.english), normal(s.foreign), SAMPLES) for s in language.samples]}
        report.warnings.append(
            f"No dev data of {language.name} was found: measured on its {len(language.samples)} samples, which says little."
        )
    if not any(found.values()):
        raise LlinkError(
            "E520",
            f"There is nothing to measure {language.name} on: no dev set, and no samples.",
            f"Give the folder of its data with --data, or get some: llink data harvest {language.code}.",
        )
    return found


def _one(
    suite: Evaluator,
    name: str,
    subject: Subject,
    rows: Sequence[Pair],
    about: dict[str, Any],
    out: Path | None,
    fresh: bool,
) -> dict[str, Any]:
    """What a suite finds on a set: taken up from ``out``, else measured and left there."""
    # Another judge is no reason to measure the other suites again.
    judge = subject.judge if suite.name == "judge" else None
    settings = {**about, "suite": suite.name, "judge": judge, "rows": _texts(rows)}
    key = _hash(settings)
    folder = out / suite.name / _safe(name) if out else None
    if folder and not fresh:
        known = _known(folder)
        if known.get("key") == key:
            return known
    try:
        result = suite(subject, rows)
    except Skip as reason:
        return {"skipped": str(reason)}
    found = {"key": key, "set": name, "metrics": result.metrics, "warnings": result.warnings, "notes": result.notes}
    if folder:
        # The examples first: where the numbers are, all is there.
        lines = (json.dumps(row, ensure_ascii=False) for row in result.predictions)
        atomic_write(folder / PREDICTIONS, "".join(f"{line}\n" for line in lines))
        write_json(folder / METRICS, found)
    return found


def _known(folder: Path) -> dict[str, Any]:
    return read_json(folder / METRICS) if (folder / PREDICTIONS).is_file() else {}


def _texts(rows: Sequence[Pair]) -> list[list[str]]:
    return [[p.english, p.foreign, p.source] for p in rows]


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _safe(name: str) -> str:
    """A set's name as that of one folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "set"
