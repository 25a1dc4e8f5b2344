"""Data files as they come: other encodings, spreadsheets' quoting, arrays, broken units, endless lines; none makes a wrong pair."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import random
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
from pyarrow import parquet

from llink import LlinkError
from llink.cli.lines import lines_of
from llink.data.encoding import encoding_of
from llink.data.files import MAX_LINE
from llink.data.pairs import LeftOut, Pair, Pairs, english_text, read_pairs, rows, training_pairs
from llink.recipe import Data

WATER, FISH = "ទឹក", "ត្រី"
PAIRS = [("The water is cold.", WATER), ("Two fish, please.", FISH)]
COLUMNS = {"english": "translation.en", "foreign": "translation.km"}


def sides(folder: Path, name: str, columns: dict[str, str] | None = None) -> list[tuple[str, str]]:
    return [(p.english, p.foreign) for p in read_pairs(name, folder, columns).rows]


def broken(folder: Path, name: str) -> dict[str, str]:
    """Place -> reason of each broken row."""
    found: dict[str, str] = {}
    for place, row in rows(name, folder):
        if isinstance(row, LeftOut):
            found[place] = f"{found[place]}; {row.detail}" if place in found else row.detail
    return found


def tsv(folder: Path, *lines: str, end: str = "\r\n") -> list[tuple[str, str]]:
    (folder / "x.tsv").write_bytes("".join(line + end for line in lines).encode())
    return sides(folder, "x.tsv")


@pytest.mark.parametrize("data", [b"1\n1\n1\n\0\n", b"a\tb\0\nc\td\n", b"x\0yz\r\n\r\n"])
def test_a_zero_byte_makes_no_utf16(data: bytes) -> None:
    assert encoding_of(data) == "utf-8"


def test_columns_that_nobody_named(tmp_path: Path) -> None:
    """A number in front is no English."""
    rows = "".join(f"{n}\t{english}\t{foreign}\n" for n, (english, foreign) in enumerate(PAIRS))
    (tmp_path / "x.tsv").write_text(rows, encoding="utf-8")
    assert set(broken(tmp_path, "x.tsv").values()) == {
        "3 cells, no words in the first; name the columns in the first line"
    }
    (tmp_path / "x.tsv").write_text(f"id\tenglish\tforeign\n{rows}", encoding="utf-8")
    assert sides(tmp_path, "x.tsv") == PAIRS
    (tmp_path / "x.tsv").write_text("".join(f"{e}\t{f}\tCC-BY 2.0\n" for e, f in PAIRS), encoding="utf-8")
    assert sides(tmp_path, "x.tsv") == PAIRS


def test_catalogue_of_texts_without_quotation_marks(tmp_path: Path) -> None:
    """The library would read them less their first and last letters."""
    good = "".join(f'msgid "{english}"\nmsgstr "{foreign}"\n\n' for english, foreign in PAIRS)
    (tmp_path / "x.po").write_text(f"{good}msgid Water is cold\nmsgstr Something else\n\n", encoding="utf-8")
    assert sides(tmp_path, "x.po") == PAIRS
    assert broken(tmp_path, "x.po") == {"x.po:7": "no text between quotation marks (line 7)"}


TABLE = "english\tforeign\r\n" + "".join(f"{english}\t{foreign}\r\n" for english, foreign in PAIRS)
LINES = "".join(json.dumps({"english": e, "foreign": f}, ensure_ascii=False) + "\n" for e, f in PAIRS)
ARRAY = "[" + ",".join(LINES.splitlines()) + "]"
MEMORY = (
    '<?xml version="1.0" encoding="{}"?>\n<tmx version="1.4"><header/><body>'
    + "".join(f'<tu><tuv lang="en"><seg>{e}</seg></tuv><tuv lang="km"><seg>{f}</seg></tuv></tu>\n' for e, f in PAIRS)
    + "</body></tmx>\n"
)


@pytest.mark.parametrize("mark", [True, False], ids=["mark", "no mark"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    ("name", "text"), [("x.tsv", TABLE), ("x.jsonl", LINES), ("x.json", ARRAY), ("x.tmx", MEMORY.format("UTF-8"))]
)
def test_unicode_of_every_width(name: str, text: str, encoding: str, mark: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((("\ufeff" if mark else "") + text).encode(encoding))
    assert sides(tmp_path, name) == PAIRS
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert sides(tmp_path, f"{name}.gz") == PAIRS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_texts_for_the_engine_in_other_widths(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(f"{WATER}\r\n{FISH}\r\n".encode(encoding))
    assert [*lines_of(None, tmp_path / "x.txt")] == [WATER, FISH]
    (tmp_path / "x.txt").write_bytes(WATER.encode("utf-16") + b"\0")
    with pytest.raises(LlinkError, match=r"\[E508\].*x.txt is not UTF-16"):
        [*lines_of(None, tmp_path / "x.txt")]


def test_two_files_with_marks_one_behind_the_other(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(2 * (codecs.BOM_UTF8 + LINES.encode()))
    assert sides(tmp_path, "x.jsonl") == PAIRS * 2


@pytest.mark.parametrize("line", ["水を飲みます。今日は寒い。", "पानी ठंडा है।", "ውሃው ቀዝቃዛ ነው።", "Вода холодная.", WATER])
def test_utf_16_of_many_scripts_without_a_mark(line: str, tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "x.txt").write_bytes(f"{line}\r\n{line}\r\n".encode(encoding))
        assert [*lines_of(None, tmp_path / "x.txt")] == [line, line]


def test_zero_bytes_do_not_make_utf_16(tmp_path: Path) -> None:
    text = "".join(f"ទឹក {n}\tត្រី\n" for n in range(50)) + "\0\n"
    (tmp_path / "x.tsv").write_text(text, encoding="utf-8")
    assert len(sides(tmp_path, "x.tsv")) == 50
    assert broken(tmp_path, "x.tsv") == {"x.tsv:51": "a zero byte"}


def test_half_a_utf_16_character_breaks_its_row(tmp_path: Path) -> None:
    text = TABLE.encode("utf-16").replace("cold".encode("utf-16-le"), b"c\0o\0\x00\xd8d\0")
    (tmp_path / "x.tsv").write_bytes(text)
    assert sides(tmp_path, "x.tsv") == PAIRS[1:]
    assert "U+FFFD" in broken(tmp_path, "x.tsv")["x.tsv:2"]


@pytest.mark.parametrize(
    ("encoding", "word"), [("cp1252", "café"), ("koi8-r", "мир"), ("gbk", "你好"), ("cp874", "น้ำ")]
)
def test_bytes_of_an_encoding_that_nothing_declares(encoding: str, word: str, tmp_path: Path) -> None:
    """They are named, and never guessed at."""
    rows = [*({"english": f"{n}", "foreign": FISH} for n in range(20)), {"english": word, "foreign": WATER}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([*map(str.encode, lines[:-1]), lines[-1].encode(encoding, "ignore")]))
    assert len(sides(tmp_path, "x.jsonl")) == 20
    [(place, why)] = broken(tmp_path, "x.jsonl").items()
    assert place == "x.jsonl:21"
    assert "is not UTF-8" in why


def test_characters_that_were_lost_before(tmp_path: Path) -> None:
    """U+FFFD stands for bytes that somebody else could not decode; written out, escaped, or in a column."""
    lost = [r'{"english": "caf\ufffd", "foreign": "ទឹក"}', '{"english": "water", "foreign": "ទ\ufffdក"}']
    (tmp_path / "x.jsonl").write_text("\n".join([LINES, *lost]), encoding="utf-8")
    assert sides(tmp_path, "x.jsonl") == PAIRS
    assert broken(tmp_path, "x.jsonl") == {
        "x.jsonl:4": "english: a character was lost in decoding (U+FFFD)",
        "x.jsonl:5": "foreign: a character was lost in decoding (U+FFFD)",
    }
    table = {"english": ["caf\ufffd", "wa\0ter", "fish"], "foreign": [WATER, WATER, FISH]}
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    assert sides(tmp_path, "x.parquet") == [("fish", FISH)]


def po(charset: str, foreign: str) -> str:
    header = f'msgid ""\nmsgstr "Content-Type: text/plain; charset={charset}\\n"\n'
    return f'{header}\nmsgid "cheese"\nmsgstr "{foreign}"\n'


@pytest.mark.parametrize(
    ("declared", "real", "text"),
    [
        ("ISO-8859-1", "cp1252", "Käse “gut”"),
        ("windows-1251", "cp1251", "сыр"),
        ("GBK", "gbk", "奶酪"),
        ("UTF-8", "utf-8", WATER),
        ("ISO-8859-1", "utf-8", WATER),
        ("CHARSET", "utf-8", WATER),
        ("ASCII", "utf-8", WATER),
        ("UTF-8", "utf-16", WATER),
        ("utf-7", "utf-8", WATER),
        ("hex", "utf-8", WATER),
    ],
)
def test_declared_encodings(declared: str, real: str, text: str, tmp_path: Path) -> None:
    """What a catalogue or a translation memory declares counts, unless the bytes say that it is wrong."""
    (tmp_path / "x.po").write_bytes(po(declared, text).encode(real))
    assert sides(tmp_path, "x.po") == [("cheese", text)]
    memory = MEMORY.format(declared).replace(WATER, text).replace(FISH, text)
    # A first unit of ASCII alone does not hide it.
    padding = '<tu><tuv lang="en"><seg>a</seg></tuv><tuv lang="km"><seg>b</seg></tuv></tu>\n' * 200
    (tmp_path / "x.tmx").write_bytes(memory.replace("<body>", f"<body>{padding}").encode(real))
    assert sides(tmp_path, "x.tmx")[200:] == [(english, text) for english, _ in PAIRS]


def test_catalogue_that_declares_what_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.po").write_bytes(po("UTF-8", WATER).encode() + '\nmsgid "café"\nmsgstr "é"\n'.encode("cp1252"))
    assert sides(tmp_path, "x.po") == [("cheese", WATER)]
    assert "U+FFFD" in broken(tmp_path, "x.po")["x.po:7"]


# Quoting.


def test_what_a_spreadsheet_quotes(tmp_path: Path) -> None:
    rows = [
        f'"He said ""yes"" to me."\t"{WATER} ""{FISH}"""',
        f'"Two\nlines, and a blank one:\n\nhere"\t"{WATER}\n{FISH}"',
        f"A plain row.\t{WATER}",
        f'"A comma, of course."\t{FISH}',
    ]
    found = tsv(tmp_path, "english\tforeign", *rows)
    assert found == [
        ('He said "yes" to me.', f'{WATER} "{FISH}"'),
        ("Two\nlines, and a blank one:\n\nhere", f"{WATER}\n{FISH}"),
        ("A plain row.", WATER),
        ("A comma, of course.", FISH),
    ]
    assert [place for place, _ in rows_of(tmp_path)] == ["x.tsv:2", "x.tsv:3", "x.tsv:8", "x.tsv:9"]
    (tmp_path / "x.tsv").write_bytes("\r\n".join(["english\tforeign", *rows]).encode("utf-16"))
    assert sides(tmp_path, "x.tsv") == found


