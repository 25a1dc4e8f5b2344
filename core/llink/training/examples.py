"""The examples of stage B, stage C and the baseline: translations, longer texts, tasks, and the values in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from llink.adapter.prompt import TASKS
from llink.data.instruct import Instruction, distil
from llink.data.pairs import Pair, repeated
from llink.home import home
from llink.interfaces import Decoder, Language
from llink.language.values import bounded
from llink.recipe import Injection, Recipe


@dataclass(frozen=True)
class Passage:
    """A text behind slots, its English, and what the language finds verbatim in it (None: not looked for)."""

    text: str
    english: str
    values: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Example:
    """One training example: a passage, the task and the English target; ``more`` are further passages of a longer text."""

    text: str
    task: str
    """One of ``TASKS``, or a free instruction in the place of one; a batch is of one task."""
    target: str
    english: str
    values: tuple[str, ...] | None = None
    more: tuple[Passage, ...] = ()

    @property
    def whole(self) -> str:
        """The text of all passages, one a line."""
        return "\n".join(p.text for p in self.passages)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All of them in order, one at least."""
        return Passage(self.text, self.english, self.values), *self.more

    @property
    def instruction(self) -> str:
        """What the prompt says."""
        return TASKS.get(self.task, self.task)


def with_values(examples: Sequence[Example], language: Language, share: float = 0.0) -> list[Example]:
    """The examples with what must not be paraphrased in their texts, for an adapter with the verbatim channel.

    Args:
        share: of examples with a value that stands in their target; where there are fewer, they are repeated.
    """
    found = {
        text: tuple(language.verbatim(text)) for text in dict.fromkeys(p.text for e in examples for p in e.passages)
    }
    known = [
        replace(e, values=found[e.text], more=tuple(replace(p, values=found[p.text]) for p in e.more)) for e in examples
    ]
    bearing = [e for e in known if any(bounded(v).search(e.target) for p in e.passages for v in p.values or ())]
    wanted = round(share * (len(known) - len(bearing)) / (1 - share))
    return known + list(islice(cycle(bearing), max(0, wanted - len(bearing)) if bearing else 0))


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
    return row.task if TASKS.get(row.task) == row.instruction else row.instruction
