"""Readers of rows with columns: JSONL, TSV, Parquet and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llink.data.files import lines, text_of
from llink.errors import LlinkError, unknown_name
from llink.hookspecs import hookimpl
from llink.interfaces import Broken, PairReader, Row
from llink_plugins.tabular.cells import cell_rows
from llink_plugins.tabular.json_rows import BLOCK, is_spread, spread_rows

FIELDS = ("english", "foreign", "source", "licence")
SIDES = FIELDS[:2]
_LETTER = re.compile(r"[^\W\d_]")


def read_jsonl(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """One JSON object a line; or an array of them, or objects that go over several lines."""
    with text_of(where) as text:
        spread = is_spread(text.read(BLOCK))
    yield from spread_rows(where) if spread else _json_lines(where)


def _json_lines(where: str) -> Iterator[Row]:
    for place, line in lines(where):
        if isinstance(line, Broken):
            yield place, line
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield place, Broken(f"not JSON: {error.msg} (column {error.colno})")
        except (ValueError, RecursionError):
            yield place, Broken("not JSON: a number or a nesting without end")
        else:
            yield place, row if isinstance(row, dict) else Broken(f"no JSON object but {type(row).__name__}")


def read_tsv(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """English, a tab, foreign; or any columns under a first line that names those two."""
    head: dict[str, int] | None = None
    names = {field: columns.get(field, field) for field in FIELDS}
    for place, cells in cell_rows(where):
        if isinstance(cells, Broken):
            yield place, cells
            continue
        if head is None:
            if cells[0] == "sep=":
                continue  # a line for Excel, which says what parts cells
            head = _head(cells, names)
            if head:
                continue
            for side in SIDES:
                if side in columns and names[side] not in cells:
                    raise unknown_name("E214", f"column for {side} in the first line of {where}:", names[side], cells)
        # Without names the first two are meant.
        places = head or {names[side]: number for number, side in enumerate(SIDES)}
        row = {name: cells[number] for name, number in places.items() if number < len(cells)}
        missing = [names[side] for side in SIDES if names[side] not in row]
        if not head and len(cells) > 2 and not _LETTER.search(cells[0]):
            yield place, Broken(f"{len(cells)} cells, no words in the first; name the columns in the first line")
        elif missing:
            why = f"{len(cells)} cells, none for {missing[0]}" if head else "no tab between two texts"
            yield place, Broken(why)
        else:
            yield place, {"source": Path(where).name, **row}


def _head(cells: list[str], names: Mapping[str, str]) -> dict[str, int]:
    """Name -> place, where a first line names both sides, in whatever case; else nothing."""
    plain = [cell.strip().strip('"').casefold() for cell in cells]
    found = {name: plain.index(name.casefold()) for name in names.values() if name.casefold() in plain}
    return found if {names["english"], names["foreign"]} <= found.keys() else {}


def read_parquet(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch, only the columns that are needed."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(where) as file:
        schema = file.schema_arrow
        wanted = {field: _column(schema, columns.get(field, field)) for field in FIELDS}
        for side in SIDES:
            if wanted[side] is None:
                name = columns.get(side, side)
                flat = any("." in known for known in schema.names)
                raise unknown_name(
                    "E214", f"column for {side} in {where}:", name if flat else name.partition(".")[0], schema.names
                )
        chosen = sorted(set(filter(None, wanted.values())))
        number = 0
        for batch in file.iter_batches(4096, columns=chosen):
            for row in batch.to_pylist():
                number += 1
                yield f"{Path(where).name}:{number}", {"source": Path(where).name, **row}


def _column(schema: Any, dotted: str) -> str | None:
    """The column that a dotted name is in: one of that whole name, else the one of its longest beginning."""
    parts = dotted.split(".")
    beginnings = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in beginnings if name in schema.names), None)


def read_hub(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows of ``hub:repo[:config[:split]]`` as they stream in."""
    import datasets

    repo, *rest = where.removeprefix("hub:").split(":")
    config, split = (*rest, None, None)[:2]
    try:
        rows: Any = datasets.load_dataset(repo, config, split=split or "train", streaming=True)
        for number, row in enumerate(rows):
            if number == 0:
                _check_columns(row, columns, repo)
            yield f"{repo}:{number}", {"source": repo, "licence": "see the data set's card", **row}
    except LlinkError:
        raise
    except Exception as error:  # of the hub's client, the network or the data set's own format
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise LlinkError("E210", f"Data set {repo} cannot be had: {reason}") from error


def _check_columns(row: Mapping[str, Any], columns: Mapping[str, str], repo: str) -> None:
    """E214 where the first row of a data set has nothing under the beginning of a name: all of it would be read in vain."""
    for side in SIDES:
        name = columns.get(side, side)
        parts = name.split(".")
        if not any(".".join(parts[:count]) in row for count in range(1, len(parts) + 1)):
            raise unknown_name("E214", f"column for {side} in {repo}:", parts[0], row)


@hookimpl
def llink_readers() -> list[PairReader]:
    return [
        PairReader(
            "jsonl",
            read_jsonl,
            (".jsonl", ".jsonl.gz", ".json", ".json.gz"),
            layout='one {"english": "…", "foreign": "…"} a line',
        ),
        PairReader("tsv", read_tsv, (".tsv", ".tsv.gz"), layout="english<TAB>foreign, one pair a line"),
        PairReader("parquet", read_parquet, (".parquet",), layout="columns english and foreign"),
        PairReader("hub", read_hub, prefix="hub:", layout="columns english and foreign, or those that `columns` names"),
    ]