def rows_of(folder: Path) -> list[tuple[str, Pair | LeftOut]]:
    return list(rows("x.tsv", folder))


def test_a_program_that_quotes_every_text(tmp_path: Path) -> None:
    found = tsv(tmp_path, '"id"\t"english"\t"foreign"', f'1\t"water"\t"{WATER}"', f'2\t"fish"\t"{FISH}"')
    assert found == [("water", WATER), ("fish", FISH)]
    assert tsv(tmp_path, "english\tforeign", f'"a b"\t"{WATER}"', f'"c"\t"{FISH}"') == [("a b", WATER), ("c", FISH)]


def test_a_spreadsheet_that_quotes_commas(tmp_path: Path) -> None:
    commas = [(f"One, {n}.", WATER) for n in range(3)]
    assert tsv(tmp_path, *(f'"{english}"\t{foreign}' for english, foreign in commas), f"fish\t{FISH}") == [
        *commas,
        ("fish", FISH),
    ]
    speech = [('"Yes, I do."', WATER), ("She left.", FISH)]
    assert tsv(tmp_path, *map("\t".join, speech)) == speech


def test_tabs_inside_cells(tmp_path: Path) -> None:
    found = tsv(tmp_path, "english\tforeign", f'"Name:\tvalue"\t"{WATER}:\t{FISH}"', f"fish\t{FISH}")
    assert found == [("Name:\tvalue", f"{WATER}:\t{FISH}"), ("fish", FISH)]


