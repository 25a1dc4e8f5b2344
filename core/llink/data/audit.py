"""The data audit: a sample of pairs on a local page, marked good or bad by hand, and the marks read back."""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink.data.pairs import Pair, share
from llink.errors import LlinkError
from llink.interfaces import Language

if TYPE_CHECKING:
    from llink.features.cache import FeatureCache

GOOD, BAD = "good", "bad"
FEWEST = 3
"""Pairs of each source that a sample has at least, where it has as many."""


@dataclass(frozen=True)
class Hint:
    """What the encoder thinks of a pair.

    Attributes:
        similarity: cosine of its two sentence vectors, each side centred on the sample's mean.
        rank: how many English sentences of the sample are as near to the foreign one, its own among them; 1 is best.
    """

    similarity: float
    rank: int


@dataclass(frozen=True)
class Marks:
    """What was marked by hand.

    Attributes:
        sources: source -> how many pairs the audited data has of it.
        good, bad: the marked pairs.
    """

    sources: dict[str, int]
    good: list[Pair]
    bad: list[Pair]


def sample(pairs: Sequence[Pair], count: int, seed: int = 17) -> list[Pair]:
    """Pairs to look at, picked and ordered by hash: from every source its share, and three where it has as many."""
    by_source: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda p: share(f"{seed}\0{p.english}\0{p.foreign}")):
        by_source.setdefault(pair.source, []).append(pair)
    sizes = {source: len(rows) for source, rows in by_source.items()}
    # More sources than the sample has places: those with most pairs stay.
    kept = sorted(sizes, key=lambda source: -sizes[source])[:count]
    quotas = {source: min(sizes[source], FEWEST if count >= FEWEST * len(kept) else 1) for source in kept}
    for _ in range(min(count, sum(sizes[source] for source in kept)) - sum(quotas.values())):
        # One more to the source that is furthest behind its share.
        behind = [source for source in kept if quotas[source] < sizes[source]]
        quotas[max(behind, key=lambda source: sizes[source] / (quotas[source] + 1))] += 1
    chosen = [pair for source, quota in quotas.items() for pair in by_source[source][:quota]]
    return sorted(chosen, key=lambda p: share(f"{seed}\0{p.english}\0{p.foreign}"))


def hints(cache: FeatureCache, pairs: Sequence[Pair]) -> list[Hint]:
    """The encoder's opinion of each pair, from sentence vectors centred on their own side's mean."""
    import torch
    from torch.nn import functional as F

    foreign, english = [p.foreign for p in pairs], [p.english for p in pairs]
    cache.ensure(foreign)
    cache.ensure(english, "Encoding English")
    left, right = (cache.pooled(side) for side in (foreign, english))
    likeness = F.normalize(left - left.mean(0), dim=-1) @ F.normalize(right - right.mean(0), dim=-1).T
    own = likeness.diagonal()
    # The same English in another row of the sample is no rival.
    numbers: dict[str, int] = {}
    same = torch.tensor([numbers.setdefault(text, len(numbers)) for text in english])
    ranks = 1 + ((likeness >= own[:, None]) & (same[:, None] != same[None])).sum(1)
    return [Hint(round(s, 3), r) for s, r in zip(own.tolist(), ranks.tolist(), strict=True)]


def page(language: Language, rows: Sequence[Pair], pairs: Sequence[Pair], opinions: Sequence[Hint] | None) -> str:
    """A page that needs nothing but itself, to mark ``rows``, a sample of ``pairs``.

    What stands in the pairs is carried as data and shown as text: nothing in it can become markup or run.
    """
    told = [None] * len(rows) if opinions is None else [asdict(opinion) for opinion in opinions]
    shown = [{**asdict(pair), "hint": hint} for pair, hint in zip(rows, told, strict=True)]
    content = {
        "language": language.code,
        "sources": dict(Counter(pair.source for pair in pairs)),
        "sample": hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16],
        "rows": shown,
    }
    data = json.dumps(content, ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        data = data.replace(char, f"\\u{ord(char):04x}")
    template = (Path(__file__).parent / "audit.html").read_text(encoding="utf-8")
    head, _, tail = template.partition("@DATA@")
    names = {"@NAME@": html.escape(language.name), "@CODE@": html.escape(language.code)}
    for mark, name in names.items():
        head, tail = head.replace(mark, name), tail.replace(mark, name)
    # The data goes in last, so that no mark in it is replaced.
    return head + data + tail


def read_marks(path: Path, language: Language) -> Marks:
    """The file that the page saved.

    Raises:
        LlinkError: E528 when it cannot be read, is none, is for another language or marks nothing.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        code, sources = content["language"], {str(name): int(n) for name, n in content["sources"].items()}
        marked: dict[str, list[Pair]] = {GOOD: [], BAD: []}
        for row in content["marks"]:
            pair = Pair(*(_text(row, name) for name in ("english", "foreign", "source", "licence")))
            marked[row["mark"]].append(pair)
    except OSError as error:
        raise LlinkError("E528", f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LlinkError(
            "E528", f"{path} holds no marks of an audit ({type(error).__name__}: {' '.join(str(error).split())[:80]}).",
            "Give the file that the page's button Save marks wrote.",
        ) from error  # fmt: skip
    if code != language.code:
        raise LlinkError("E528", f"{path} holds marks of '{code}', not of '{language.code}'.", "Check the language.")
    if not (marked[GOOD] or marked[BAD]):
        raise LlinkError("E528", f"{path} marks no pair.", "Mark some, then save the marks again.")
    return Marks(sources, marked[GOOD], marked[BAD])


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise TypeError(f"{name} is no text")
    return row[name]


@dataclass(frozen=True)
class Share:
    """How much of a source is good: of ``marked`` pairs ``good`` are; ``low`` and ``high`` bound the 95 % interval."""

    source: str
    pairs: int
    marked: int
    good: int
    low: float
    high: float


def shares(marks: Marks) -> list[Share]:
    """Each source's share of good pairs, the source with most pairs first."""
    good, bad = (Counter(p.source for p in rows) for rows in (marks.good, marks.bad))
    found = []
    for source in sorted({*good, *bad}, key=lambda name: (-marks.sources.get(name, 0), name)):
        marked = good[source] + bad[source]
        low, high = wilson(good[source], marked)
        found.append(Share(source, marks.sources.get(source, 0), marked, good[source], low, high))
    return found


def overall(found: Sequence[Share]) -> float:
    """The share of good pairs in the data, each marked source counted by how many pairs it has."""
    known = [s for s in found if s.pairs] or [Share(s.source, s.marked, s.marked, s.good, s.low, s.high) for s in found]
    return sum(s.pairs * s.good / s.marked for s in known) / sum(s.pairs for s in known)


def wilson(good: int, marked: int, z: float = 1.96) -> tuple[float, float]:
    """The bounds of Wilson's 95 % interval of a share: sound for a few marks, and for none that is bad."""
    middle, spread = good + z * z / 2, z * math.sqrt(good * (marked - good) / marked + z * z / 4)
    return max(0.0, (middle - spread) / (marked + z * z)), min(1.0, (middle + spread) / (marked + z * z))
