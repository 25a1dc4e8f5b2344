"""The readers of parallel text, each on a real file of its format, with rows that are broken."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import polib
import pyarrow as pa
import pytest
from pyarrow import parquet

from llink import LlinkError
from llink.data.pairs import Pairs, read_pairs, share, training_pairs
from llink.recipe import Data

WATER, FISH = "ទឹក", "ត្រី"


def sides(pairs: Pairs) -> list[tuple[str, str]]:
    return [(pair.english, pair.foreign) for pair in pairs.rows]


def catalogue() -> polib.POFile:
    """One entry of every kind."""
    po = polib.POFile()
    po.metadata = {
        "Content-Type": "text/plain; charset=UTF-8",
        "Language": "km",
        "Plural-Forms": "nplurals=1; plural=0;",
    }
    po.append(polib.POEntry(msgid="water", msgstr=WATER))
    po.append(polib.POEntry(msgid="fish", msgstr=FISH, msgctxt="food"))
    po.append(polib.POEntry(msgid="guessed", msgstr=WATER, flags=["fuzzy"]))
    po.append(polib.POEntry(msgid="gone", msgstr=WATER, obsolete=True))
    po.append(polib.POEntry(msgid="nobody did", msgstr=""))
    po.append(polib.POEntry(msgid="%d file", msgid_plural="%d files", msgstr_plural={0: "%d ឯកសារ"}))
    return po


def test_po(tmp_path: Path) -> None:
    catalogue().save(str(tmp_path / "km.po"))
    read = read_pairs("km.po", tmp_path)
    assert sides(read) == [("water", WATER), ("fish", FISH), ("%d files", "%d ឯកសារ")]
    assert read.skipped == {"fuzzy": 1, "obsolete": 1, "untranslated": 1}
    assert read.rows[0].source == "km.po"
    (tmp_path / "km.po.gz").write_bytes(gzip.compress((tmp_path / "km.po").read_bytes()))
    assert sides(read_pairs("km.po.gz", tmp_path)) == sides(read)


def test_po_with_broken_entries(tmp_path: Path) -> None:
    good = f'msgid "fish"\nmsgstr "{FISH}"\n'
    broken = ['msgid "quote " inside"\nmsgstr "x"\n', "what is this\n", 'msgid "bytes"\nmsgstr "\udcff"\n']
    text = "\n".join(['msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n', good, *broken, good])
    (tmp_path / "km.po").write_bytes(text.encode("utf-8", "surrogateescape"))
    read = read_pairs("km.po", tmp_path)
    assert sides(read) == [("fish", FISH)] * 2
    assert read.skipped == {"broken": 3}
    assert read.first_bad == ["km.po:7", "km.po:10", "km.po:12"]


def test_po_in_another_character_set(tmp_path: Path) -> None:
    text = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=ISO-8859-1\\n"\n\nmsgid "cheese"\nmsgstr "Käse"\n'
    (tmp_path / "de.po").write_bytes(text.encode("latin-1"))
    assert sides(read_pairs("de.po", tmp_path)) == [("cheese", "Käse")]


def test_plural_forms_that_say_the_same(tmp_path: Path) -> None:
    po = polib.POFile()
    po.append(polib.POEntry(msgid="a day", msgid_plural="%d days", msgstr_plural={0: "ቀን", 1: "%d ቀናት"}))
    po.save(str(tmp_path / "am.po"))
    assert sides(read_pairs("am.po", tmp_path)) == [("a day", "ቀን"), ("%d days", "%d ቀናት")]


def test_mo(tmp_path: Path) -> None:
    catalogue().save_as_mofile(str(tmp_path / "km.mo"))
    read = read_pairs("km.mo", tmp_path)
    assert sorted(sides(read)) == [("%d files", "%d ឯកសារ"), ("fish", FISH), ("water", WATER)]
    assert read.skipped == {}


def test_mo_with_a_broken_entry(tmp_path: Path) -> None:
    catalogue().save_as_mofile(str(tmp_path / "km.mo"))
    data = (tmp_path / "km.mo").read_bytes()
    (tmp_path / "km.mo").write_bytes(data.replace(FISH.encode(), b"\xff" * len(FISH.encode())))
    read = read_pairs("km.mo", tmp_path)
    assert len(read.rows) == 2
    assert read.skipped == {"broken": 1}


@pytest.mark.parametrize("content", [b"", b"\xde\x12\x04\x95", b"\xde\x12\x04\x95" + b"\xff" * 40, b"text"])
def test_damaged_mo(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "km.mo").write_bytes(content)
    with pytest.raises(LlinkError, match=r"\[E212\].*km.mo is damaged"):
        read_pairs("km.mo", tmp_path)


TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en-US"><seg>Open <bpt i="1">&lt;b&gt;</bpt>the <hi>door</hi><ept i="1">&lt;/b&gt;</ept> &amp; go</seg></tuv>
    <tuv xml:lang="khm"><seg>ទឹក</seg></tuv></tu>
<tu><tuv xml:lang="EN"><seg>alone</seg></tuv></tu>
<tu><tuv xml:lang="km_KH"><seg>ត្រី</seg></tuv><tuv xml:lang="en"><seg>fish</seg></tuv></tu>
<tu><tuv lang="en"><seg>empty</seg></tuv><tuv lang="km"><seg> </seg></tuv></tu>
{more}</body></tmx>
"""
LAO_TOO = """<tu><tuv lang="en"><seg>cat</seg></tuv><tuv lang="lo"><seg>ແມວ</seg></tuv></tu>
<tu><tuv lang="en"><seg>dog</seg></tuv><tuv lang="lo"><seg>ໝາ</seg></tuv><tuv lang="km"><seg>ឆ្កែ</seg></tuv></tu>"""