@pytest.mark.parametrize(
    "literal",
    [
        [('"Yes," she said.', WATER), ('"No."', f'"{FISH}"'), ('He said "yes" to me.', FISH)],
        [('"Yes," he said, "no."', WATER), ('"', FISH), ('5" and 6"', WATER)],
        # A speech over two lines: nothing is swallowed between its marks.
        [('"It begins here.', WATER), ("It goes on.", FISH), ('It ends here."', WATER)],
        [('"It begins here.', f'"{WATER}'), ('It ends here."', f'{FISH}"')],
        [("One, two.", WATER), ('"Three, four."', FISH), ('"Five."', WATER)],
    ],
)
def test_quotation_marks_that_are_text(literal: list[tuple[str, str]], tmp_path: Path) -> None:
    assert tsv(tmp_path, *("\t".join(pair) for pair in literal)) == literal


def test_quoting_among_quotation_marks_that_are_text(tmp_path: Path) -> None:
    found = tsv(
        tmp_path,
        f'She said "no".\t{WATER}',
        f'"He said ""yes""."\t{FISH}',
        f'"Yes," he said.\t{WATER}',
        f'"Two\nlines"\t{FISH}',
    )
    assert found == [
        ('She said "no".', WATER),
        ('He said "yes".', FISH),
        ('"Yes," he said.', WATER),
        ("Two\nlines", FISH),
    ]


