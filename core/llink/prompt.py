"""The one place where a prompt is built, for training and inference alike.

A prompt is a chat: a short system message, then one user turn of an instruction in English and the K slots.
The instruction comes first, so that all that stands before the slots is the same for every text of a task
and runs through the decoder once a batch. A free instruction takes a task's place unchanged.
"""

from __future__ import annotations

import hashlib
import json
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


def build(decoder: Decoder, instruction: str, *, slots: int = 0, text: str | None = None) -> Prompt:
    """The prompt for K slots, or for plain ``text`` in their place (English, or raw foreign text).

    With neither, the instruction stands alone and the prompt is what the bare decoder would get.
    """
    subject: list[int] = []
    if slots:
        subject = [SLOT] * slots
    elif text is not None:
        subject = decoder.tokenize(text)
    question = decoder.tokenize(f"{instruction}\n" if subject else instruction)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "user"}]
    ids: list[int] = []
    contents = iter((decoder.tokenize(SYSTEM), question + subject))
    for part in decoder.chat(messages):
        ids += next(contents) if isinstance(part, str) else [part]
    return Prompt(tuple(ids))


def fingerprint(decoder: Decoder, slots: int) -> str:
    """Hash of the prompt's every part; an adapter trained on another prompt is refused."""
    parts = [build(decoder, text, slots=slots).ids for text in TASKS.values()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
