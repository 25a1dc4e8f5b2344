"""What a run is trained on, as digests in its folder: it does not go on with other data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from llink.data.instruct import Instruction
from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.home import read_json, write_json

FILE = "data.json"
ORDER = "order of the pairs"
SHOWN = 4
"""Changes that an error names."""


def check_data(
    out: Path,
    accelerator: Accelerator,
    *,
    pairs: Sequence[Pair],
    english: Sequence[str],
    instructions: Sequence[Instruction],
    dev: Mapping[str, Sequence[Pair]],
) -> None:
    """Write down the data of a run on one rank, or compare it with what the run in ``out`` was begun with.

    Args:
        pairs, english, instructions, dev: as they are used: normalised, filtered, in order.

    Raises:
        LlinkError: E410 when the run has learnt from other data, E112 and E113 when it cannot be written down.
    """
    if accelerator.is_main_process:
        now = record(pairs, english, instructions, dev)
        before = read_json(out / FILE)
        if before and before != now and _begun(out):
            raise LlinkError(
                "E410",
                f"The data of the run in {out} changed since it began: {_changes(before, now)}.",
                "Go on with the data it began with, or begin anew in another --out.",
            )
        write_json(out / FILE, now)
    accelerator.wait_for_everyone()


def record(
    pairs: Sequence[Pair],
    english: Sequence[str],
    instructions: Sequence[Instruction],
    dev: Mapping[str, Sequence[Pair]],
) -> dict[str, Any]:
    """Name of each part of the data -> its number of rows and their sha256; the pairs by source, then their order."""
    by_source: dict[str, list[Any]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(asdict(pair))
    parts: dict[str, Iterable[Any]] = {f"pairs of {source}": rows for source, rows in by_source.items()}
    parts["general English"] = english
    parts["instructions"] = [asdict(row) for row in instructions]
    parts |= {f"dev set {name}": [asdict(pair) for pair in rows] for name, rows in dev.items()}
    found = {name: _digest(rows) for name, rows in parts.items()}
    found[ORDER] = _digest([pair.source, pair.english, pair.foreign] for pair in pairs)
    return {name: part for name, part in found.items() if part["rows"]}


def _digest(rows: Iterable[Any]) -> dict[str, Any]:
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
        count += 1
    return {"rows": count, "sha256": digest.hexdigest()}


def _begun(out: Path) -> bool:
    """Whether anything in the folder was learnt from data."""
    return any(next(out.glob(kind), None) for kind in ("*.safetensors", "*/*.safetensors"))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is new, gone or another, in words."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = (side.get(name, {}).get("rows") for side in (before, now))
        if old is None or new is None:
            found.append(f"{name} ({'new' if old is None else 'gone'}, {new or old} rows)")
        elif before[name] != now[name] and name != ORDER:
            found.append(f"{name} ({f'{new} rows, {old} before' if old != new else f'other texts in {new} rows'})")
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN] or [ORDER]) + more
