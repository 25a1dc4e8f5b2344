"""Splitting pairs into train and dev by English string, so that no dev sentence is ever trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.language.text import normalise


def split(pairs: list[Pair], dev: int, *, seed: int = 17) -> tuple[list[Pair], list[Pair]]:
    """Hold out ``dev`` English strings with all their pairs; returns (train, dev), each in the order of ``pairs``.

    Which strings depends on their hashes and the seed alone: the same on every machine, and nearly the same when
    pairs come or go. Strings that differ in case or white space only stand on one side.

    Raises:
        LlinkError: E211 when that would leave nothing to train on.
    """
    keys = [key(pair.english) for pair in pairs]
    strings = set(keys)
    if dev >= len(strings):
        raise LlinkError(
            "E211",
            f"{len(strings)} English strings are too few to hold out {dev}.",
            "Hold out fewer, or bring more pairs.",
        )
    held_out = set(sorted(strings, key=lambda text: _order(text, seed))[:dev])
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, text in zip(pairs, keys, strict=True):
        sides[text in held_out].append(pair)
    return sides


def without(pairs: Iterable[Pair], held_out: set[str]) -> list[Pair]:
    """The pairs whose English string is none of ``held_out``, which are keys."""
    return [pair for pair in pairs if key(pair.english) not in held_out]


def key(english: str) -> str:
    """What two spellings of one English string have in common: no case, no runs of white space."""
    if english.isascii() and english.isprintable():
        return " ".join(english.split()).lower()  # the same, sooner
    return normalise(english).casefold()


def _order(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
