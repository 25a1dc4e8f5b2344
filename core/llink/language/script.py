"""Which language is a text in? By Unicode script, and by the languages' own detectors where that does not decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llink.errors import LlinkError
from llink.interfaces import Language
from llink.language.text import script_counts


def detect(text: str, languages: Mapping[str, Language]) -> Language:
    """The one language whose script ``text`` has most letters of; Latin parts of mixed text do not count.

    Where several are written in it, or one that has a detector of its own because others are, the detectors decide.

    Raises:
        LlinkError: E502 when that leaves none or several, E503 when no known language has the script.
    """
    counts = script_counts(text)
    found = {code: sum(counts[s] for s in language.scripts) for code, language in languages.items()}
    best = max(found.values(), default=0)
    candidates = [code for code, n in found.items() if n == best and n > 0]
    if not candidates:
        known = ", ".join(f"{language.name} ({code})" for code, language in sorted(languages.items()))
        seen = _names(script for script, _ in counts.most_common(2)) or "no letters"
        raise LlinkError("E503", f"No installed language is written like this text ({seen}).", f"Installed: {known}.")
    scores = {code: languages[code].likelihood(text) for code in candidates}
    sure = [code for code, score in scores.items() if score is not None and score > 0.5]
    possible = sure or [code for code, score in scores.items() if score is None or score == 0.5]
    if len(possible) == 1:
        return languages[possible[0]]
    names = ", ".join(f"{languages[code].name} ({code})" for code in sorted(possible or candidates))
    if possible:
        raise LlinkError("E502", f"The text may be {names}.", "Say which with --language.")
    script = _names(languages[candidates[0]].scripts)
    raise LlinkError(
        "E502", f"The text is in {script} script but does not look like {names}.",
        "Say so with --language if it is; otherwise its language is not installed.",
    )  # fmt: skip


def _names(scripts: Iterable[str]) -> str:
    return ", ".join(script.title() for script in scripts)


def check_script(text: str, language: Language) -> None:
    """Refuse text without a single letter of the language's script; E504."""
    counts = script_counts(text)
    # A language of no script is one of any.
    if counts and language.scripts and not any(counts[script] for script in language.scripts):
        seen = _names(script for script, _ in counts.most_common(2))
        raise LlinkError(
            "E504",
            f"{language.name} is written in {_names(language.scripts)}; this text is in {seen}.",
            "Check --language.",
        )