def test_tmx(tmp_path: Path) -> None:
    (tmp_path / "x.tmx").write_text(TMX.format(more=""), encoding="utf-8")
    read = read_pairs("x.tmx", tmp_path)
    assert sides(read) == [("Open the door & go", WATER), ("fish", FISH)]
    assert read.skipped == {"broken": 2}
    assert read.first_bad == ["x.tmx:6", "x.tmx:8"]
    (tmp_path / "x.tmx.gz").write_bytes(gzip.compress(TMX.format(more="").encode()))
    assert sides(read_pairs("x.tmx.gz", tmp_path)) == sides(read)


def test_tmx_of_several_languages(tmp_path: Path) -> None:
    (tmp_path / "x.tmx").write_text(TMX.format(more=LAO_TOO), encoding="utf-8")
    assert sides(read_pairs("x.tmx", tmp_path, language="lo")) == [("cat", "ແມວ"), ("dog", "ໝາ")]
    khmer = read_pairs("x.tmx", tmp_path, language="km")
    assert [english for english, _ in sides(khmer)] == ["Open the door & go", "fish", "dog"]
    assert khmer.skipped == {"broken": 2, "in another language": 1}
    assert "in several languages, none of them asked for" in read_pairs("x.tmx", tmp_path).skipped


def test_tmx_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "x.tmx").write_text(TMX.format(more="").replace("UTF-8", "UTF-16"), encoding="utf-16")
    assert len(read_pairs("x.tmx", tmp_path).rows) == 2


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ('<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">', "entity 'a'"),
        ('<!ENTITY file SYSTEM "file:///etc/passwd">', "entity 'file'"),
        ('<!ENTITY % more SYSTEM "http://localhost/x.dtd"> %more;', "entity 'more'"),
    ],
)
def test_tmx_entities_are_refused(tmp_path: Path, declared: str, says: str) -> None:
    bomb = TMX.format(more="").replace('tmx SYSTEM "tmx14.dtd"', f"tmx [{declared}]")
    (tmp_path / "x.tmx").write_text(bomb, encoding="utf-8")
    with pytest.raises(LlinkError, match=rf"\[E212\].*{says}"):
        read_pairs("x.tmx", tmp_path)


def test_cut_tmx(tmp_path: Path) -> None:
    (tmp_path / "x.tmx").write_text(TMX.format(more="")[:-30], encoding="utf-8")
    with pytest.raises(LlinkError, match=r"\[E212\].*damaged: .*line 8"):
        read_pairs("x.tmx", tmp_path)


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "english": ["water", None, "fish", "  "],
            "foreign": [WATER, WATER, FISH, FISH],
            "licence": ["CC0-1.0", None, None, None],
            "unused": [1, 2, 3, 4],
        }
    )
    parquet.write_table(table, tmp_path / "x.parquet")
    read = read_pairs("x.parquet", tmp_path)
    assert sides(read) == [("water", WATER), ("fish", FISH)]
    assert [(pair.source, pair.licence) for pair in read.rows] == [("x.parquet", "CC0-1.0"), ("x.parquet", "unknown")]
    assert read.first_bad == ["x.parquet:2", "x.parquet:4"]


def test_parquet_columns(tmp_path: Path) -> None:
    rows = [{"en": "water", "km": WATER}, {"en": "fish", "km": FISH}]
    parquet.write_table(pa.table({"id": [1, 2], "translation": rows}), tmp_path / "x.parquet")
    columns = {"english": "translation.en", "foreign": "translation.km"}
    assert sides(read_pairs("x.parquet", tmp_path, columns)) == [("water", WATER), ("fish", FISH)]
    with pytest.raises(LlinkError, match=r"\[E214\].*'translaton'.*Did you mean 'translation'\?"):
        read_pairs("x.parquet", tmp_path, {**columns, "english": "translaton.en"})


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(LlinkError, match=r"\[E212\].*x.parquet is damaged"):
        read_pairs("x.parquet", tmp_path)