CELLS = [
    'He said "yes"',
    "plain",
    "a, b",
    "two\nlines",
    "a tab\there",
    '"quoted"',
    '5" pipe',
    '""',
    '"open',
    'end"',
    "ទឹក",
    '"',
    'a "b"\nc',
]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_whatever_a_csv_writer_writes_is_read_back(quoting: Literal[0, 1], tmp_path: Path) -> None:
    draw = random.Random(3)
    for _ in range(150):
        rows = [(draw.choice(CELLS), draw.choice(CELLS)) for _ in range(draw.randint(1, 6))]
        with (tmp_path / "x.tsv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, "excel-tab", quoting=quoting).writerows([("english", "foreign"), *rows])
        assert sides(tmp_path, "x.tsv") == rows


def test_whatever_is_written_without_quoting_is_read_back(tmp_path: Path) -> None:
    """As long as one cell shows it: a mark that nobody who quotes would leave there."""
    draw = random.Random(3)
    for _ in range(150):
        cells = [cell for cell in CELLS if not set("\t\n") & set(cell) and cell != '""']
        rows = [(draw.choice(cells), draw.choice(cells)) for _ in range(draw.randint(2, 6))]
        rows.append(('"Yes," she said.', FISH))
        assert tsv(tmp_path, *map("\t".join, rows)) == rows


def test_quoting_that_could_be_either_is_refused(tmp_path: Path) -> None:
    lines = [f"plain {n}\t{WATER}" for n in range(20)]
    assert len(tsv(tmp_path, *lines, f'"a\tb"\t"{WATER}\t{FISH}"\tx', end="\n")) == 20
    assert "quotation marks" in broken(tmp_path, "x.tsv")["x.tsv:21"]


def test_columns_that_a_table_has_not(tmp_path: Path) -> None:
    """Else its first line and the wrong columns would be pairs."""
    (tmp_path / "x.tsv").write_text(f"id\ten\tkm\n1\twater\t{WATER}\n")
    assert sides(tmp_path, "x.tsv", {"english": "en", "foreign": "km"}) == [("water", WATER)]
    with pytest.raises(LlinkError, match=r"\[E214\].*'kh'.*Did you mean 'km'"):
        sides(tmp_path, "x.tsv", {"english": "en", "foreign": "kh"})
    assert tsv(tmp_path, "sep=\t", "English\tForeign ", f"water\t{WATER}") == [("water", WATER)]


# JSON.

OBJECTS = [{"english": english, "foreign": foreign} for english, foreign in PAIRS]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz"])
def test_array(indent: int | None, name: str, tmp_path: Path) -> None:
    data = json.dumps(OBJECTS * 3000, ensure_ascii=False, indent=indent).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert sides(tmp_path, name) == PAIRS * 3000


def test_array_with_broken_elements(tmp_path: Path) -> None:
    good = [json.dumps(row, ensure_ascii=False) for row in OBJECTS]
    bad = ["7", '{"english": "no comma" "foreign": "x"}', '{"english": }', '{"english": "open', '{"english": "half"}']
    (tmp_path / "x.jsonl").write_text("[\n" + ",\n".join([good[0], *bad, good[1]]) + "\n]\n", encoding="utf-8")
    assert sides(tmp_path, "x.jsonl") == PAIRS
    assert list(broken(tmp_path, "x.jsonl")) == [f"x.jsonl:{n}" for n in range(3, 8)]
    (tmp_path / "x.jsonl").write_text("[" + ", ".join([good[0], *bad[:3], good[1]]), encoding="utf-8")
    assert sides(tmp_path, "x.jsonl") == PAIRS
    assert broken(tmp_path, "x.jsonl")["x.jsonl:1"].endswith("the array does not end: is all of the file here?")


def test_objects_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row, indent=1) for row in OBJECTS))
    assert sides(tmp_path, "x.jsonl") == PAIRS


