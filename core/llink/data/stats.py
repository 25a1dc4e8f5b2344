"""What a set of pairs is made of: sources, lengths, scripts, duplicates, and length ratios that look wrong."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from llink.data.pairs import Pair, Pairs
from llink.data.split import key
from llink.language.text import normalise, script_counts
from llink.progress import track

QUANTILES = (0, 5, 25, 50, 75, 95, 100)
EXAMPLES = 5
# Deviations from the median that are still usual; at least half as long or twice as long always is.
USUAL = 4
LEAST = math.log(2)


def describe(pairs: Pairs) -> dict[str, Any]:
    """Counts and quantiles of pairs, ready for JSON.

    A length ratio is foreign by English characters. It is suspicious beyond four median absolute deviations from the
    median, both of logarithms, and no nearer than a factor of two.
    """
    rows = pairs.rows
    sources = Counter((pair.source, pair.licence) for pair in rows)
    english, foreign = Counter[str](), Counter[str]()
    words, characters, ratios = array("L"), array("L"), array("d")
    exact: set[int] = set()
    translations: dict[int, set[int]] = defaultdict(set)
    empty = 0
    for pair in _tracked(rows, "Measuring"):
        english.update(pair.english)
        foreign.update(pair.foreign)
        left, right = key(pair.english), normalise(pair.foreign)
        words.append(len(left.split()))
        characters.append(len(right))
        empty += not (left and right)
        ratios.append(math.log(max(len(right), 1) / max(len(left), 1)))
        # Hashes, not texts: this is read for millions of pairs.
        exact.add(hash((left, right)))
        translations[hash(left)].add(hash(right))
    return {
        "pairs": len(rows),
        "left_out": dict(sorted(pairs.skipped.items())),
        "sources": [
            {"source": source, "licence": licence, "pairs": n} for (source, licence), n in sources.most_common()
        ],
        "english_words": _quantiles(words),
        "foreign_characters": _quantiles(characters),
        "english_scripts": _scripts(english),
        "foreign_scripts": _scripts(foreign),
        "empty": empty,
        "duplicates": len(rows) - len(exact),
        "english_strings": len(translations),
        "english_with_several_translations": sum(len(found) > 1 for found in translations.values()),
        "length_ratio": _ratio(pairs, ratios),
    }


def _tracked(rows: Sequence[Pair], label: str) -> Iterator[Pair]:
    """The pairs one by one, with a progress bar."""
    with track(label, total=len(rows), unit="pair") as bar:
        for pair in rows:
            yield pair
            bar(1)


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    """Per cent -> the value that so many are not above."""
    ordered = sorted(values)
    return {str(q): ordered[round(q / 100 * (len(ordered) - 1))] for q in QUANTILES} if ordered else {}


def _scripts(characters: Counter[str]) -> dict[str, float]:
    """Script -> share of the letters."""
    counts: Counter[str] = Counter()
    for character, n in characters.items():
        for script in script_counts(character):
            counts[script] += n
    total = counts.total()
    return {script: round(n / total, 4) for script, n in counts.most_common()}


def _ratio(pairs: Pairs, ratios: Sequence[float]) -> dict[str, Any]:
    if not ratios:
        return {}
    middle = median(ratios)
    spread = max(USUAL * median([abs(ratio - middle) for ratio in ratios]), LEAST)
    far = [(abs(ratio - middle), number) for number, ratio in enumerate(ratios) if abs(ratio - middle) > spread]
    examples = [pairs.rows[number] for _, number in sorted(far, key=lambda f: (-f[0], f[1]))[:EXAMPLES]]
    return {
        "median": round(math.exp(middle), 3),
        "low": round(math.exp(middle - spread), 3),
        "high": round(math.exp(middle + spread), 3),
        "suspicious": len(far),
        "examples": [{"english": p.english, "foreign": p.foreign, "source": p.source} for p in examples],
    }
