"""Program messages made text: accelerator marks go, everything else stays."""

from __future__ import annotations

import pytest

from llink.data.clean import is_english, not_a_translation, without_accelerators


@pytest.mark.parametrize(
    ("english", "foreign", "bare"),
    [
        ("_File", "_ឯកសារ", ("File", "ឯកសារ")),
        ("Save _As…", "រក្សាទុកជា (_A)…", ("Save As…", "រក្សាទុកជា…")),
        ("&File", "ឯកសារ(&F)", ("File", "ឯកសារ")),
        ("E&xit", "ចេញ（&X）", ("Exit", "ចេញ")),
        ("Fi_nd", "ស្វែង_រក", ("Find", "ស្វែងរក")),
        ("_Open %(file_name)s", "_បើក %(file_name)s", ("Open %(file_name)s", "បើក %(file_name)s")),
        ("Save && _quit", "រក្សាទុក && _ចេញ", ("Save && quit", "រក្សាទុក && ចេញ")),
        # Only one side has one.
        ("_File", "ឯកសារ", ("File", "ឯកសារ")),
    ],
)
def test_accelerators_go(english: str, foreign: str, bare: tuple[str, str]) -> None:
    assert without_accelerators(english, foreign) == bare


@pytest.mark.parametrize(
    ("english", "foreign"),
    [
        ("cats &amp; dogs", "ឆ្មា &amp; ឆ្កែ"),
        ("&lt;b&gt;", "ឆ្មា &lt;"),
        ("R&D", "ស្រាវជ្រាវ"),
        ("our R&D.", "R&D របស់យើង"),
        ("the snake_case style", "រចនាប័ទ្ម"),
        ("the snake_case style", "រចនាប័ទ្ម snake_case"),
        ("Read foo_bar.txt.", "អាន foo_bar.txt។"),
        ("%(user_name)s's house", "ផ្ទះ %(user_name)s"),
        ("{first_name} was here", "{first_name} នៅទីនេះ"),
        ("See http://a.b/?c=1&d=2!", "មើល http://a.b/?c=1&d=2 ។"),
        ("write __init__ here", "សរសេរ __init__"),
        ("press _a or _b", "ចុច _ក ឬ _ខ"),
        ("100 % _", "១០០ % _"),
    ],
)
def test_other_marks_stay(english: str, foreign: str) -> None:
    assert without_accelerators(english, foreign) == (english, foreign)


@pytest.mark.parametrize(
    ("english", "foreign", "reason"),
    [
        ("File", "ឯកសារ", None),
        ("Linux", "Linux", "the same in both languages"),
        ("100 %", "១០០ %", "without an English letter"),
        ("File", "Fichier", "without a Khmer letter"),
        ("translator-credits", "សុខ <sok@example.org>", "names of translators"),
    ],
)
def test_what_is_no_translation(english: str, foreign: str, reason: str | None) -> None:
    assert not_a_translation(english, foreign, ("KHMER",)) == reason


def test_catalogues_that_are_not_english() -> None:
    assert is_english(["Open the file", "Save", "café"])
    assert not is_english(["Открыть файл", "Save"])
    assert not is_english(["menu.file.open", "menu_file_save", "welcomeMessage", "Save"])
