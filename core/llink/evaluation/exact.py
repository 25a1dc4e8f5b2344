"""Exact values: do numbers, units, dates, names, addresses and codes come through as they are?

The paper's weakest spot (30 MW became 1.5 kW). The material is made of checked templates, ``exact.yaml`` here and in a
language's package, and of dev text in which a value stands on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llink.bounded import Unfit, read_yaml
from llink.data.pairs import Pair, share
from llink.errors import LlinkError
from llink.evaluation.base import ANSWER_TOKENS, Evaluator, Metrics, Result, Skip, Subject, mean, prediction
from llink.evaluation.baselines import baseline_answers, readers
from llink.interfaces import Language, package_folder

KINDS = ("numbers", "units", "dates", "names", "urls", "codes")
SENTENCES = 200
"""How many are made of templates, evenly over the kinds."""
PAIRS = 16
"""How many pairs of a dev set are looked at."""
BESIDE = 32
"""How many of the sentences the baselines answer too; the kinds take turns, so each has its share."""
OWN = "own names"
FILE = Path(__file__).with_name("exact.yaml")
UNITS = "kg|mg|g|km|cm|mm|m|ml|l|kW|MW|GW|W|kB|KB|MB|GB|TB|Hz|kHz|MHz|GHz|mA|A|mV|V|°C|%"

Value = tuple[str, str]
"""A kind and the value as it must come out."""

# In the order in which they take their characters: a number in an address is not a number.
_FOUND = {
    "urls": r"(?:https?://|www\.)[^\s<>\"'()\[\]{}]*[\w/]",
    "dates": r"(?<![\w/.-])(?:\d{4}-\d\d-\d\d|\d{1,2}/\d{1,2}/\d{4})(?![\w/-])",
    "units": rf"(?<![\w.,/-])\d+(?:[.,]\d+)* ?(?:{UNITS})(?![\w])",
    "codes": r"%(?:\d\$)?[sd]|(?<!\S)--[a-z][\w-]+|(?<![\w.-])(?:\w+_\w+|[\w-]+\.[a-z][a-z0-9]{1,3}|"
    r"(?=[\w-]*[A-Za-z])(?=[\w-]*\d)[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)(?![\w.-]*\w)",
    "numbers": r"(?<![\w.,/-])\d+(?:[.,]\d+)*(?![\w/-])",
    "names": r"(?<![\w.-])[A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+)*(?![\w-])",
}
# A value ends where a sentence may go on, not within a longer number, word or address.
_BEFORE, _BEHIND = (
    r"(?<![A-Za-z0-9])(?<![0-9][.,:/-])(?<![A-Za-z0-9][./_])",
    r"(?![A-Za-z0-9]|[.,:/-][0-9]|[/._][A-Za-z])",
)
_DIGITS = re.compile(r"[0-9]+")
_COMPOUND = re.compile(r"(?<![\w.])[0-9]+(?:[/:-][0-9]+)+(?!\w)", re.ASCII)
# A name may end in any letter, and is then none that is looked for: Charité is not Charit.
_PATTERNS = {kind: re.compile(p, 0 if kind == "names" else re.ASCII) for kind, p in _FOUND.items()}


@dataclass(frozen=True, slots=True)
class Case(Pair):
    """A pair with the values that its translation must hold."""

    values: tuple[Value, ...] = ()


class Exact(Evaluator):
    """Share of the values that the answers hold exactly, over all and by kind; the baselines' over the first of them.

    ``invented`` is the share of answers with a number, address or code that stands in neither the text nor its English.
    ``without channel`` is the adapter itself, its verbatim channel left out.
    """

    name = "exact"
    primary_metric = "exact"
    lower = frozenset({"invented"})

    def sets(self, subject: Subject, dev: Mapping[str, Sequence[Pair]]) -> Mapping[str, Sequence[Pair]]:
        language = subject.language
        found = {"templates": sentences(language)} if templates(language) else {}
        return {**found, **{name: [c for c in cases(rows, language) if c.values] for name, rows in dev.items()}}

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        known = [row for row in rows if isinstance(row, Case)] or cases(rows, subject.language)
        ours_default = SENTENCES if known and known[0].source == "template" else PAIRS
        chosen = [row for row in subject.first(known, ours_default) if isinstance(row, Case) and row.values]
        if not chosen:
            raise Skip("no sentence has a value on both sides")
        longest = max(len(subject.engine.decoder.tokenize(case.english)) for case in chosen)
        # Twice the reference is room for all its values; an answer that loops would hold up its batch for long.
        limit = min(2 * longest, ANSWER_TOKENS)
        systems = {"": subject.answers(chosen, tokens=limit)}
        if subject.verbatim:
            systems[" without channel"] = subject.answers(chosen, tokens=limit, verbatim=False)
        systems |= {f" {name}": baseline_answers(subject, name, chosen[:BESIDE]) for name in readers(subject)}
        metrics: Metrics = {"sentences": len(chosen), "values": sum(len(case.values) for case in chosen)}
        for system, answers in systems.items():
            hits = [
                (kind, holds(value, answer))
                for case, answer in zip(chosen, answers, strict=False)
                for kind, value in case.values
            ]
            metrics[f"exact{system}"] = mean(hit for _, hit in hits)
            for kind in KINDS:
                own = [hit for of, hit in hits if of == kind]
                if own:
                    metrics[f"exact{system} [{kind}]"] = mean(own)
            made_up = [bool(invented(a, c, subject.language)) for c, a in zip(chosen, answers, strict=False)]
            metrics[f"invented{system}"] = mean(made_up)
        predictions = [
            prediction(
                case,
                {
                    "exact": mean(holds(value, answer) for _, value in case.values),
                    "invented": float(bool(invented(answer, case, subject.language))),
                },
                answer=answer,
                invented=invented(answer, case, subject.language),
                values=[
                    {
                        "kind": kind,
                        "value": value,
                        "hit": holds(value, answer),
                        "against": {
                            s.strip(): holds(value, texts[i]) for s, texts in systems.items() if s and i < len(texts)
                        },
                    }
                    for kind, value in case.values
                ],
            )
            for i, (case, answer) in enumerate(zip(chosen, systems[""], strict=True))
        ]
        counts = {kind: sum(of == kind for case in chosen for of, _ in case.values) for kind in KINDS}
        return Result(
            metrics, predictions, notes={"values": ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)}
        )


def cases(rows: Sequence[Pair], language: Language) -> list[Case]:
    """Pairs with the values that stand on both of their sides."""
    return [
        Case(p.english, p.foreign, p.source, p.licence, values(p.english, language.ascii_digits(p.foreign)))
        for p in rows
    ]


def values(english: str, foreign: str) -> tuple[Value, ...]:
    """What of ``english`` stands in ``foreign`` (digits as 0-9) letter by letter, by kind; names are Latin words there."""
    found: list[Value] = []
    left = english
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(left):
            if (kind, match[0]) not in found and holds(match[0], foreign):
                found.append((kind, match[0]))
        left = pattern.sub(lambda match: "\0" * len(match[0]), left)
    return tuple(found)


def invented(answer: str, pair: Pair, language: Language) -> list[str]:
    """Numbers, units, dates, addresses and codes in an answer that stand in neither text of the pair, or only as a piece
    of a longer one: the year of a date, the host of an address with a path.

    "3rd" and "30-page" for 3 and 30 are not invented, nor is a date, time or range in other words, "17 May 2012".
    """
    texts = f"{pair.english}\n{language.ascii_digits(pair.foreign)}"
    said = set(map(int, _DIGITS.findall(answer)))
    # A unit may be written apart, or left out.
    given = f"{texts}\n{_spelled(texts)}\n{_reworded(texts, said)}"
    found: list[str] = []
    left = answer
    for kind, pattern in _PATTERNS.items():
        if kind != "names":
            found += [
                m[0] for m in pattern.finditer(left) if not (_stands(_bare(m[0]), given) or _stands(_word(m), given))
            ]
            left = pattern.sub(lambda match: "\0" * len(match[0]), left)
    return found


def _reworded(texts: str, said: set[int]) -> str:
    """The parts of each date, time or range of which ``said`` has all the numbers, but for the month of a date."""
    parts = [list(map(int, _DIGITS.findall(match[0]))) for match in _COMPOUND.finditer(texts)]
    told = [own for own in parts if sum(number in said for number in own) >= max(2, len(own) - 1)]
    return " ".join(f"{number} {number:02}" for own in told for number in own)


def _word(match: re.Match[str]) -> str:
    """All about a match up to white space, without punctuation: an address may have lost its "https://"."""
    before, behind = match.string[: match.start()].split(), match.string[match.end() :].split()
    start = before[-1] if before and not match.string[match.start() - 1].isspace() else ""
    end = behind[0] if behind and not match.string[match.end()].isspace() else ""
    return f"{start}{match[0]}{end}".strip("\0.,;:!?()'\"")


def _bare(value: str) -> str:
    return re.sub(r"(?<=\d)(?:st|nd|rd|th|(?:-[a-z]+)+)$", "", value)


def holds(value: str, text: str) -> bool:
    """Whether ``text`` has ``value``, not as a piece of a longer one.

    Commas between thousands, the space before a unit and the case of a name do not matter.
    """
    case = re.IGNORECASE if value.replace(" ", "").isalpha() else 0
    return _stands(value, _spelled(text), case)


def _stands(value: str, text: str, case: int = 0) -> bool:
    return re.search(f"{_BEFORE}{re.escape(_spelled(value))}{_BEHIND}", text, case) is not None


def _spelled(text: str) -> str:
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(rf"(?<=\d)\s+(?=(?:{UNITS})(?!\w))", "", text)


@cache
def _own() -> dict[str, Any]:
    content: dict[str, Any] = read_yaml(FILE)
    return content


def templates(language: Language) -> dict[str, str]:
    """The foreign side of the templates by name, out of the ``exact.yaml`` of the language's package; empty without one.

    Raises:
        LlinkError: E523 when it cannot be read, or has a template that is not known or without ``{value}``.
    """
    return _read(language)[0]


def _read(language: Language) -> tuple[dict[str, str], dict[str, str]]:
    """Templates and names of a language."""
    path = package_folder(language.package, FILE.name)
    if not path.is_file():
        return {}, {}
    try:
        content = read_yaml(path)
        found = {str(name): str(text) for name, text in content["templates"].items()}
        names = {str(name): str(own) for name, own in (content.get("names") or {}).items()}
    except (Unfit, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LlinkError("E523", f"{path} cannot be read: {reason}", "Write it like that of Khmer.") from error
    for name, text in found.items():
        if name not in _own()["templates"] or text.count("{value}") != 1:
            raise LlinkError(
                "E523",
                f"{path}: '{name}' is no known template, or has not one {{value}}.",
                f"Known: {', '.join(_own()['templates'])}.",
            )
    return found, names


def sentences(language: Language) -> list[Case]:
    """The template sentences of a language, the same every time; every other one in the language's own digits."""
    foreign, names = _read(language)
    by_kind: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for name, own in foreign.items():
        template = _own()["templates"][name]
        kind = "names" if template["kind"] == OWN else template["kind"]
        spellings = names if template["kind"] == OWN else {str(v): str(v) for v in _values_for(name, kind)}
        for value, spelling in spellings.items():
            english = template["english"].format(value=value)
            if kind in ("numbers", "units", "dates") and share(f"{name} {value}") < 0.5:
                spelling = spelling.translate(str.maketrans("0123456789", language.digits))
            text = language.normalise(own.format(value=spelling))
            by_kind[kind].append(Case(english, text, "template", "CC0-1.0", ((kind, value),)))
    picked: list[Case] = []
    ordered = [sorted(found, key=lambda case: share(case.foreign)) for found in by_kind.values()]
    for turn in range(max(map(len, ordered))):
        picked += [found[turn] for found in ordered if turn < len(found)]
    return picked[:SENTENCES]


def _values_for(template: str, kind: str) -> list[str]:
    found: list[str] = _own()["values"].get(template) or _own()["values"][kind]
    return found


evaluator = Exact()
