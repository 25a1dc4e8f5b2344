"""Which language is a text in? By Unicode script, where that decides."""

from __future__ import annotations

from collections.abc import Mapping

from llink.errors import LlinkError
from llink.interfaces import Language
from llink.text import script_counts


def detect(text: str, languages: Mapping[str, Language]) -> Language:
    """The one language whose script ``text`` has most letters of; Latin parts of mixed text do not count.

    Raises:
        LlinkError: E502 when several languages share the script, E503 when no known language has it.
    """
    counts = script_counts(text)
    found = {code: sum(counts[s] for s in language.scripts) for code, language in languages.items()}
    best = max(found.values(), default=0)
    candidates = [code for code, n in found.items() if n == best and n > 0]
    if len(candidates) == 1:
        return languages[candidates[0]]
    if candidates:
        raise LlinkError("E502", f"The text may be {', '.join(sorted(candidates))}.", "Say which with --language.")
    known = ", ".join(f"{language.name} ({code})" for code, language in sorted(languages.items()))
    seen = ", ".join(script.title() for script, _ in counts.most_common(2)) or "no letters"
    raise LlinkError("E503", f"No installed language is written like this text ({seen}).", f"Installed: {known}.")


def check_script(text: str, language: Language) -> None:
    """Refuse text without a single letter of the language's script; E504."""
    counts = script_counts(text)
    if counts and not any(counts[script] for script in language.scripts):
        seen = ", ".join(script.title() for script, _ in counts.most_common(2))
        wanted = ", ".join(script.title() for script in language.scripts)
        raise LlinkError(
            "E504", f"{language.name} is written in {wanted}; this text is in {seen}.", "Check --language."
        )
