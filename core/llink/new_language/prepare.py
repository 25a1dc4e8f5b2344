"""The first data of a new language: read, cleaned, split, looked at, and put into the data folder."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llink.data.pairs import Pair, Pairs, read_pairs, share, write_pairs
from llink.data.split import key, split, without
from llink.errors import LlinkError
from llink.interfaces import Language, Sample, Source
from llink.language.text import script_counts
from llink.progress import track

UNKNOWN = "unknown"
MAX_SAMPLES = 12
SAMPLE_WORDS = (3, 12)
"""English words of a sample, at least and at most."""
MOST_DEV = 0.1
"""Share of the English strings that are held out at most."""
COMMON_END = 0.2
"""Share of texts that end in a mark from which on it looks like a sentence end."""


@dataclass
class Prepared:
    """The pairs of a new language.

    Attributes:
        train, dev: normalised, without an English string in common.
        skipped: reason -> rows that were left out for it.
        first_bad: places of the first broken rows.
        origins: source -> the files or data sets it came in.
        dev_files: name of each dev set -> its file in the language's data folder.
    """

    train: list[Pair]
    dev: list[Pair] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    first_bad: list[str] = field(default_factory=list)
    origins: dict[str, list[str]] = field(default_factory=dict)
    dev_files: dict[str, str] = field(default_factory=lambda: {"dev": "dev.jsonl.gz"})

    @property
    def rows(self) -> list[Pair]:
        """All of them."""
        return [*self.train, *self.dev]

    def summary(self) -> str:
        """How many there are, and how many rows were left out and why."""
        left_out = Pairs(self.rows, self.skipped, self.first_bad).summary()
        return f"{len(self.train)} to train on, {len(self.dev)} held out; {left_out}"


@dataclass(frozen=True)
class Origin:
    """How the files of a language are read.

    Attributes:
        columns: where the ``english`` and ``foreign`` text stands, as ``read_pairs`` takes it.
        source, licence: of rows that state none.
    """

    columns: dict[str, str] = field(default_factory=dict)
    source: str = ""
    licence: str = ""


def prepare(sources: Sequence[str], dev: str | None, dev_size: int, language: Language, origin: Origin) -> Prepared:
    """Read, normalise and split the pairs of a language.

    Args:
        sources: files or ``hub:`` data sets, as ``read_pairs`` takes them.
        dev: a file with the dev pairs; None holds out ``dev_size`` English strings, at most a tenth.
        origin: what is known of all of them.

    Raises:
        LlinkError: E210 to E214 as ``read_pairs``, E211 when too few are left, E227 when none of the texts is in
            the language's script.
    """
    read = _read(sources, language, origin)
    if dev is None:
        strings = len({key(pair.english) for pair in read.train})
        read.train, read.dev = split(read.train, max(1, min(dev_size, int(strings * MOST_DEV))))
    else:
        held_out = _read([dev], language, origin)
        read.dev = held_out.train
        left = without(read.train, {key(pair.english) for pair in read.dev})
        if len(left) < len(read.train):
            read.skipped["in the dev set"] = len(read.train) - len(left)
        read.train = left
        for reason, count in held_out.skipped.items():
            read.skipped[reason] = read.skipped.get(reason, 0) + count
        read.first_bad += held_out.first_bad
        read.origins |= {
            name: sorted({*read.origins.get(name, ()), *where}) for name, where in held_out.origins.items()
        }
    if not read.train:
        raise LlinkError("E211", f"Nothing to train on is left: {read.summary()}.", "Bring more pairs.")
    _check_scripts(read.rows, language)
    return read


def present(folder: Path, language: Language) -> Prepared | None:
    """What a language's data folder holds already: its ``train.jsonl.gz`` and every ``dev*.jsonl.gz``."""
    train = folder / "train.jsonl.gz"
    if not train.is_file():
        return None
    found = _read([str(train.absolute())], language, Origin())
    devs = sorted(folder.glob("dev*.jsonl.gz"))
    if devs:
        found.dev = _read([str(path.absolute()) for path in devs], language, Origin()).train
    found.dev_files = {path.name.removesuffix(".jsonl.gz"): path.name for path in devs}
    _check_scripts(found.rows, language)
    return found


def pick_samples(rows: Sequence[Pair], language: Language) -> tuple[Sample, ...]:
    """A few short pairs of the training data, by hash: the same ones on every machine."""
    fewest, most = SAMPLE_WORDS
    fit = [
        pair
        for pair in rows
        if fewest <= len(pair.english.split()) <= most
        # Placeholders, menu paths and mark-up are no sentences.
        and not set("%{}<>|\\_$#@&[]") & set(pair.english + pair.foreign)
        and main_script(pair.foreign) in language.scripts
    ]
    chosen: dict[str, Pair] = {}
    # Whole sentences first.
    for pair in sorted(fit, key=lambda p: (p.english[-1] not in ".!?", share(p.english), p.foreign)):
        chosen.setdefault(key(pair.english), pair)
    return tuple(Sample(p.foreign, p.english) for p in list(chosen.values())[:MAX_SAMPLES])


