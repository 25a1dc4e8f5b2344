"""Parallel pairs, read through the readers that plugins bring; broken rows are counted and named, never fatal."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from sys import intern
from typing import Any

from llink import plugins
from llink.bounded import parse_json
from llink.data.files import lines, written
from llink.errors import LlinkError
from llink.interfaces import Broken, PairReader
from llink.progress import track
from llink.recipe import Data

BROKEN = "broken"
GENERAL = "general English"
"""Source of English sentences that state none."""
LOST = "\ufffd"
"""What decoders put in place of bytes that are no character."""
MOST_BROKEN = 0.1
"""Share of broken rows from which on a file is not trained on: who made it, made it wrong."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One sentence in two languages."""

    english: str
    foreign: str
    source: str = "unknown"
    licence: str = "unknown"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that is no pair: what it is counted under, and in a few words why."""

    reason: str
    detail: str


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

    def summary(self, kept: int | None = None) -> str:
        """One line for the log: how many rows (``kept`` where they are not held here), how many left out and why."""
        left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(self.skipped.items()))
        places = f" (first: {', '.join(self.first_bad)})" if self.first_bad else ""
        return f"{len(self.rows) if kept is None else kept} pairs" + (
            f"; left out: {left_out}{places}" if left_out else ""
        )


def read_pairs(
    source: str,
    root: Path,
    columns: dict[str, str] | None = None,
    language: str | None = None,
    *,
    sound: bool = False,
) -> Pairs:
    """All pairs of one source, as they stand.

    Args:
        source: file path relative to ``root``, in a format that a reader knows by its suffix, or
            ``hub:repo[:config[:split]]``.
        root: the ``--data`` folder.
        columns: which fields hold the ``english`` and ``foreign`` text where they go by other names, dots for nesting.
        language: code of the foreign side, for formats that hold several languages.
        sound: whether a source of which more than ``MOST_BROKEN`` is broken is refused.

    Raises:
        LlinkError: E210 when the source is missing, E211 when none of its rows is a pair, E212 when the file is
            damaged, E213 when no reader knows its suffix, E214 when it has no such column, E233 when it is not ``sound``.
    """
    pairs = Pairs()
    pairs.rows = list(_pairs(pairs, source, root, columns, language, sound=sound))
    return pairs


def _pairs(
    seen: Pairs,
    source: str,
    root: Path,
    columns: dict[str, str] | None,
    language: str | None = None,
    *,
    sound: bool = True,
) -> Iterator[Pair]:
    """The pairs of a source, one at a time; what is none is counted in ``seen``. E211 at the end if there was none, and
    E233 if too much was broken, where it has to be ``sound``."""
    good, why = 0, ""
    for place, row in rows(source, root, columns, language):
        if isinstance(row, Pair):
            good += 1
            yield row
        else:
            seen.skip(row.reason, place if row.reason == BROKEN else "")
            why = why or (f"; {place}: {row.detail}" if row.reason == BROKEN else "")
    if not good:
        layout = _reader(source).layout
        raise LlinkError("E211", f"No pair in {source} ({seen.summary(0)}{why}).", layout and f"Expected: {layout}.")
    if sound:
        check_sound(source, seen, good + sum(seen.skipped.values()), why)


def check_sound(source: str, seen: Pairs, total: int, why: str = "") -> None:
    """E233 where more than ``MOST_BROKEN`` of the ``total`` rows of a source are broken; ``why`` says it of the first."""
    broken = seen.skipped.get(BROKEN, 0)
    if broken > MOST_BROKEN * total:
        raise LlinkError(
            "E233",
            f"{broken} of {total} rows of {source} are broken, more than a tenth "
            f"(first: {', '.join(seen.first_bad)}{why}).",
            "See them all with `llink data validate --all`, and mend or take out what is wrong.",
        )


def rows(
    source: str, root: Path, columns: dict[str, str] | None = None, language: str | None = None
) -> Iterator[tuple[str, Pair | LeftOut]]:
    """Each row of a source with its place, one at a time; arguments and errors are those of ``read_pairs``, less E211."""
    reader = _reader(source)
    where = source if reader.prefix else str(source_file(source, root))
    columns = columns or {}
    with damage_of(where):
        for place, row in reader.read(where, language, columns):
            yield place, _pair(row, columns, reader.name)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSONL, one object a line, gzipped where the name ends in ``.gz``; the file appears only whole.

    Raises:
        LlinkError: E112 when the folder cannot be written to, E113 when the disk is full.
    """
    with written(path) as out:
        out.writelines(map(pair_line, pairs))


def pair_line(pair: Pair) -> str:
    """A pair as a line of JSONL."""
    return json.dumps(asdict(pair), ensure_ascii=False) + "\n"


