"""Reading an evaluation's folder back, for the report and the comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from llink.bounded import MAX_JSON, parse_json, read_text
from llink.errors import LlinkError

METRICS, PREDICTIONS = "metrics.json", "predictions.jsonl"


class _Content(BaseModel):
    """What of an evaluation's ``metrics.json`` is read again."""

    model_config = ConfigDict(extra="allow")

    results: dict[str, dict[str, dict[str, float | int | None]]]
    warnings: list[str] = []
    skipped: list[str] = []
    notes: dict[str, dict[str, dict[str, str]]] = {}


class _Example(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str | int
    scores: dict[str, float | int | bool | None]


_EXAMPLES = TypeAdapter(list[_Example])


@dataclass(frozen=True)
class Evaluation:
    """What ``llink eval --out`` wrote.

    Attributes:
        folder: where.
        content: of ``metrics.json``.
        examples: (suite, set) -> an object an example.
    """

    folder: Path
    content: dict[str, Any]
    examples: dict[tuple[str, str], list[dict[str, Any]]]

    @property
    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Suite -> set -> metric -> value."""
        found: dict[str, dict[str, dict[str, float]]] = self.content["results"]
        return found


def read(folder: Path) -> Evaluation:
    """An evaluation's folder; E522 where there is none, or it is damaged."""
    if not (folder / METRICS).is_file():
        raise LlinkError(
            "E522",
            f"There is no evaluation in {folder}: {METRICS} is missing.",
            "Make one: llink eval CODE --out FOLDER.",
        )
    with damage_of(folder):
        content = _content(folder)
        measured = {(suite, name) for suite, sets in content["results"].items() for name in sets}
        examples = {}
        for found in sorted(folder.glob(f"*/*/{METRICS}")):
            place = found.parent.parent.name, _object(found)["set"]
            if place in measured:
                # Only these end a line: text may hold other line breaks of Unicode.
                lines = (found.parent / PREDICTIONS).read_bytes().rstrip(b"\n").split(b"\n")
                rows = [parse_json(line) for line in lines if line]
                _EXAMPLES.validate_python(rows)
                examples[place] = rows
    return Evaluation(folder, content, examples)


def content_of(folder: Path) -> dict[str, Any]:
    """What ``metrics.json`` of an evaluation's folder holds; empty where there is none, or half of one."""
    try:
        return _content(folder)
    except ValueError:
        return {}


def _content(folder: Path) -> dict[str, Any]:
    return _Content.model_validate(_object(folder / METRICS)).model_dump()


def _object(path: Path) -> Any:
    # Not by ``read_json``: a measure may be no number.
    return parse_json(read_text(path, MAX_JSON))


@contextmanager
def damage_of(folder: Path) -> Iterator[None]:
    """What reading an evaluation trips over is damage of its files: E522."""
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        reason = f"{type(error).__name__}: {' '.join(told.split())}" if told else type(error).__name__
        raise LlinkError(
            "E522", f"The evaluation in {folder} is damaged ({reason[:200]}).", "Run llink eval again."
        ) from error
