"""What an experiment is: variants of one recipe on the same models and features, measured into one table and one plot.

Everything is kept as it is done, so that the same command after a kill goes on where it was.
"""

from __future__ import annotations

import os
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from llink import __version__
from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.evaluation import evaluator
from llink.evaluation.base import Result, Skip, Subject
from llink.experiments import EXPERIMENTS
from llink.home import atomic_write, ensure_folder, read_json, write_json
from llink.recipe import Recipe, validate
from llink.serving.engine import Engine
from llink.training.figures import figure, png
from llink.training.run import Run

SHARED, ABOUT, RESULT = "shared", "experiment.json", "result.json"
Row = dict[str, Any]
"""A line of the table, by the names of its columns."""
Changes = dict[str, Any]
"""Dotted key of a recipe -> its value in a variant."""


class Experiment(ABC):
    """A question, the variants that answer it, and how they are measured and drawn."""

    name: ClassVar[str]
    values: ClassVar[tuple[float, ...]] = ()
    """What is tried where nothing else is said; empty where the models decide."""
    kind: ClassVar[type[float] | type[int] | None] = None
    """Of a value that can be tried; None where there is nothing to choose."""
    size: ClassVar[tuple[float, float]] = (11, 3.4)
    """Of the plot, in inches."""

    @abstractmethod
    def columns(self, recipe: Recipe) -> dict[str, str]:
        """Of the table, in order, with the format of each."""

    @abstractmethod
    def variants(self, study: Study) -> dict[str, Changes]:
        """Name of a variant (and of its folder) -> what it changes in the recipe."""

    @abstractmethod
    def measure(self, study: Study, run: Run) -> list[Row]:
        """Train one variant and measure it; the rows of the table that it gives."""

    @abstractmethod
    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        """Put the plot on a matplotlib ``Figure``."""

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        """What belongs to the numbers, and what in them means trouble."""
        return [], []


@dataclass
class Study:
    """An experiment under way in a folder: its recipe, its data, and what its variants share.

    Args:
        recipe: what all variants have in common; ``data`` is the folder that its paths are relative to.
        out: ``shared/`` and one run folder a variant, ``table.md``, ``table.json`` and ``plot.png``.
        values: what is tried in place of the experiment's own values.
        sample: how many pairs of each dev set stage B is measured on.
    """

    recipe: Recipe
    data: Path
    out: Path
    values: tuple[Any, ...] = ()
    sample: int = 48

    @cached_property
    def base(self) -> Run:
        """Models, data and features, loaded once; its own folder holds what the variants have in common."""
        return Run.open(self.recipe, self.data, self.out / SHARED, resume=True)

    def claim(self, experiment: Experiment) -> None:
        """Make the folder, or take up the one that is there if it is of the same experiment, recipe and sample.

        Raises:
            LlinkError: E404 where it is of another, E112/E113 when it cannot be written.
        """
        ensure_folder(self.out)
        about = {
            "experiment": experiment.name, "sample": self.sample, "recipe": self.recipe.model_dump(mode="json")
        }  # fmt: skip
        known = read_json(self.out / ABOUT)
        if not known:
            write_json(self.out / ABOUT, about)
        elif known != about:
            [*differs] = (key for key, value in about.items() if known.get(key) != value)
            raise LlinkError(
                "E404", f"{self.out} holds an experiment with another {' and '.join(differs)}.", "Choose another --out."
            )

    def stage_b(self, run: Run, *shared: str) -> Path:
        """Stage B of a variant from these files of the common run, measured on the sample; its adapter."""
        for name in shared:
            source, target = self.base.out / name, run.out / name
            if source.exists() and not target.exists():
                draft = target.with_name(f".{name}-{os.getpid()}")
                shutil.copyfile(source, draft)
                os.replace(draft, target)
        run.dev = {dev: self.sampled(rows) for dev, rows in run.dev.items()}
        return run.stage_b()

    def ask(self, run: Run, adapter: Path, suites: Mapping[str, int | None]) -> dict[str, dict[str, Result]]:
        """Dev set, or set of a suite's own -> suite -> what it finds; what cannot be measured here is left out.

        Args:
            suites: names, each with how many pairs of a sample it sees; None for all.
        """
        names = (run.recipe.encoder.name, run.recipe.decoder.name)
        engine = Engine(run.decoder, run.encoder, device=str(run.decoder.embedding_matrix().device))
        found: dict[str, dict[str, Result]] = {dev: {} for dev in run.dev}
        try:
            engine.add(run.language.code, adapter)
            subject = Subject(engine, run.language, run.cache, names, self.sample, run.recipe.seed)
            for suite, few in suites.items():
                for name, rows in evaluator(suite).sets(subject, run.dev).items():
                    try:
                        found.setdefault(name, {})[suite] = evaluator(suite)(subject, self.sampled(rows)[:few])
                    except Skip as reason:
                        print(f"{suite}, {name}: skipped, {reason}", flush=True)
        finally:
            engine.close()
        return found

    def sampled(self, rows: Sequence[Pair]) -> list[Pair]:
        """The pairs of a dev set that answers are asked about: drawn with the recipe's seed, the same in every variant."""
        return random.Random(self.recipe.seed).sample(rows, min(self.sample, len(rows)))

    def result(self, experiment: Experiment, name: str, changes: Changes) -> list[Row]:
        """The rows of one variant: kept ones, else it is trained and measured."""
        path = self.out / name / RESULT
        known = read_json(path)
        if "rows" not in known:
            print(f"{experiment.name}: {name}", flush=True)
            run = self.base.beside(changed(self.recipe, changes), self.out / name)
            with run.folder:
                known = {"rows": experiment.measure(self, run)}
            write_json(path, known)
        return list(known["rows"])


