"""What an evaluator is: called with an adapter under test and pairs of texts, it returns numbers and their examples."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from llink.adapter.prompt import TASKS, Prompt
from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.interfaces import Language
from llink.progress import track

if TYPE_CHECKING:
    from llink.features.cache import FeatureCache
    from llink.serving.engine import Engine

Metrics = dict[str, float]
"""By name. ``name [part]`` is the same measure over a part of the examples: a source, a length, a kind."""
ANSWER_TOKENS = 96
UNREADABLE = ("E504", "E510", "E511")
"""What the engine says to a text that it cannot take; in a dev set that is an empty answer, not the end."""


@dataclass
class Result:
    """What one evaluator found on one set.

    Attributes:
        metrics: the numbers.
        predictions: an object an example, as ``prediction`` makes it.
        warnings: what the numbers mean, where they mean trouble.
        notes: what belongs to the numbers and is none, such as a metric's signature.
    """

    metrics: Metrics
    predictions: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


class Skip(Exception):
    """A suite, or a part of one, cannot be measured here; says why."""


class Evaluator(ABC):
    """One suite of the report."""

    name: ClassVar[str]
    primary_metric: ClassVar[str]
    """The one number to look at."""
    lower: ClassVar[frozenset[str]] = frozenset()
    """The scores of an example that are better the lower they are."""

    def sets(self, subject: Subject, dev: Mapping[str, Sequence[Pair]]) -> Mapping[str, Sequence[Pair]]:
        """What is measured on, by name; the dev sets unless the suite brings its own. May raise ``Skip``."""
        return dev

    @abstractmethod
    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        """Measure; raises ``Skip`` where ``rows`` do not allow it."""


@dataclass
class Subject:
    """An adapter under test, with what the suites need.

    Attributes:
        models: names of encoder and decoder, to load one again.
        limit: how many pairs of a set a suite looks at; None for its own default.
        against: baselines measured beside it.
        lora: folder of the ``direct-lora`` baseline.
        judge: name of the judge, see ``llink.evaluation.judging.open_judge``.
    """

    engine: Engine
    language: Language
    cache: FeatureCache
    models: tuple[str, str]
    limit: int | None = None
    seed: int = 17
    against: tuple[str, ...] = ()
    lora: Path | None = None
    judge: str | None = None
    _answers: dict[tuple[str, int, bool, str], str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Of the language."""
        return self.language.code

    def first(self, rows: Sequence[Pair], default: int) -> list[Pair]:
        """The pairs a suite looks at: ``limit`` or its own default, from the start of the set."""
        return list(rows[: self.limit or default])

    @property
    def verbatim(self) -> int:
        """Tokens of the adapter's verbatim channel, 0 where it has none."""
        return self.engine.resident(self.code).manifest.verbatim

    def prompts(self, rows: Sequence[Pair], task: str = "translate") -> list[Prompt]:
        """The prompt of a task about each foreign text, as one passage."""
        reader, resident = self.engine.reader, self.engine.resident(self.code)
        pieces = reader.passages([p.foreign for p in rows], resident)
        return [reader.prompt(TASKS[task], resident, [piece]) for piece in pieces]

    def answers(
        self, rows: Sequence[Pair], task: str = "translate", tokens: int = ANSWER_TOKENS, *, verbatim: bool = True
    ) -> list[str]:
        """The adapter's answers to the foreign texts, of so many tokens at most; empty where the engine cannot take a
        text. Suites share them. ``task`` may be a free instruction; ``verbatim`` is whether the verbatim channel is used."""
        from llink.adapter.slots import in_batches
        from llink.serving.engine import BATCH

        how = (task, tokens, verbatim)
        missing = [text for text in dict.fromkeys(p.foreign for p in rows) if (*how, text) not in self._answers]
        with track(f"Answering ({task})", total=len(missing)) as bar:
            for part in in_batches(len(missing), BATCH):
                for text, answer in zip(missing[part], self._ask(missing[part], *how), strict=True):
                    self._answers[(*how, text)] = answer
                bar(len(missing[part]))
        return [self._answers[(*how, p.foreign)] for p in rows]

    def _ask(self, texts: list[str], task: str, tokens: int, verbatim: bool) -> list[str]:
        given = {"task": task} if task in TASKS else {"instruction": task}
        try:
            return self.engine.generate(texts, self.code, **given, verbatim=verbatim, max_new_tokens=tokens)
        except LlinkError as error:
            if error.code not in UNREADABLE:
                raise
            return (
                [answer for text in texts for answer in self._ask([text], task, tokens, verbatim)]
                if len(texts) > 1
                else [""]
            )


def example_id(pair: Pair) -> str:
    """Names an example in every run of every adapter: by its two texts."""
    return hashlib.sha256(f"{pair.english}\0{pair.foreign}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prediction(pair: Pair, scores: Mapping[str, float], **rest: Any) -> dict[str, Any]:
    """An example as it is written down: its texts, its scores, and what the suite saw in it."""
    texts = {"english": pair.english, "foreign": pair.foreign, "source": pair.source}
    return {"id": example_id(pair), **texts, "scores": dict(scores), **rest}


Item = TypeVar("Item")


def parts(items: Iterable[Item], part: Callable[[Item], str], fewest: int = 10) -> dict[str, list[Item]]:
    """``items`` by what ``part`` says of them, in that order; none where all are of one part, none of a few only."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(part(item), []).append(item)
    return {} if len(found) < 2 else {name: found[name] for name in sorted(found) if len(found[name]) >= fewest}


def whole(metrics: Metrics) -> Metrics:
    """The metrics of the whole set, without those of its parts."""
    return {name: value for name, value in metrics.items() if not name.endswith("]")}


def mean(values: Iterable[float]) -> float:
    """Of at least one value."""
    known = list(values)
    return sum(known) / len(known)