def training_pairs(data: Data, root: Path, normalise: Callable[[str], str], held: set[str] | None = None) -> Pairs:
    """The recipe's training pairs: normalised, filtered, sampled, one a (english, foreign) string.

    Sources are read as they stream in: beside what is kept, one row at a time is in memory. Where ``max_pairs`` is
    reached, a pair that can no longer be of the sample is let go before it is looked at for a duplicate.

    Args:
        held: English that is left out, where ``held_out`` has been asked for it already.
    """
    chosen = Pairs()
    kept = _Sample(data.max_pairs)
    held = held_out(data, root, normalise) if held is None else held
    with track("Reading pairs", None, "pairs") as advance:
        for source in data.train:
            read = Pairs()
            for raw in _pairs(read, source, root, data.columns):
                advance(1)
                if reason := _left_out(raw, data, held, kept, normalise):
                    chosen.skip(reason)
            for reason, count in read.skipped.items():
                chosen.skipped[reason] = chosen.skipped.get(reason, 0) + count
            chosen.first_bad += read.first_bad
    chosen.rows = kept.pairs()
    if len(chosen.rows) < 2:
        raise LlinkError("E211", f"Training needs at least two pairs: {chosen.summary()}.")
    return chosen


def _left_out(raw: Pair, data: Data, held: set[str], kept: _Sample, normalise: Callable[[str], str]) -> str:
    """Why a pair is not trained on; empty where it is, and ``kept`` has it. The dearest question, normalising, comes last."""
    if share(raw.english) >= data.sample.get(raw.source, 1.0):
        return "not sampled"
    english = normalise(raw.english)
    if len(english.split()) < data.min_words:
        return f"under {data.min_words} English words"
    if same_words(english) in held:
        return "in a dev set"
    foreign = normalise(raw.foreign)
    if not foreign:
        return "without text"
    if len(foreign) > data.max_chars:
        return f"over {data.max_chars} characters"
    return "" if kept.add(Pair(english, foreign, raw.source, raw.licence)) else "duplicates"


class _Sample:
    """Pairs as they come, each once; or of all that come the ``limit`` with the least ``share``, in that order."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._rows: dict[tuple[str, str], Pair] = {}
        self._worst: list[tuple[float, int, tuple[str, str]]] = []  # a heap, the one to go next on top
        self._number = 0

    def add(self, pair: Pair) -> bool:
        """Take a pair into account; False for one that is there already."""
        key = (pair.english, pair.foreign)
        if self._limit is not None:
            rank = share(pair.english)
            if len(self._worst) == self._limit and (not self._worst or rank >= -self._worst[0][0]):
                return True
        if key in self._rows:
            return False
        self._rows[key] = pair
        if self._limit is not None:
            self._number += 1
            heappush(self._worst, (-rank, -self._number, key))
            if len(self._worst) > self._limit:
                del self._rows[heappop(self._worst)[2]]
        return True

    def pairs(self) -> list[Pair]:
        """Those that are kept."""
        if self._limit is None:
            return list(self._rows.values())
        return [self._rows[key] for *_, key in sorted(self._worst, reverse=True)]


def repeated(pairs: Iterable[Pair], times: Mapping[str, int]) -> list[Pair]:
    """Each pair as often as ``times`` says of its source, once where it says nothing."""
    return [pair for pair in pairs for _ in range(times.get(pair.source, 1))]


def dev_pairs(data: Data, root: Path, name: str, normalise: Callable[[str], str]) -> Pairs:
    """A dev set of the recipe, normalised like training text; ``file#source`` takes one source's rows of a file."""
    file, _, only = data.dev[name].partition("#")
    pairs = read_pairs(file, root, data.columns, sound=True)
    rows = [
        Pair(normalise(p.english), normalise(p.foreign), p.source, p.licence)
        for p in pairs.rows
        if not only or p.source == only
    ]
    pairs.rows = [p for p in rows if p.english and p.foreign]
    if not pairs.rows:
        raise LlinkError("E211", f"No pair in {data.dev[name]}.", f"Correct data.dev.{name} in the recipe.")
    return pairs


def held_out(
    data: Data, root: Path, normalise: Callable[[str], str], dev: Mapping[str, Pairs] | None = None
) -> set[str]:
    """The English of all dev sets and of all ``hold_out`` files, as ``same_words`` has it.

    Args:
        dev: the dev sets, where they have been read already.

    Raises:
        LlinkError: E210 when a file, or anything like a pattern, is missing.
    """
    if dev is None:
        dev = {name: dev_pairs(data, root, name, normalise) for name in data.dev}
    held = {same_words(p.english) for pairs in dev.values() for p in pairs.rows}
    for pattern in data.hold_out:
        found = sorted(root.glob(pattern)) or [source_file(pattern, root)]
        for path in found:
            pairs = read_pairs(str(path.relative_to(root)), root, data.columns)
            held.update(same_words(normalise(pair.english)) for pair in pairs.rows)
    return held


def same_words(english: str) -> str:
    """What an English sentence is compared by: its letters and digits, so that case and punctuation do not count."""
    return "".join(c for c in english.casefold() if c.isalnum()) or english


