"""The one place where a prompt is built, for training and inference alike.

A prompt is a chat: a short system message, then one user turn of an instruction in English and the K slots.
The instruction comes first, so that all that stands before the slots is the same for every text of a task
and runs through the decoder once a batch. A free instruction takes a task's place unchanged.
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


def build(decoder: Decoder, instruction: str, *, slots: int = 0, passages: int = 1, text: str | None = None) -> Prompt:
    """The prompt for K slots (for each of several ``passages``), or for plain ``text`` in their place.

    With neither, the instruction stands alone and the prompt is what the bare decoder would get.
    """
    about: list[int] = []
    if slots:
        about = subject(decoder, slots, passages)
    elif text is not None:
        about = decoder.tokenize(text)
    question = decoder.tokenize(f"{instruction}\n" if about else instruction)
    return converse(decoder, [("system", decoder.tokenize(SYSTEM)), ("user", question + about)])


def subject(decoder: Decoder, slots: int, passages: int = 1) -> list[int]:
    """Ids of passages of K slots each, a line break between them."""
    ids = [SLOT] * slots
    for _ in range(passages - 1):
        ids += [*decoder.tokenize("\n"), *([SLOT] * slots)]
    return ids


def converse(decoder: Decoder, turns: Sequence[tuple[str, Sequence[int]]]) -> Prompt:
    """The prompt of a whole conversation: each turn a role and its content's ids, ``SLOT`` where slots go."""
    contents = iter([content for _, content in turns])
    ids: list[int] = []
    for part in decoder.chat([{"role": role, "content": role} for role, _ in turns]):
        ids += next(contents) if isinstance(part, str) else [part]
    return Prompt(tuple(ids))


def fingerprint(decoder: Decoder, slots: int) -> str:
    """Hash of the prompt's every part; an adapter trained on another prompt is refused."""
    parts = [build(decoder, text, slots=slots).ids for text in TASKS.values()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
