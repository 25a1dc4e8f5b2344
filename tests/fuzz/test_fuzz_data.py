"""Data files that are damaged in any way, through every reader: sound pairs, counted faults, or a coded error."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import polib
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd import SAMPLES, at_the_door, cases, changed, spoilt
from pyarrow import parquet

from llink import LlinkError
from llink.data.audit import read_marks
from llink.data.instruct import read_instructions
from llink.data.kept import Kept
from llink.data.pairs import LeftOut, Pair, english_text, read_pairs, rows
from llink.evaluation import compare, page, results
from llink.plugins import language
from llink.recipe import Data
from llink.training.plot import read_log

ENGLISH = [f'He said "{n}", then\tleft it.' for n in range(4)]
BOTH = list(zip(ENGLISH, SAMPLES, strict=False))


def catalogue() -> polib.POFile:
    found = polib.POFile()
    found.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Plural-Forms": "nplurals=2; plural=n>1;"}
    for english, foreign in BOTH:
        found.append(polib.POEntry(msgid=english, msgstr=foreign, comment="note", flags=["c-format"]))
    found.append(polib.POEntry(msgid="A fish", msgid_plural="Two fish", msgstr_plural={0: SAMPLES[0], 1: SAMPLES[1]}))
    return found


def table() -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.table({"english": ENGLISH, "foreign": SAMPLES[:4], "licence": ["CC0-1.0"] * 4}), out)
    return out.getvalue()


ROWS = [{"english": english, "foreign": foreign, "licence": "CC0-1.0", "text": english} for english, foreign in BOTH]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
MEMORY = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/><body>'
    + "".join(
        f'<tu tuid="{n}"><tuv xml:lang="en"><seg>{n} &lt; 9<ph>x</ph></seg></tuv><tuv xml:lang="km-KH"><seg>{foreign}</seg></tuv></tu>\n'
        for n, (_, foreign) in enumerate(BOTH)
    )
    + "</body></tmx>\n"
)
TSV = "english\tforeign\n" + "".join(
    '"{}"\t{}\r\n'.format(english.replace('"', '""'), foreign) for english, foreign in BOTH
)
FILES: dict[str, list[bytes]] = {
    ".jsonl": [
        LINES.encode(),
        json.dumps(ROWS, indent=1).encode(),
        LINES.encode("utf-16"),
        b"\n".join([b'"x"', b"3", b"[]"]),
    ],
    ".tsv": [
        TSV.encode(),
        TSV.encode("utf-16"),
        "".join(f"{e[:9]}\t{f}\n" for e, f in BOTH).encode(),
        TSV.encode("utf-8-sig"),
    ],
    ".po": [str(catalogue()).encode(), str(catalogue()).encode("utf-16-be")],
    ".mo": [catalogue().to_binary()],
    ".tmx": [MEMORY.encode(), MEMORY.encode("utf-16")],
    ".parquet": [table()],
}


def file_of(folder: pytest.TempPathFactory, name: str, data: bytes) -> Path:
    path = folder.getbasetemp() / name
    path.write_bytes(data)
    return path


def sound(found: Iterator[tuple[str, Pair | LeftOut]]) -> int:
    count = 0
    for place, row in found:
        assert place
        if isinstance(row, LeftOut):
            assert row.reason
            assert row.detail
        else:
            for text in (row.english, row.foreign):
                assert text.strip()
                assert "\ufffd" not in text
                assert "\0" not in text
        count += 1
    return count


@pytest.mark.parametrize("suffix", FILES)
@cases(200)
@given(st.data(), st.booleans())
def test_readers(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject, packed: bool) -> None:
    content = data.draw(spoilt(FILES[suffix]))
    packed = packed and suffix != ".parquet"
    if packed:
        content = gzip.compress(content, 1)
        content = data.draw(spoilt([content], 1)) if data.draw(st.booleans()) else content
    path = file_of(tmp_path_factory, f"x{suffix}{'.gz' if packed else ''}", content)
    at_the_door(lambda: sound(rows(path.name, path.parent, None, "km")))
    columns = data.draw(st.sampled_from([None, {"english": "a.b"}, {"foreign": "licence"}]))
    found = at_the_door(read_pairs, path.name, path.parent, columns, sound=True)
    if isinstance(found, LlinkError):
        assert found.code in ("E211", "E212", "E214", "E233")


@cases(250)
@given(
    spoilt([LINES.encode(), "".join(f"{e}\n" for e in ENGLISH).encode()]),
    st.sampled_from(["e.txt", "e.jsonl", "e.txt.gz"]),
)
def test_english_and_instructions(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = file_of(tmp_path_factory, name, content)
    at_the_door(english_text, Data(train=["x"], english=[name]), path.parent, str)
    at_the_door(read_instructions, Data(train=["x"], instructions=[name]), path.parent, str)


MARKS = {
    "language": "km",
    "sources": {"a": 3},
    "marks": [{"mark": "good", **dict.fromkeys(("english", "foreign", "source", "licence"), "x")}],
}
MEASURED = {
    "results": {"retrieval": {"dev": {"r1": 0.5, "candidates": 2}}},
    "warnings": ["w"],
    "skipped": ["s"],
    "notes": {"retrieval": {"dev": {"k": "v"}}},
    "language": "km",
    "limit": 3,
}
EXAMPLES = [
    {"id": str(n), "english": "a", "foreign": "b", "source": "s", "scores": {"r1": 1.0}, "rank": n + 1, "answer": "c"}
    for n in range(2)
]


@cases(300)
@given(changed([MARKS, MEASURED, {"set": "dev"}, *EXAMPLES]), st.booleans(), spoilt([json.dumps(MARKS).encode()]))
def test_what_was_kept_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, tree: object, damaged: bool, spoilt_bytes: bytes
) -> None:
    content = spoilt_bytes if damaged else json.dumps(tree, default=str, skipkeys=True).encode()
    at_the_door(read_marks, file_of(tmp_path_factory, "marks.json", content), language("km"))
    for answer in Kept(file_of(tmp_path_factory, "kept.jsonl", content)).values():
        assert isinstance(answer, str)
    assert all(isinstance(row, dict) for row in read_log(file_of(tmp_path_factory, "metrics.jsonl", content).parent))


@pytest.mark.parametrize("of", ["metrics.json", "retrieval/dev/metrics.json", "retrieval/dev/predictions.jsonl"])
@cases(60)
@given(st.data())
def test_evaluations(tmp_path_factory: pytest.TempPathFactory, of: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "evaluation"
    (folder / "retrieval" / "dev").mkdir(parents=True, exist_ok=True)
    files = {
        "metrics.json": MEASURED,
        "retrieval/dev/metrics.json": {"set": "dev"},
        "retrieval/dev/predictions.jsonl": EXAMPLES[0],
    }
    for name, tree in files.items():
        (folder / name).write_text(
            json.dumps(data.draw(changed([tree])) if name == of else tree, default=str, skipkeys=True)
        )
    if data.draw(st.booleans()):
        (folder / of).write_bytes(data.draw(spoilt([(folder / of).read_bytes()])))
    found = at_the_door(results.read, folder)
    if not isinstance(found, LlinkError):
        at_the_door(compare.compare, found, found, 50)
        at_the_door(page.html, found, {})
        at_the_door(page.markdown, found, {})