# Columns with dots.


def test_columns_with_dots_in_their_names(tmp_path: Path) -> None:
    english, foreign = map(list, zip(*PAIRS, strict=True))
    nested = [{"en": "wrong", "km": f} for f in foreign]
    parquet.write_table(pa.table({"translation.en": english, "translation.km": foreign}), tmp_path / "flat.parquet")
    parquet.write_table(pa.table({"translation.en": english, "translation": nested}), tmp_path / "both.parquet")
    deep = pa.table({"a.b": [{"en": e, "c": {"km": f}} for e, f in PAIRS]})
    parquet.write_table(deep, tmp_path / "deep.parquet")
    assert sides(tmp_path, "flat.parquet", COLUMNS) == PAIRS
    assert sides(tmp_path, "both.parquet", COLUMNS) == PAIRS
    assert sides(tmp_path, "deep.parquet", {"english": "a.b.en", "foreign": "a.b.c.km"}) == PAIRS
    with pytest.raises(LlinkError, match=r"\[E214\].*'translation.eng'.*Did you mean 'translation.en'"):
        sides(tmp_path, "flat.parquet", {**COLUMNS, "english": "translation.eng"})
    rows = [{"translation.en": PAIRS[0][0], "translation": {"km": WATER}}]
    (tmp_path / "x.jsonl").write_text(json.dumps(rows[0]))
    assert sides(tmp_path, "x.jsonl", COLUMNS) == PAIRS[:1]


def test_data_set_without_such_a_column_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps({"translation": {"en": "water", "km": WATER}}))
    with pytest.raises(LlinkError, match=r"\[E214\].*'translaton'.*Did you mean 'translation'"):
        read_pairs(f"hub:{tmp_path / 'set'}", tmp_path, {**COLUMNS, "english": "translaton.en"})


# Translation memories.


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (b"&#x1F;", "invalid character number"),
        (b"\x1f", "not well-formed"),
        (b"\xff", "byte 0xFF"),
        (b"R&D", "not well-formed"),
        (b"a < b", "not well-formed"),
        (b"<b>x", "mismatched tag"),
        (b"&nbsp;", "undefined entity"),
        (b"&#xD800;", "invalid char"),
        (b"\xef\xbf\xbd", "U+FFFD"),
        (b"\0", "zero byte"),
        (b"x" * (MAX_LINE + 1), "longer than"),
        (b"</seg></tuv>", "mismatched"),
        (b'</seg></tuv><tu a="1"><tuv lang="en"><seg>', "before the next one begins"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value[:12]),
)
def test_one_bad_unit(spoilt: bytes, why: str, tmp_path: Path) -> None:
    bad = b'<tu><tuv lang="en"><seg>bad ' + spoilt + b'</seg></tuv><tuv lang="km"><seg>x</seg></tuv></tu>\n'
    good = MEMORY.format("utf-8").replace("<tmx", '<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx').encode()
    middle = good.rindex(b"<tu>")
    (tmp_path / "x.tmx").write_bytes(good[:middle] + bad + good[middle:])
    read = [pair for pair in sides(tmp_path, "x.tmx") if pair[0] != "" and pair[1] != "x"]
    assert read == PAIRS
    assert why in broken(tmp_path, "x.tmx")["x.tmx:4"]


def test_units_in_comments_are_no_units(tmp_path: Path) -> None:
    hidden = "<!-- <tu><tuv lang='en'><seg>old</seg></tuv><tuv lang='km'><seg>x</seg></tuv></tu> -->"
    data = "<tu><tuv lang='en'><seg><![CDATA[a <tu> & b]]></seg></tuv><tuv lang='km'><seg>ទឹក<!-- </tu> --></seg></tuv></tu>"
    many = f"{hidden * 3000}{data}{hidden}"
    (tmp_path / "x.tmx").write_text(MEMORY.format("utf-8").replace("<body>", f"<body>{many}"), encoding="utf-8")
    assert sides(tmp_path, "x.tmx") == [("a <tu> & b", WATER), *PAIRS]


