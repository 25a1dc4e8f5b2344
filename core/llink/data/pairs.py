"""Reading parallel pairs: JSONL, TSV or a hub data set; broken rows are counted and named, never fatal."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llink.errors import LlinkError
from llink.recipe import Data


@dataclass(frozen=True)
class Pair:
    """One sentence in two languages."""

    english: str
    foreign: str
    source: str = "unknown"
    licence: str = "unknown"


@dataclass
class Pairs:
    """What was read, and what was not.

    Attributes:
        rows: the pairs that are fit for use.
        skipped: reason -> how many rows were left out for it.
        first_bad: up to three places of broken rows, ``file:line``.
    """

    rows: list[Pair] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    first_bad: list[str] = field(default_factory=list)

    def skip(self, reason: str, place: str = "") -> None:
        """Count one row that is left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        if place and len(self.first_bad) < 3:
            self.first_bad.append(place)

    def summary(self) -> str:
        """One line for the log: how many rows, how many left out and why."""
        left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(self.skipped.items()))
        places = f" (first: {', '.join(self.first_bad)})" if self.first_bad else ""
        return f"{len(self.rows)} pairs" + (f"; left out: {left_out}{places}" if left_out else "")


def read_pairs(source: str, root: Path, columns: dict[str, str] | None = None) -> Pairs:
    """All pairs of one source, as they stand.

    Args:
        source: file path relative to ``root`` (``.jsonl``, ``.tsv``, either with ``.gz``), or ``hub:repo[:config[:split]]``.
        root: the ``--data`` folder.
        columns: where a hub row keeps its ``english`` and ``foreign`` text.

    Raises:
        LlinkError: E210 when the source is missing, E211 when none of its rows is a pair.
    """
    pairs = Pairs()
    for place, row in _rows(source, root):
        pair = _pair(row, columns or {})
        if pair is None:
            pairs.skip("broken", place)
        else:
            pairs.rows.append(pair)
    if not pairs.rows:
        raise LlinkError(
            "E211", f"No pair in {source} ({pairs.summary()}).", 'Each line is {"english": "…", "foreign": "…"} or english<TAB>foreign.'
        )  # fmt: skip
    return pairs


def training_pairs(data: Data, root: Path, normalise: Callable[[str], str]) -> Pairs:
    """The recipe's training pairs: normalised, filtered, sampled, one a (english, foreign) string."""
    chosen = Pairs()
    seen: set[tuple[str, str]] = set()
    held_out = _held_out(data, root, normalise)
    for source in data.train:
        read = read_pairs(source, root, data.columns)
        for reason, count in read.skipped.items():
            chosen.skipped[reason] = chosen.skipped.get(reason, 0) + count
        chosen.first_bad += read.first_bad
        for raw in read.rows:
            pair = Pair(normalise(raw.english), normalise(raw.foreign), raw.source, raw.licence)
            if not pair.foreign or len(pair.english.split()) < data.min_words:
                chosen.skip(f"under {data.min_words} English words")
            elif len(pair.foreign) > data.max_chars:
                chosen.skip(f"over {data.max_chars} characters")
            elif share(raw.english) >= data.sample.get(pair.source, 1.0):
                chosen.skip("not sampled")
            elif pair.english in held_out:
                chosen.skip("in a dev set")
            elif (pair.english, pair.foreign) in seen:
                chosen.skip("duplicates")
            else:
                seen.add((pair.english, pair.foreign))
                chosen.rows.append(pair)
    if data.max_pairs is not None:
        chosen.rows = sorted(chosen.rows, key=lambda p: share(p.english))[: data.max_pairs]
    if len(chosen.rows) < 2:
        raise LlinkError("E211", f"Training needs at least two pairs: {chosen.summary()}.")
    return chosen


def dev_pairs(data: Data, root: Path, name: str, normalise: Callable[[str], str]) -> Pairs:
    """A dev set of the recipe, normalised like training text; ``file#source`` takes one source's rows of a file."""
    file, _, only = data.dev[name].partition("#")
    pairs = read_pairs(file, root, data.columns)
    rows = [
        Pair(normalise(p.english), normalise(p.foreign), p.source, p.licence)
        for p in pairs.rows
        if not only or p.source == only
    ]
    pairs.rows = [p for p in rows if p.english and p.foreign]
    if not pairs.rows:
        raise LlinkError("E211", f"No pair in {data.dev[name]}.", f"Correct data.dev.{name} in the recipe.")
    return pairs


def _held_out(data: Data, root: Path, normalise: Callable[[str], str]) -> set[str]:
    """The English strings of all dev sets."""
    return {p.english for name in data.dev for p in dev_pairs(data, root, name, normalise).rows}


def english_text(data: Data, root: Path, normalise: Callable[[str], str]) -> list[str]:
    """General English sentences of the recipe, none of a dev set, at most ``max_english``, picked by hash."""
    lines: set[str] = set()
    for source in data.english:
        lines |= {normalise(line) for _, line in _lines(_file(source, root))}
    lines -= _held_out(data, root, normalise)
    kept = [line for line in lines if len(line.split()) >= data.min_words and len(line) <= data.max_chars]
    return sorted(kept, key=share)[: data.max_english]


def share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same sample on every machine."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 2**32


def _file(source: str, root: Path) -> Path:
    path = root / source
    if not path.is_file():
        raise LlinkError(
            "E210", f"Data file {path} does not exist.",
            "Give the folder that holds it with --data; `llink languages CODE` names open sources of parallel text.",
        )  # fmt: skip
    return path


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line.rstrip("\n")
    except (OSError, EOFError, zlib.error) as error:
        raise LlinkError("E212", f"Data file {path} is damaged: {error}.") from error


def _rows(source: str, root: Path) -> Iterator[tuple[str, Any]]:
    if source.startswith("hub:"):
        yield from _hub_rows(source)
        return
    path = _file(source, root)
    tabular = ".tsv" in path.suffixes
    for place, line in _lines(path):
        if tabular:
            cells = line.split("\t")
            yield place, {"english": cells[0], "foreign": cells[1], "source": path.name} if len(cells) > 1 else None
        else:
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError:
                yield place, None


def _hub_rows(source: str) -> Iterator[tuple[str, Any]]:
    import datasets

    repo, *rest = source.removeprefix("hub:").split(":")
    config, split = (*rest, None, None)[:2]
    try:
        rows = datasets.load_dataset(repo, config, split=split or "train", streaming=True)
        for number, row in enumerate(rows):
            yield f"{repo}:{number}", {"source": repo, "licence": "see the data set's card", **row}
    except (OSError, ValueError, ConnectionError) as error:
        raise LlinkError("E210", f"Data set {repo} cannot be had: {str(error).splitlines()[0]}") from error


def _pair(row: Any, columns: dict[str, str]) -> Pair | None:
    """A pair out of a row, None where a side is missing or no text."""
    if not isinstance(row, dict):
        return None
    english, foreign = (_field(row, columns.get(side, side)) for side in ("english", "foreign"))
    if not (isinstance(english, str) and isinstance(foreign, str) and english.strip() and foreign.strip()):
        return None
    return Pair(english, foreign, str(row.get("source", "unknown")), str(row.get("licence", "unknown")))


def _field(row: dict[str, Any], dotted: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
