"""Stage B with the verbatim channel: whose prompt has it, and values that are swapped so that copying is learnt.

The slots of a text stay as they are when its values are swapped in channel and target: what they say of a number is
then wrong, and the decoder learns which of the two to trust. No text is encoded anew for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llink.adapter.prompt import Prompt, beside, build, channel
from llink.interfaces import Decoder
from llink.language.values import bounded, kind
from llink.recipe import Verbatim

if TYPE_CHECKING:
    from llink.training.stage_b import Example

_NUMBER = re.compile(r"([$€£¥]?[-+]?)(\d(?:[\d., ]*\d)?)(.*)", re.DOTALL)
_SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il"))
_ENDINGS = ("com", "org", "net", "info", "io")


class Batches:
    """Prompts and targets of stage B's batches; the same for the same seed, step and example on any machine.

    Args:
        settings: of the recipe.
        longest: tokens that a target may have for each passage.
    """

    def __init__(
        self,
        decoder: Decoder,
        examples: Sequence[Example],
        settings: Verbatim,
        *,
        longest: int,
        seed: int,
    ) -> None:
        self.decoder, self.examples, self.settings = decoder, examples, settings
        self.longest, self.seed = longest, seed
        self.prompts: dict[tuple[str, int, int], Prompt] = {}
        self.targets = [self._target(e) for e in examples]
        self.pool: dict[str, list[str]] = {}
        for value in dict.fromkeys(value for e in examples for p in e.passages for value in p.values or ()):
            self.pool.setdefault(kind(value), []).append(value)

    def __call__(
        self, rows: Sequence[int], step: int, slots: int
    ) -> tuple[list[Example], list[Prompt], list[list[int]]]:
        """These examples of one task, values swapped where they are, with the prompt and the target's ids of each.

        Args:
            slots: k, of each passage.
        """
        made = [self._one(row, slots, random.Random(f"{self.seed} {step} {row}")) for row in rows]
        return [example for example, _, _ in made], [prompt for _, prompt, _ in made], [ids for _, _, ids in made]

    def _one(self, row: int, slots: int, pick: random.Random) -> tuple[Example, Prompt, list[int]]:
        example, target = self.examples[row], self.targets[row]
        tokens = self.settings.tokens
        if not tokens or example.values is None or pick.random() < self.settings.dropout:
            return example, self._prompt(example, slots), target
        if any(p.values for p in example.passages) and pick.random() < self.settings.swap:
            example = swapped(example, self.pool, pick)
            target = self._target(example)
        kept = [channel(self.decoder, p.values or (), tokens) for p in example.passages]
        if example.more:
            prompt = build(self.decoder, example.instruction, slots=slots, passages=len(kept), kept=kept)
        else:
            prompt = beside(self._prompt(example, slots), kept[0])
        return example, prompt, target

    def _prompt(self, example: Example, slots: int) -> Prompt:
        """The prompt without the channel."""
        key = example.task, slots, len(example.passages)
        if key not in self.prompts:
            self.prompts[key] = build(self.decoder, example.instruction, slots=slots, passages=key[2])
        return self.prompts[key]

    def _target(self, example: Example) -> list[int]:
        return self.decoder.tokenize(example.target)[: self.longest * len(example.passages)]


def swapped(example: Example, pool: Mapping[str, Sequence[str]], pick: random.Random) -> Example:
    """The example with each value that stands in its target replaced by another of its kind, in the English too.

    Args:
        pool: values of the training text by kind, to choose from beside made-up ones.
    """
    values = list(dict.fromkeys(value for p in example.passages for value in p.values or ()))
    there = [v for v in sorted(values, key=len, reverse=True) if bounded(v).search(example.target)]
    new = {value: another(value, pool, pick) for value in there}
    return replace(
        example,
        target=_put(new, example.target),
        english=_put(new, example.english),
        values=_renamed(example.values, new),
        more=tuple(replace(p, english=_put(new, p.english), values=_renamed(p.values, new)) for p in example.more),
    )


def _renamed(values: Sequence[str] | None, new: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(new.get(value, value) for value in values or ()))


def _put(new: Mapping[str, str], text: str) -> str:
    """``text`` with values replaced, by way of characters of no text, so that what was put in is not looked at again."""
    marks = {chr(0xF0000 + number): value for number, value in enumerate(new)}
    for mark, value in marks.items():
        text = bounded(value).sub(mark, text)
    return "".join(new[marks[char]] if char in marks else char for char in text)


def another(value: str, pool: Mapping[str, Sequence[str]], pick: random.Random) -> str:
    """Another value of the same kind. One and none stay (the words beside them depend on them), and placeholders."""
    of = kind(value)
    if of == "number":
        return _number(value, pick)
    if of == "date":
        return _date(value, pick)
    if of == "placeholder":
        return value
    if of in pool and pick.random() < 0.5:
        return pick.choice(pool[of])
    if of == "name":
        return " ".join(_word(pick).capitalize() for _ in range(pick.choice((1, 1, 2))))
    if of == "url":
        path = "".join(f"/{_word(pick)}" for _ in range(pick.choice((0, 1, 1, 2))))
        return f"{pick.choice(('https://', 'http://', 'www.'))}{_word(pick)}.{pick.choice(_ENDINGS)}{path}"
    if of == "email":
        return f"{_word(pick)}@{_word(pick)}.{pick.choice(_ENDINGS)}"
    if of == "file":
        return (
            f"{_word(pick)}{pick.choice(('', f'_{_word(pick)}', str(pick.randrange(10))))}.{value.rpartition('.')[2]}"
        )
    if of == "option":
        return f"--{_word(pick)}"
    return "".join(_sign(sign, pick) for sign in value)


def _number(value: str, pick: random.Random) -> str:
    match = _NUMBER.fullmatch(value)
    if match is None or match[2] in ("0", "1"):
        return value
    before, digits, behind = match.groups()
    if not digits.isdigit():
        return before + "".join(_sign(sign, pick) for sign in digits) + behind
    length = pick.choice((len(digits), len(digits), 1, 2, 3, 4))
    return f"{before}{pick.randrange(max(2, 10 ** (length - 1)), 10**length)}{behind}"


def _date(value: str, pick: random.Random) -> str:
    if re.fullmatch(r"\d+/\d+", value):
        return "".join(_sign(sign, pick) for sign in value)
    if ":" in value:
        return re.sub(r"\d+:\d\d", lambda _: f"{pick.randrange(1, 13)}:{pick.randrange(60):02}", value, count=1)
    year, month, day = pick.randrange(1900, 2040), pick.randrange(1, 13), pick.randrange(1, 29)
    [sign] = set(re.sub(r"[\dT]", "", value)) or "-"
    if re.match(r"\d{4}", value):
        return f"{year}{sign}{month:02}{sign}{day:02}"
    return f"{day:02}{sign}{month:02}{sign}{year}"


def _sign(sign: str, pick: random.Random) -> str:
    """Another letter or digit of its sort, never a zero."""
    for kind_of in ("123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        if sign in kind_of or (sign == "0" and kind_of[0] == "1"):
            return pick.choice(kind_of)
    return sign


def _word(pick: random.Random) -> str:
    return "".join(pick.choice(_SYLLABLES) for _ in range(pick.choice((2, 2, 3))))