def data_sources(prepared: Prepared, limit: int) -> tuple[Source, ...]:
    """Where the data is from, the sources with most pairs first."""
    counts = Counter((pair.source, pair.licence) for pair in prepared.rows)
    return tuple(
        Source(name, ", ".join(prepared.origins.get(name, [])), licence)
        for (name, licence), _ in counts.most_common(limit)
    )


def state(rows: Sequence[Pair], licence: str) -> list[Pair]:
    """The pairs with ``licence`` where they state none."""
    return [replace(p, licence=licence) if p.licence == UNKNOWN else p for p in rows]


def check_saved(prepared: Prepared, folder: Path) -> bool:
    """Whether the folder holds just these pairs already; E225 when it holds others."""
    there = [_is_there(folder / f"{name}.jsonl.gz", rows) for name, rows in _files(prepared)]
    return all(there)


def save(prepared: Prepared, folder: Path) -> None:
    """Write ``train.jsonl.gz`` and ``dev.jsonl.gz``; what is there already is kept, or E225."""
    for name, rows in _files(prepared):
        path = folder / f"{name}.jsonl.gz"
        if not _is_there(path, rows):
            write_pairs(path, rows)


def main_script(text: str) -> str:
    """The script that most letters of a text are of; empty where it has none."""
    return next((script for script, _ in script_counts(text).most_common(1)), "")


def script_shares(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Scripts with the share of texts that are mostly in them, the commonest first."""
    found = Counter(filter(None, map(main_script, texts)))
    return [(script, n / max(found.total(), 1)) for script, n in found.most_common()]


def used_digits(texts: Sequence[str], sets: Sequence[str]) -> str:
    """That of several sets of digits which the texts use most, the first where they use none."""
    counts = Counter(char for text in texts for char in text if char.isdigit())
    return max(sets, key=lambda digits: sum(counts[d] for d in digits), default="")


def odd_end(texts: Sequence[str], sentence_ends: str) -> tuple[str, float] | None:
    """A mark of another script than ASCII's that many texts end in and that is no sentence end, with its share."""
    last = Counter(text[-1] for text in texts if text)
    for char, count in last.most_common():
        strange = unicodedata.category(char) == "Po" and not char.isascii() and char not in sentence_ends + "…"
        if strange and count >= COMMON_END * len(texts):
            return char, count / len(texts)
    return None


def _read(sources: Sequence[str], language: Language, origin: Origin) -> Prepared:
    """All pairs of ``sources``, normalised, one a (english, foreign) string."""
    found = Prepared([])
    seen: set[tuple[str, str]] = set()
    origins: dict[str, set[str]] = {}
    for where in sources:
        pairs = read_pairs(where, Path(), origin.columns, language.code, sound=True)
        for reason, count in pairs.skipped.items():
            found.skipped[reason] = found.skipped.get(reason, 0) + count
        found.first_bad += pairs.first_bad
        # Its name alone: the folder is this machine's business.
        file = where if where.startswith("hub:") else Path(where).name
        with track(f"Reading {file}", len(pairs.rows), "pair") as advance:
            for number, raw in enumerate(pairs.rows, 1):
                pair = _cleaned(raw, file, language.normalise, origin)
                why = "empty" if not (pair.english and pair.foreign) else "duplicates"
                if why == "empty" or (pair.english, pair.foreign) in seen:
                    found.skipped[why] = found.skipped.get(why, 0) + 1
                else:
                    seen.add((pair.english, pair.foreign))
                    found.train.append(pair)
                    origins.setdefault(pair.source, set()).add(file)
                if number % 1000 == 0:
                    advance(1000)
    if not found.train:
        raise LlinkError("E211", f"No pair is left of {', '.join(sources)}: {found.summary()}.", "Bring other data.")
    found.origins = {name: sorted(where) for name, where in origins.items()}
    return found


def _cleaned(raw: Pair, file: str, normalise: Callable[[str], str], origin: Origin) -> Pair:
    # A reader that knows no source gives the name of the file.
    source = raw.source if raw.source not in (UNKNOWN, file) else origin.source or file
    licence = origin.licence if origin.licence and raw.licence == UNKNOWN else raw.licence
    return Pair(normalise(raw.english), normalise(raw.foreign), source, licence)


def _check_scripts(rows: Sequence[Pair], language: Language) -> None:
    shares = script_shares([pair.foreign for pair in rows])
    if not set(language.scripts) & {script for script, _ in shares}:
        seen = shares[0][0].title() if shares else "no script"
        wanted = ", ".join(script.title() for script in language.scripts)
        raise LlinkError(
            "E227", f"None of the texts is in {wanted}; most are in {seen}.",
            "Check which column is which, or give --script.",
        )  # fmt: skip


def _files(prepared: Prepared) -> list[tuple[str, list[Pair]]]:
    return [("dev", prepared.dev), ("train", prepared.train)]


def _is_there(path: Path, rows: Sequence[Pair]) -> bool:
    if not path.exists():
        return False
    if read_pairs(str(path.absolute()), Path()).rows == rows:
        return True
    raise LlinkError(
        "E225", f"{path} exists and holds other pairs.", "Leave --data out to use it, or move it away first."
    )
