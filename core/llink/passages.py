"""Foreign texts inside an English conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llink import plugins
from llink.errors import LlinkError
from llink.prompt import SYSTEM
from llink.text import script_counts

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Foreign:
    """A text that is read through slots, in a conversation of ``Engine.chat``."""

    text: str
    language: str = "auto"


class Plain(str):
    """A text that the decoder gets as it is, whatever it is written in."""


def turns(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str | Foreign]]]:
    """Each message as its role and its parts, a system turn put first where there is none.

    Raises:
        LlinkError: E517 for what is no conversation.
    """
    conversation = [_turn(message) for message in messages]
    if not conversation:
        raise LlinkError("E517", "The conversation has no message.", 'Give [{"role": "user", "content": "…"}].')
    if conversation[0][0] != "system":
        conversation.insert(0, ("system", [SYSTEM]))
    roles = [role for role, _ in conversation]
    if "system" in roles[1:] or roles[-1] != "user":
        raise LlinkError(
            "E517", "A conversation ends with a turn of the user, and a system turn can only be its first.",
            f"The roles here are: {', '.join(roles)}.",
        )  # fmt: skip
    return conversation


def _turn(message: Mapping[str, Any]) -> tuple[str, list[str | Foreign]]:
    shape = 'A message is {"role": "user", "content": "…"}; its role one of ' + ", ".join(ROLES) + "."
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise LlinkError("E517", "A message has no such role.", shape)
    content = message.get("content")
    parts: list[Any] = list(content) if isinstance(content, (list, tuple)) else [content]
    if not parts or not all(isinstance(part, (str, Foreign)) for part in parts):
        raise LlinkError("E517", "A message's content is neither text nor a list of texts and Foreign texts.", shape)
    return str(message["role"]), [_part(part) for part in parts]


def _part(part: str | Foreign) -> str | Foreign:
    """Text mostly in the script of an installed language is foreign without being said to be."""
    if isinstance(part, (Foreign, Plain)):
        return part
    counts = script_counts(part)
    own = {script for language in plugins.languages().values() for script in language.scripts} - {"LATIN"}
    return Foreign(part) if 2 * sum(counts[script] for script in own) > counts.total() else part
