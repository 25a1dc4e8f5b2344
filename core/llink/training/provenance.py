"""Where the data of an adapter came from, and under which licences, as its manifest has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from llink.adapter.files import Manifest
from llink.data.instruct import Instruction
from llink.training.data import TrainingData

THROUGH = ", through init_from)"


def sources(read: TrainingData) -> dict[str, dict[str, Any]]:
    """Source -> number of pairs, sentences or examples, and licence."""
    pairs = read.pairs.rows
    licences = {p.source: p.licence for p in pairs}
    counts = Counter(p.source for p in pairs).most_common()
    data: dict[str, dict[str, Any]] = {source: {"pairs": n, "licence": licences[source]} for source, n in counts}
    return data | read.english_sources | instruction_sources(read.instructions)


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