def conduct(experiment: Experiment, study: Study) -> Table:
    """Run every variant that is not there yet; write the table and the plot into ``study.out``.

    Raises:
        LlinkError: E202 for a value that the recipe refuses, E404 when the folder holds another experiment, E112/E113
            when it cannot be written, and those of training.
    """
    study.claim(experiment)
    variants = experiment.variants(study)
    for changes in variants.values():
        changed(study.recipe, changes)
    rows = [row for name, changes in variants.items() for row in study.result(experiment, name, changes)]
    notes, warnings = experiment.remarks(rows)
    about = {
        "experiment": experiment.name, "llink": __version__, "language": study.recipe.language,
        "recipe": study.recipe.model_dump(mode="json"), "sample": study.sample,
    }  # fmt: skip
    table = Table(about, experiment.columns(study.recipe), rows, notes, warnings)
    atomic_write(study.out / "table.md", table.markdown())
    write_json(study.out / "table.json", table.as_dict())
    try:
        canvas = figure(*experiment.size)
    except LlinkError as error:
        table.warnings.append(f"There is no plot: {error.message} {error.hint}")
        return table
    experiment.draw(canvas, rows)
    draft = study.out / f".plot-{os.getpid()}.png"
    draft.write_bytes(png(canvas))
    os.replace(draft, study.out / "plot.png")
    return table


@dataclass
class Table:
    """What an experiment found.

    Attributes:
        about: experiment, language, recipe and sample.
        columns: name -> format.
    """

    about: dict[str, Any]
    columns: dict[str, str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        """Each row as text; a dash for what is missing."""
        return [[_cell(row.get(name), form) for name, form in self.columns.items()] for row in self.rows]

    def markdown(self) -> str:
        """The table under its question, with notes and warnings."""
        lines = [list(self.columns), ["---"] * len(self.columns), *self.cells()]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([EXPERIMENTS[self.about["experiment"]], table, *self.notes, *self.warnings]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """As ``table.json`` has it."""
        return {**self.about, "rows": self.rows, "notes": self.notes, "warnings": self.warnings}


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with other values under dotted keys; E202 where it refuses one."""
    raw = recipe.model_dump(mode="json")
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return validate(raw, recipe.name)


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
