"""Readers of rows with columns: JSONL, TSV, Parquet and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llink.data.files import lines
from llink.errors import LlinkError, unknown_name
from llink.hookspecs import hookimpl
from llink.interfaces import PairReader, Row

FIELDS = ("english", "foreign", "source", "licence")


def read_jsonl(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """One JSON object a line."""
    for place, line in lines(where):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield place, row if isinstance(row, dict) else None


def read_tsv(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """English, a tab, foreign; or any columns under a first line that names those two."""
    head: dict[str, int] = {}
    names = {field: columns.get(field, field) for field in FIELDS}
    for place, line in lines(where):
        cells = line.rstrip("\r").split("\t")
        if place.endswith(":1") and {names["english"], names["foreign"]} <= set(cells):
            head = {name: number for number, name in enumerate(cells)}
            continue
        places = {names[field]: head.get(names[field], len(cells)) for field in FIELDS}
        if not head:
            places = {names["english"]: 0, names["foreign"]: 1}
        row = {name: cells[number] for name, number in places.items() if number < len(cells)}
        complete = names["english"] in row and names["foreign"] in row
        yield place, {"source": Path(where).name, **row} if complete else None


def read_parquet(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch, only the columns that are needed."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(where) as file:
        present = file.schema_arrow.names
        wanted = {field: columns.get(field, field).partition(".")[0] for field in FIELDS}
        for side in ("english", "foreign"):
            if wanted[side] not in present:
                raise unknown_name("E214", f"column for {side} in {where}:", wanted[side], present)
        number = 0
        for batch in file.iter_batches(4096, columns=sorted(set(wanted.values()) & set(present))):
            for row in batch.to_pylist():
                number += 1
                yield f"{Path(where).name}:{number}", {"source": Path(where).name, **row}


def read_hub(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows of ``hub:repo[:config[:split]]`` as they stream in."""
    import datasets

    repo, *rest = where.removeprefix("hub:").split(":")
    config, split = (*rest, None, None)[:2]
    try:
        rows: Any = datasets.load_dataset(repo, config, split=split or "train", streaming=True)
        for number, row in enumerate(rows):
            yield f"{repo}:{number}", {"source": repo, "licence": "see the data set's card", **row}
    except Exception as error:  # of the hub's client, the network or the data set's own format
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise LlinkError("E210", f"Data set {repo} cannot be had: {reason}") from error


@hookimpl
def llink_readers() -> list[PairReader]:
    return [
        PairReader("jsonl", read_jsonl, (".jsonl", ".jsonl.gz"), layout='one {"english": "…", "foreign": "…"} a line'),
        PairReader("tsv", read_tsv, (".tsv", ".tsv.gz"), layout="english<TAB>foreign, one pair a line"),
        PairReader("parquet", read_parquet, (".parquet",), layout="columns english and foreign"),
        PairReader("hub", read_hub, prefix="hub:", layout="columns english and foreign, or those that `columns` names"),
    ]