def test_tsv_with_named_columns(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(f"id\tforeign\tenglish\tlicence\n1\t{WATER}\twater\tMIT\n2\t{FISH}\n")
    read = read_pairs("x.tsv", tmp_path)
    assert sides(read) == [("water", WATER)]
    assert (read.rows[0].source, read.rows[0].licence) == ("x.tsv", "MIT")
    assert read.first_bad == ["x.tsv:3"]
    (tmp_path / "y.tsv").write_text(f"text.en\ttext.km\nwater\t{WATER}\n")
    assert sides(read_pairs("y.tsv", tmp_path, {"english": "text.en", "foreign": "text.km"})) == [("water", WATER)]


def test_json_that_is_nested_too_deep(tmp_path: Path) -> None:
    good = json.dumps({"english": "water", "foreign": WATER})
    (tmp_path / "x.jsonl").write_text("[" * 200_000 + "\n" + good + "\n")
    read = read_pairs("x.jsonl", tmp_path)
    assert (len(read.rows), read.skipped) == (1, {"broken": 1})


@pytest.mark.parametrize("name", ["km.xlsx", "km", "km.jsonl.zip"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(LlinkError, match=r"\[E213\].*\.jsonl, .*\.mo, .*\.parquet, \.po, .*\.tmx, .*\.tsv, .*hub:"):
        read_pairs(name, tmp_path)


def test_hub_data_set_streams(tmp_path: Path) -> None:
    """A folder stands for the hub: ``datasets`` reads both alike."""
    (tmp_path / "set").mkdir()
    rows = [{"translation": {"en": "water", "km": WATER}}, {"translation": {"en": "fish", "km": None}}]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"english": "translation.en", "foreign": "translation.km"}
    read = read_pairs(f"hub:{tmp_path / 'set'}", tmp_path, columns)
    assert sides(read) == [("water", WATER)]
    assert (read.rows[0].source, read.rows[0].licence) == (str(tmp_path / "set"), "see the data set's card")
    assert read.skipped == {"broken": 1}
    with pytest.raises(LlinkError, match=r"\[E210\] Data set .* cannot be had"):
        read_pairs(f"hub:{tmp_path / 'nothing'}", tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_training_keeps_no_more_of_a_stream_than_its_sample(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    filler = "word " * 300
    rows = [{"english": f"{n % 2400} {filler}", "foreign": f"{WATER} {n % 2400}", "other": n} for n in range(3000)]
    if suffix == "jsonl":
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=100)
    sizes = {"train": [f"hub:{folder}"], "max_chars": 2000, "min_words": 1}
    read_pairs(f"hub:{folder}", tmp_path)  # what is imported stays out of the count
    tracemalloc.start()
    few = training_pairs(Data(**sizes, max_pairs=50), tmp_path, str.strip)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = training_pairs(Data(**sizes), tmp_path, str.strip)
    assert (len(whole.rows), whole.skipped) == (2400, {"duplicates": 600})
    assert few.rows == sorted(whole.rows, key=lambda p: share(p.english))[:50]
    held = sum(sys.getsizeof(pair.english) for pair in whole.rows)
    if suffix == "parquet":  # of JSON, `datasets` takes 10 MB at a time
        assert peak < held / 3


def test_reader_of_a_third_party(tmp_path: Path) -> None:
    """The example of docs/plugins.md, installed as a plugin, serves the command line."""
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "llink_readers" in block]
    (tmp_path / "plug_blocks.py").write_text(code, encoding="utf-8")
    info = tmp_path / "llink_blocks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llink-blocks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nblocks = plug_blocks\n")
    (tmp_path / "x.blocks").write_text(
        "alone\n\n" + f"water\n{WATER}\n\n" * 5 + f"fish\n{FISH}\n\n" * 5, encoding="utf-8"
    )
    result = subprocess.run(
        [sys.executable, "-m", "llink", "data", "validate", str(tmp_path / "x.blocks")],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert result.stdout.splitlines() == [
        "x.blocks:1: no row of blocks",
        f"{tmp_path / 'x.blocks'}: 10 pairs; left out: 1 broken",
    ]
    assert (result.returncode, result.stderr) == (0, "")


def test_mo_is_bounded(tmp_path: Path) -> None:
    po = polib.POFile()
    po.append(polib.POEntry(msgid="water", msgstr=WATER))
    po.save_as_mofile(str(tmp_path / "x.mo"))
    assert sides(read_pairs("x.mo", tmp_path)) == [("water", WATER)]
    data = bytearray((tmp_path / "x.mo").read_bytes())
    count, table = struct.unpack_from("<2I", data, 8)
    struct.pack_into("<I", data, table + 8 * (count - 1), 1 << 20)
    (tmp_path / "y.mo").write_bytes(data)
    with pytest.raises(LlinkError, match=r"\[E212\].*longer than the file"):
        sides(read_pairs("y.mo", tmp_path))
    (tmp_path / "x.mo").write_bytes((tmp_path / "x.mo").read_bytes() + bytes(1 << 26))
    with pytest.raises(LlinkError, match=r"\[E212\].*64 MiB"):
        sides(read_pairs("x.mo", tmp_path))
