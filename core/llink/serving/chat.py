"""Conversations of English turns and foreign texts: what one is, and its prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llink import plugins
from llink.adapter.prompt import MAX_SLOTS, SYSTEM, converse
from llink.errors import LlinkError
from llink.language.text import script_counts

if TYPE_CHECKING:
    from llink.plugins import Selected
    from llink.serving.reader import Reader, TaskOptions
    from llink.serving.scheduler import Row
    from llink.serving.shelf import Resident

Turn = tuple[str, list["str | Foreign"]]
"""A role and the parts of its content."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Foreign:
    """A text that is read through slots, in a conversation of ``Engine.chat``."""

    text: str
    language: str = "auto"


class Plain(str):
    """A text that the decoder gets as it is, whatever it is written in."""


def turns(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
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
            "E517",
            "A conversation ends with a turn of the user, and a system turn can only be its first.",
            f"The roles here are: {', '.join(roles)}.",
        )
    return conversation


def _turn(message: Mapping[str, Any]) -> Turn:
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
    if isinstance(part, Foreign | Plain):
        return part
    counts = script_counts(part)
    own = {script for language in plugins.languages().values() for script in language.scripts} - {"LATIN"}
    return Foreign(part) if 2 * sum(counts[script] for script in own) > counts.total() else part


def one_language(conversation: Sequence[Turn], resolve: Callable[[Foreign], Selected]) -> Selected | None:
    """What the foreign texts of a conversation are read with; None where there are none.

    Raises:
        LlinkError: E517 for texts in several languages, and those of ``resolve``.
    """
    foreign = dict.fromkeys(part for _, parts in conversation for part in parts if isinstance(part, Foreign))
    found = {str(wanted): wanted for wanted in map(resolve, foreign)}
    if len(found) > 1:
        names = ", ".join(sorted(wanted.called for wanted in found.values()))
        raise LlinkError(
            "E517",
            f"One conversation has texts in several languages ({names}).",
            "The decoder reads one language's slots at a time: translate the others first.",
        )
    return next(iter(found.values()), None)


def row(reader: Reader, conversation: Sequence[Turn], resident: Resident | None, options: TaskOptions) -> Row:
    """A conversation as a row for the decoder, its foreign texts read with ``resident``.

    Raises:
        LlinkError: E511 where it has more than ``MAX_SLOTS`` slots or does not fit the decoder, E517 where the decoder's
            chat template refuses it.
    """
    from jinja2 import TemplateError

    foreign = [part for _, parts in conversation for part in parts if isinstance(part, Foreign)]
    pieces = {part: reader.pieces(part.text, resident) for part in dict.fromkeys(foreign)} if resident else {}
    slots = reader.slots([piece for part in foreign for piece in pieces[part]], resident) if resident else []
    if sum(map(len, slots)) > MAX_SLOTS:
        raise LlinkError(
            "E511",
            f"The texts become {len(slots)} passages of {sum(map(len, slots))} slots in all, and {MAX_SLOTS} fit.",
            "Leave earlier turns out.",
        )
    decoder, contents = reader.pair.decoder, list[tuple[str, list[int]]]()
    with reader.pair.wording:
        for role, parts in conversation:
            ids: list[int] = []
            for part, end in zip(parts, ["\n"] * (len(parts) - 1) + [""], strict=True):
                if isinstance(part, str):
                    ids += decoder.tokenize(part + end)
                elif resident:
                    ids += reader.subject(pieces[part], resident, verbatim=options.verbatim)
                    ids += decoder.tokenize(end) if end else []
            contents.append((role, ids))
        try:
            prompt = converse(decoder, contents)
        except TemplateError as error:
            raise LlinkError(
                "E517",
                f"The decoder's chat template refuses the conversation: {error}.",
                "Let turns of user and assistant alternate.",
            ) from error
    return reader.row(
        prompt, slots, resident, options, pieces=[piece for part in foreign for piece in pieces.get(part, ())]
    )
