"""The one place where a prompt is built, for training and inference alike.

A prompt is a chat: a short system message, then one user turn of an instruction in English and the K slots.
The instruction comes first, so that all that stands before the slots is the same for every text of a task
and runs through the decoder once a batch. A free instruction takes a task's place unchanged. Where the adapter has
the verbatim channel, a line behind the slots has the values of the text that must come out as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from llink.errors import unknown_name
from llink.interfaces import Decoder

SYSTEM = "Answer in English."
TASKS = {
    "translate": "Translate to English.",
    "summarize": "Summarize the text in one sentence.",
    "title": "Write a short title for the text.",
    "keypoints": "List the key points of the text.",
    "qa": "What is the text about?",
}
KEEP = "\nKeep: "
"""Opens the line of the verbatim channel."""
NOTHING = "none"
"""What the channel says of a text without such values; an absent line says nothing about them."""
MAX_SLOTS = 512
"""Slots that one prompt may have."""
SLOT = -1
"""Stands in ``Prompt.ids`` where a slot goes; no token has this id."""


@dataclass(frozen=True)
class Prompt:
    """Token ids up to the assistant's first token, ``SLOT`` where a slot's embedding is scattered in."""

    ids: tuple[int, ...]

    @property
    def slots(self) -> int:
        """K, the number of slots."""
        return self.ids.count(SLOT)

    @property
    def prefix(self) -> tuple[int, ...]:
        """What stands before the first slot (everything, where there is none)."""
        return self.ids[: self.ids.index(SLOT)] if SLOT in self.ids else self.ids

    @property
    def suffix(self) -> tuple[int, ...]:
        """What stands behind the last slot."""
        return self.ids[len(self.prefix) + self.slots :]


def instruction_for(task: str | None = None, instruction: str | None = None) -> str:
    """The instruction of a task, or a free instruction; E501 for an unknown task."""
    if instruction is not None:
        return instruction
    if task not in TASKS:
        raise unknown_name("E501", "task", str(task), TASKS)
    return TASKS[task]


def build(
    decoder: Decoder,
    instruction: str,
    *,
    slots: int | Sequence[int] = 0,
    passages: int = 1,
    kept: Sequence[Sequence[int]] = (),
    text: str | None = None,
) -> Prompt:
    """The prompt for slots of one or several passages, or for plain ``text`` in their place.

    With neither, the instruction stands alone and the prompt is what the bare decoder would get.

    Args:
        slots: of each passage; a number is that of all ``passages``.
        kept: the ``channel`` of each passage; none where there is no channel.
    """
    about: list[int] = []
    if slots:
        about = subject(decoder, [slots] * passages if isinstance(slots, int) else slots, kept)
    elif text is not None:
        about = decoder.tokenize(text)
    question = decoder.tokenize(f"{instruction}\n" if about else instruction)
    return converse(decoder, [("system", decoder.tokenize(SYSTEM)), ("user", question + about)])


def subject(decoder: Decoder, slots: Sequence[int], kept: Sequence[Sequence[int]] = ()) -> list[int]:
    """Ids of passages of so many slots each, each with its line of ``kept`` where there are any; a line break between."""
    ids: list[int] = []
    for number, (count, line) in enumerate(zip(slots, kept or [()] * len(slots), strict=True)):
        ids += [*(decoder.tokenize("\n") if number else ()), *([SLOT] * count), *line]
    return ids


def channel(decoder: Decoder, values: Sequence[str], tokens: int) -> list[int]:
    """Ids of the verbatim channel: values in order, as many as fit into so many tokens; one that does not is left out.

    Empty where ``tokens`` is 0, which is an adapter without the channel.
    """
    if not tokens:
        return []
    line, fits = KEEP + NOTHING, ""
    for value in values:
        longer = f"{fits}; {value}" if fits else KEEP + value
        if len(decoder.tokenize(longer)) <= tokens + len(decoder.tokenize(KEEP)):
            line = fits = longer
    return decoder.tokenize(line)


def beside(prompt: Prompt, line: Sequence[int]) -> Prompt:
    """A prompt of one passage with the ``channel`` behind its slots, as ``build`` makes it."""
    return Prompt((*prompt.prefix, *([SLOT] * prompt.slots), *line, *prompt.suffix))


def converse(decoder: Decoder, turns: Sequence[tuple[str, Sequence[int]]]) -> Prompt:
    """The prompt of a whole conversation: each turn a role and its content's ids, ``SLOT`` where slots go."""
    contents = iter([content for _, content in turns])
    ids: list[int] = []
    for part in decoder.chat([{"role": role, "content": role} for role, _ in turns]):
        ids += next(contents) if isinstance(part, str) else [part]
    return Prompt(tuple(ids))


def fingerprint(decoder: Decoder, slots: int, verbatim: int = 0) -> str:
    """Hash of the prompt's every part; an adapter trained on another prompt is refused.

    Args:
        verbatim: tokens of the verbatim channel.
    """
    parts = [build(decoder, text, slots=slots).ids for text in TASKS.values()]
    if verbatim:
        parts += [tuple(channel(decoder, values, 1000)) for values in ([], ["30 MW", "Aspirin"])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