def english_text(
    data: Data,
    root: Path,
    normalise: Callable[[str], str],
    counts: Pairs | None = None,
    held: set[str] | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """General English sentences of the recipe, none of a dev set, at most ``max_english``, picked by hash.

    Args:
        counts: takes in how many lines were broken.
        held: as for ``training_pairs``.

    Returns:
        The sentences, and how many of which source and licence, as the manifest's ``data`` has it.

    Raises:
        LlinkError: E210 for a missing file, E212 for a damaged one, E233 for one with too many broken lines.
    """
    found: dict[str, tuple[str, str]] = {}
    for source in data.english:
        path, seen, total = source_file(source, root), Pairs(), 0
        with damage_of(path):
            for place, sentence in _sentences(path, data.english_licence):
                total += 1
                if sentence is None:
                    seen.skip(BROKEN, place)
                else:
                    found.setdefault(normalise(sentence[0]), sentence[1])
        check_sound(source, seen, total)
        if counts and seen.skipped:
            counts.skipped["broken lines of English"] = (
                counts.skipped.get("broken lines of English", 0) + seen.skipped[BROKEN]
            )
            counts.first_bad = (counts.first_bad + seen.first_bad)[:3]
    if held is None:
        held = held_out(data, root, normalise) if found else set()
    fit = [
        text
        for text in found
        if len(text.split()) >= data.min_words and len(text) <= data.max_chars and same_words(text) not in held
    ]
    chosen = sorted(fit, key=share)[: data.max_english]
    by_source = Counter(found[text] for text in chosen)
    return chosen, {name: {"sentences": n, "licence": licence} for (name, licence), n in by_source.most_common()}


def _sentences(path: Path, licence: str) -> Iterator[tuple[str, tuple[str, tuple[str, str]] | None]]:
    """Each line of a file of English with its place: the sentence, its source and licence, or None for a broken one."""
    rows = path.name.removesuffix(".gz").endswith(".jsonl")
    for place, line in lines(path):
        if isinstance(line, Broken) or LOST in line:
            yield place, None
        elif not rows:
            yield place, (line, (GENERAL, licence))
        else:
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and isinstance(text := row.get("text"), str) and LOST not in text:
                yield place, (text, (f"{row.get('source') or 'unknown'} (English)", str(row.get("licence") or licence)))
            else:
                yield place, None


def share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same sample on every machine."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 2**32


def source_file(source: str, root: Path) -> Path:
    """The file that a recipe's path names; E210 where there is none."""
    path = root / source
    if not path.is_file():
        raise LlinkError(
            "E210",
            f"Data file {path} does not exist.",
            "Give the folder that holds it with --data; `llink languages CODE` names open sources of parallel text.",
        )
    return path


@contextmanager
def damage_of(where: str | Path) -> Iterator[None]:
    """Whatever a reader trips over is damage of its file: E212."""
    try:
        yield
    except LlinkError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LlinkError("E212", f"Data file {where} is damaged: {reason.rstrip('.')}.") from error


def _reader(source: str) -> PairReader:
    """The reader whose prefix or longest suffix fits; E213 when none does."""
    known = plugins.readers().values()
    for reader in known:
        if reader.prefix and source.startswith(reader.prefix):
            return reader
    name = source.lower()
    fitting = [(len(suffix), reader) for reader in known for suffix in reader.suffixes if name.endswith(suffix)]
    if not fitting:
        suffixes = ", ".join(sorted(suffix for reader in known for suffix in reader.suffixes))
        prefixes = ", ".join(sorted(f"{reader.prefix}…" for reader in known if reader.prefix))
        raise LlinkError("E213", f"No reader knows what {source} is.", f"Known: {suffixes}, {prefixes}.")
    return max(fitting, key=lambda found: found[0])[1]


def _pair(row: Mapping[str, Any] | str | Broken | None, columns: Mapping[str, str], format: str) -> Pair | LeftOut:
    """A pair out of a row, or why there is none."""
    if isinstance(row, str):
        return LeftOut(row, row)
    if isinstance(row, Broken):
        return LeftOut(BROKEN, row.why)
    if not isinstance(row, Mapping):
        return LeftOut(BROKEN, f"no row of {format}")
    sides = {side: _field(row, columns.get(side, side)) for side in ("english", "foreign")}
    for side, text in sides.items():
        if why := _wrong(text):
            return LeftOut(BROKEN, f"{columns.get(side, side)}: {why}")
    # A source and a licence stand on many rows: one string serves them all.
    source, licence = (intern(str(_field(row, columns.get(key, key)) or "unknown")) for key in ("source", "licence"))
    return Pair(sides["english"], sides["foreign"], source, licence)


def _wrong(text: Any) -> str | None:
    """Why this is no text of a pair."""
    if not isinstance(text, str):
        return "no text" if text is None else f"no text but {type(text).__name__}"
    if LOST in text:
        return "a character was lost in decoding (U+FFFD)"
    if "\0" in text:
        return "a zero character"
    return None if text.strip() else "no text"


def _field(row: Mapping[str, Any], dotted: str) -> Any:
    """What stands under a name; a dot is part of a name, or leads into what stands under it. The longest name counts."""
    if dotted in row:
        return row[dotted]
    parts = dotted.split(".")
    for count in range(len(parts) - 1, 0, -1):
        inside = row.get(".".join(parts[:count]))
        if isinstance(inside, Mapping) and (value := _field(inside, ".".join(parts[count:]))) is not None:
            return value
    return None
