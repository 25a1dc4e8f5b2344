"""A language that no plugin brings, made of what ISO 639, CLDR and Unicode say of its code and its script."""

from __future__ import annotations

from functools import cache

from llink.interfaces import Language

UNDETERMINED = "und"
"""ISO 639's code for a language that nobody has named."""


@cache
def generic_language(code: str | None = None, script: str = "") -> Language:
    """A ``Language`` for any text that an encoder may know: no plugin, no package, no samples.

    Its sentences end at the marks of every script (Sentence_Terminal), with or without a space behind, and a semicolon
    asks a question where the script is Greek; its joiners stay where its letters need them; every decimal digit of
    Unicode is a digit.

    Args:
        code: an ISO 639 code or English name as ``llink.language.iso.lookup`` takes it; None where only the script is known.
            The language is then ``und``.
        script: an ISO 15924 code, a script's name, or the first word of its characters' names as in
            ``llink.language.text.script_counts`` (``Arab``, ``Arabic``, ``ARABIC``); empty for the likely one of the language.

    Raises:
        LlinkError: E220 where the code is no language, E224 where the script is none.
    """
    from llink.language import iso
    from llink.language.unicode import sentence_ends

    known = iso.lookup(code) if code else None
    scripts = iso.written_in(code) if code else list[iso.Script]()
    # Japanese is written in three scripts; a text that is mostly in one of them is in Japanese all the same.
    if script and not any(set(iso.script(script).names) <= set(own.names) for own in scripts):
        scripts = [iso.script(script)]
    digits = next((own.digits[0] for own in scripts if own.digits), iso.ASCII_DIGITS)
    names = tuple(dict.fromkeys(name for own in scripts for name in own.names))
    written = "/".join(name.title() for name in names)
    return Language(
        code=known.code if known else UNDETERMINED,
        code3=known.code3 if known else UNDETERMINED,
        name=known.name if known else f"Language in {written} script" if names else "Undetermined language",
        endonym=known.endonym if known else "",
        scripts=names,
        package="",
        sentence_ends="".join(dict.fromkeys(iso.ends(scripts) + sentence_ends())),
        digits=iso.own_digits(known.code, scripts) if known else digits,
    )