# Without end.


def bomb(path: Path, begin: bytes, block: bytes, times: int, end: bytes) -> None:
    with gzip.open(path, "wb", 1) as file:
        file.write(begin)
        for _ in range(times):
            file.write(block)
        file.write(end)


def test_catalogue_of_comments(tmp_path: Path) -> None:
    entry = po("UTF-8", WATER).encode()
    bomb(tmp_path / "x.po.gz", entry, b"# no more than a comment\n" * 40_000, 10, b'\nmsgid "fish"\nmsgstr "f"\n')
    assert sides(tmp_path, "x.po.gz") == [("cheese", WATER), ("fish", "f")]
    bomb(tmp_path / "y.po.gz", entry, b"# no more than a comment\n" * 40_000, 100, b"")
    with pytest.raises(LlinkError, match=r"\[E212\].*y.po.gz is damaged: it holds more than 64 MiB"):
        sides(tmp_path, "y.po.gz")


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.tsv.gz"])
def test_line_without_end(name: str, tmp_path: Path) -> None:
    good = LINES.encode() if "jsonl" in name else "".join(map("%s\t%s\n".__mod__, PAIRS)).encode()
    bomb(tmp_path / name, good + b'{"english": "', b"x" * (1 << 20), 20, b'\tx"}\n' + good)
    assert sides(tmp_path, name) == PAIRS * 2
    assert broken(tmp_path, name) == {f"{name}:3": "longer than 1,048,576 characters"}
    bomb(tmp_path / name, good + b'{"english": "', b"x" * (1 << 20), 70, b"")
    with pytest.raises(LlinkError, match=r"\[E212\].*line 3 is longer"):
        sides(tmp_path, name)


def test_element_without_end(tmp_path: Path) -> None:
    first, last = (json.dumps(row, ensure_ascii=False).encode() for row in OBJECTS)
    bomb(tmp_path / "x.jsonl.gz", b"[" + first + b', {"english": "', b"x" * (1 << 20), 20, b'"}, ' + last + b"]")
    assert sides(tmp_path, "x.jsonl.gz") == PAIRS
    assert broken(tmp_path, "x.jsonl.gz") == {"x.jsonl.gz:1": "longer than 1,048,576 characters"}


# Training.


def test_a_file_of_which_more_than_a_tenth_is_broken_is_not_trained_on(tmp_path: Path) -> None:
    good = [json.dumps({"english": f"one two three {n}", "foreign": f"{WATER} {n}"}) for n in range(18)]
    write = (tmp_path / "x.jsonl").write_text
    data = Data(train=["x.jsonl"])
    write("\n".join([*good, "{", "{"]))
    assert training_pairs(data, tmp_path, str.strip).skipped == {"broken": 2}
    write("\n".join([*good, "{", "{", "{"]))
    with pytest.raises(
        LlinkError, match=r"\[E233\] 3 of 21 rows of x.jsonl are broken.*x.jsonl:19.*not JSON.*validate"
    ):
        training_pairs(data, tmp_path, str.strip)
    assert len(read_pairs("x.jsonl", tmp_path).rows) == 18  # to look at it, and to mend it


def test_general_english_with_too_many_broken_lines(tmp_path: Path) -> None:
    data = Data(train=[], english=["en.txt"], max_english=99, min_words=1)
    (tmp_path / "en.txt").write_bytes(b"A good line.\n" * 19 + "A café.\n".encode("cp1252"))
    counts = Pairs()
    assert english_text(data, tmp_path, str.strip, counts)[0] == ["A good line."]
    assert counts.summary() == "0 pairs; left out: 1 broken lines of English (first: en.txt:20)"
    (tmp_path / "en.txt").write_bytes("A café.\n".encode("cp1252") * 3 + b"A good line.\n")
    with pytest.raises(LlinkError, match=r"\[E233\] 3 of 4 rows of en.txt"):
        english_text(data, tmp_path, str.strip)
    (tmp_path / "en.txt").write_text("A good line.\nAnother.\n", encoding="utf-16")
    assert sorted(english_text(data, tmp_path, str.strip)[0]) == ["A good line.", "Another."]
