"""Constrained decoding: an answer that retells a text has no digits but those of the values which the text holds.

The verbatim channel tells the decoder what the values are; a small decoder still writes "the code is 204" for E204. Here a
token with a digit, of any script, is ruled out unless what it makes begins, or goes on with, a value of the text or a usual
way of writing one. Everything else is the decoder's choice, and a number that the text has in words comes out in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llink.interfaces import Decoder
from llink.language.unicode import ascii_digits
from llink.language.values import kind

RETELLING = frozenset({"translate", "summarize", "title"})
"""Tasks whose answer says what the text says; key points may be numbered, and a question may ask for a sum."""
_TAIL = 48
"""Tokens of the answer that are looked back on: more than a value has."""
_DIGIT = re.compile(r"[0-9]")
_WITH_DIGITS = re.compile(r"[0-9](?:.*[0-9])?", re.DOTALL)
_BROKEN = "\N{REPLACEMENT CHARACTER}"
# What is written may be the beginning of a value from here on: not within a word or a longer number.
_START = re.compile(r"(?<![A-Za-z0-9])(?<![0-9][.,:/])")
_PARTED = ("url", "email", "path", "placeholder", "option")

Known = tuple[str, ...]
"""All that digits may spell in an answer, see ``known``."""


def known(values: Sequence[str]) -> Known:
    """The values that have digits, and the usual ways of writing each in English.

    A date or a time may be written in parts, with and without a leading zero, and the time by a clock of twelve hours; a
    number may have other marks between its thousands or none; an address may lose its beginning.
    """
    plain = map(ascii_digits, values)
    return tuple(dict.fromkeys(form for value in plain if _DIGIT.search(value) for form in _forms(value)))


def _forms(value: str) -> Known:
    of, forms = kind(value), value.split()  # an answer is looked at from its last white space on
    if of in _PARTED:
        forms += [value[m.start() :] for m in re.finditer(r"(?<![A-Za-z0-9])[A-Za-z0-9]", value)]
    elif of == "date":
        parts = [int(part) for part in re.findall("[0-9]+", value)]
        if re.match("[0-9]+:", value) and parts[0] > 12:
            forms.append(value.replace(str(parts[0]), str(parts[0] - 12), 1))
            parts.append(parts[0] - 12)
        forms += [f"{part:0{width}}" for part in parts for width in (1, 2)]
    elif of == "number":
        parts_apart = re.findall(r"[0-9]+(?:[.,][0-9]+)*", value)
        number = "".join(parts_apart)  # "12 345" is one number, but who knows
        forms = [number, *parts_apart, number.translate(str.maketrans(".,", ",."))]
        plain = re.sub(r"[.,](?=[0-9]{3}(?![0-9]))", "", number)
        whole, mark, rest = plain.partition(".")
        forms += [plain, f"{int(whole):,}{mark}{rest}" if whole.isdecimal() else plain]
    return tuple(forms)


def may_follow(said: str, values: Known) -> set[str]:
    """What digits may come of next: the rest of each value that ``said`` has begun, and each value whole where one may."""
    run = re.split(r"\s", said)[-1].casefold()
    begun = [run[match.start() :] for match in _START.finditer(run)]
    return {value[len(part) :] for value in values for part in begun if value.casefold().startswith(part)}


class KnownDigits(LogitsProcessor):
    """Rules tokens with other digits out, for each row of a batch by its own values.

    Args:
        decoder: whose tokens are scored.
        rows: what each row may spell, see ``known``; None leaves a row as it is.
    """

    def __init__(self, decoder: Decoder, rows: Sequence[Known | None]) -> None:
        self._decoder, self._rows = decoder, rows
        self._tokens = _vocabulary(decoder)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids of the answers so far ``[B·beams, T]`` and scores ``[B·beams, V]`` -> scores."""
        beams, scores = len(input_ids) // len(self._rows), scores.clone()
        rows: list[int] = []
        columns: list[int] = []
        for number, ids in enumerate(input_ids[:, -_TAIL:].tolist()):
            values = self._rows[number // beams]
            if values is not None:
                columns += self.unknown(ids, values)
                rows += [number] * (len(columns) - len(rows))
        scores[rows, columns] = -torch.inf
        return scores

    def unknown(self, ids: Sequence[int], values: Known) -> list[int]:
        """Tokens that may not come behind ``ids``."""
        tokens = self._tokens
        said = tokens.text(self._decoder, ids)
        found: list[int] = []
        for before, own in tokens.digits.items():
            rests = may_follow(said + before, values)
            found += [i for i, digits in own if not any(rest.startswith(digits) for rest in rests)]
        if said.endswith(_BROKEN):
            found += self._completing(ids, said.rstrip(_BROKEN), values)
        # Before a digit many decoders write a space apart; the word that comes in its place brings its own.
        return found + tokens.spaced if said.endswith(" ") else found

    def _completing(self, ids: Sequence[int], said: str, values: Known) -> list[int]:
        """Tokens that may not come because they complete the bytes of a digit, of which ``ids`` has the first."""
        found = []
        for i in self._tokens.broken:
            more = self._tokens.text(self._decoder, [*ids, i]).removeprefix(said)
            match = _WITH_DIGITS.search(more)
            if match and not any(r.startswith(match[0]) for r in may_follow(said + more[: match.start()], values)):
                found.append(i)
        return found


@dataclass(frozen=True)
class _Vocabulary:
    """What a decoder's tokens have of digits and white space.

    Attributes:
        digits: tokens with a digit: id and text from the first digit to the last, by what stands before that. Most
            decoders have one token a digit, some up to three digits, some whole words.
        spaced: tokens that begin with white space.
        broken: tokens that have bytes of a character without the others.
        mark: a token to put behind others, as white space at an end is lost in ``Decoder.detokenize``; and its text.
    """

    digits: dict[str, list[tuple[int, str]]]
    spaced: list[int]
    broken: list[int]
    mark: tuple[int, str]

    def text(self, decoder: Decoder, ids: Sequence[int]) -> str:
        """The text of ``ids``, with the white space at its end, and digits of any script as 0-9."""
        return ascii_digits(decoder.detokenize([*ids, self.mark[0]])).removesuffix(self.mark[1])


_vocabularies: WeakKeyDictionary[Decoder, _Vocabulary] = WeakKeyDictionary()


def _vocabulary(decoder: Decoder) -> _Vocabulary:
    if decoder not in _vocabularies:
        mark = decoder.tokenize("10")[-1]  # a digit within a number has no white space before it
        found = _Vocabulary({}, [], [], (mark, decoder.detokenize([mark])))
        for i in range(len(decoder.embedding_matrix())):
            text = found.text(decoder, [mark, i]).removeprefix(found.mark[1])
            if text[:1].isspace():
                found.spaced.append(i)
            if _BROKEN in text:
                found.broken.append(i)
            if match := _WITH_DIGITS.search(text):
                found.digits.setdefault(text[: match.start()], []).append((i, match[0]))
        _vocabularies[decoder] = found
    return _vocabularies[decoder]
