"""As many answers as texts: what needs no reading passes through with a note, and a bad text is refused by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llink import plugins
from llink.adapter.shared import SHARED, has_shared, language_of
from llink.errors import LlinkError
from llink.language.script import check_script
from llink.language.unread import unread
from llink.plugins import Selected
from llink.store.registry import load_registry

if TYPE_CHECKING:
    from llink.serving.engine import Engine

AUTO = "auto"
_OF_ONE_TEXT = frozenset({"E502", "E503", "E504", "E508", "E509", "E510", "E511"})
"""Errors that say something of a text; any other would come with the next text too."""
_OF_ONE_LANGUAGE = _OF_ONE_TEXT | {"E301"}
"""The same where each text may be in another language."""


@dataclass(frozen=True)
class Answer:
    """What became of a text.

    Attributes:
        output: empty where the text was refused.
        language: code of the language that it was read in, ``mul`` where only the shared adapter knows it; None where it was
            not read.
        adapter: what read it: ``km``, ``km@paper``, or ``mul``, the shared adapter.
        note: why it passed through unread, one of the words of ``llink.language.unread``.
        error: why it was refused.
    """

    text: str
    output: str = ""
    language: str | None = None
    adapter: str | None = None
    note: str | None = None
    error: LlinkError | None = None


def answer_all(
    engine: Callable[[Sequence[str]], Engine], texts: Sequence[str | LlinkError], language: str = AUTO, **options: Any
) -> list[Answer]:
    """An answer for each text, in order.

    Args:
        engine: called with the languages of texts that are to be read, and not at all where none is.
        texts: an error stands for a text that could not be had, and is its answer's.
        language: code or name for all; ``auto`` goes by script.
        options: for ``Engine.generate``.

    Raises:
        LlinkError: what is wrong with more than one text, such as E301 for the one language that was named.
    """
    answers: dict[int, Answer] = {}
    shared = has_shared(*_pair())
    languages = (
        [plugins.select(language).language]
        if language != AUTO
        else [spoken for code, spoken in plugins.languages().items() if shared or code != SHARED]
    )
    left: dict[int, tuple[str, Selected]] = {}
    for number, text in enumerate(texts):
        if isinstance(text, LlinkError):
            answers[number] = Answer("", error=text)
        elif found := unread(text, languages):
            answers[number] = Answer(text, found.output, note=found.note)
        else:
            try:
                left[number] = (text, selected_for(text, language, shared))
            except LlinkError as error:
                answers[number] = Answer(text, error=error)
    # Texts of like length share a batch and end at about the same time.
    order = sorted(left, key=lambda number: len(left[number][0]))
    alone = _OF_ONE_LANGUAGE if language == AUTO else _OF_ONE_TEXT
    outputs = _outputs(engine, [left[number] for number in order], alone, options)
    for number, output in zip(order, outputs, strict=True):
        text, wanted = left[number]
        if isinstance(output, LlinkError):
            answers[number] = Answer(text, error=output)
        else:
            read_by = engine([str(wanted)]).adapter_of(text, wanted)
            answers[number] = Answer(text, output, str(wanted), read_by)
    return [answers[number] for number in range(len(texts))]


def selected_for(text: str, language: str, shared: bool) -> Selected:
    """What a text is read by; E502/E503 where its language is not found, E504 where it is not the one named."""
    if language == AUTO:
        return Selected(language_of(text, shared))
    wanted = plugins.select(language)
    check_script(text, wanted.language)
    return wanted


def _pair() -> tuple[str, str]:
    default = load_registry().default
    return default.encoder, default.decoder


def _outputs(
    engine: Callable[[Sequence[str]], Engine],
    rows: Sequence[tuple[str, Selected]],
    alone: frozenset[str],
    options: dict[str, Any],
) -> list[str | LlinkError]:
    """Of texts with their languages; where one is refused, which is before anything is decoded, halves are tried."""
    if not rows:
        return []
    texts, wanted = [text for text, _ in rows], [own for _, own in rows]
    try:
        return [*engine(list(map(str, wanted))).generate(texts, wanted, **options)]
    except LlinkError as error:
        if error.code not in alone:
            raise
        if len(rows) == 1:
            return [error]
    half = len(rows) // 2
    return [found for part in (rows[:half], rows[half:]) for found in _outputs(engine, part, alone, options)]
