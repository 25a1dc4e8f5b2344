"""Documents keep their structure: what of them is text, and that everything else comes back to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from llink.cli import main
from llink.errors import LlinkError
from llink.serving.documents import parse

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>សួស្តី</i>

2
00:00:03,000 --> 00:00:05,000
ខ្ញុំចូលចិត្ត
រៀន។

7
00:00:06,000 --> 00:00:08,000
- តើផ្សារនៅឯណា?
- នៅទីនេះ។

"""
HTML = """<!DOCTYPE html>
<html lang="km"><head><title>ផ្សារ</title><style>p { color: red }</style></head>
<body><!-- កំណត់ -->
<p class="a">ខ្ញុំ <b>ចូលចិត្ត</b>
  រៀន &amp; អាន<br><img src="x.png" alt="ឆ្មា"></p>
<pre>ភាសា = 1</pre><script>var a = "ខ្មែរ" < 2;</script>
</body></html>
"""
MARKDOWN = """---
title: ផ្សារ
---

# ភាសាខ្មែរ

> ខ្ញុំចូលចិត្ត
> រៀន **ភាសា** នៅ [សាលា](https://example.org/ខ្មែរ "ចំណងជើង").

1. `កូដ` និង អាន
   * ឆ្មា

| ក | ខ |
|---|---|
| ឆ្កែ | 12 |

```python
x = "ឆ្មា"
```
"""


@pytest.mark.parametrize(("content", "suffix"), [(SRT, ".srt"), (HTML, ".html"), (MARKDOWN, ".md")])
def test_with_nothing_put_in_it_is_the_same_to_the_letter(content: str, suffix: str) -> None:
    document = parse(content, Path(f"x{suffix}"))
    assert document.render(document.texts) == content


def test_subtitles_keep_numbers_times_and_speakers() -> None:
    document = parse(SRT, Path("x.srt"))
    assert document.texts == ["សួស្តី", "ខ្ញុំចូលចិត្ត រៀន។", "តើផ្សារនៅឯណា?", "នៅទីនេះ។"]
    made = document.render(["Hello", "I like\nlearning.", "Where is the market?", "Here."])
    expected = SRT
    for old, new in zip(
        ("សួស្តី", "ខ្ញុំចូលចិត្ត\nរៀន។", "តើផ្សារនៅឯណា?", "នៅទីនេះ។"),
        ("Hello", "I like learning.", "Where is the market?", "Here."),
        strict=True,
    ):
        expected = expected.replace(old, new)
    assert made == expected


def test_html_keeps_tags_scripts_and_code() -> None:
    document = parse(HTML, Path("x.HTML"))
    assert document.texts == ["ផ្សារ", "ខ្ញុំ", "ចូលចិត្ត", "រៀន & អាន", "ឆ្មា"]
    made = document.render(["Market", "I", "like <it>", "learning & reading", 'a "cat"'])
    assert "<title>Market</title><style>p { color: red }</style>" in made
    assert '<p class="a">I <b>like &lt;it&gt;</b>\n  learning &amp; reading<br><img' in made
    assert "alt='a \"cat\"'" in made
    for kept in ('<html lang="km">', "<!-- កំណត់ -->", "<pre>ភាសា = 1</pre>", 'var a = "ខ្មែរ" < 2;'):
        assert kept in made


def test_markdown_keeps_marks_addresses_and_code() -> None:
    document = parse(MARKDOWN, Path("x.md"))
    assert document.texts == [
        "ភាសាខ្មែរ", "ខ្ញុំចូលចិត្ត រៀន", "ភាសា", "នៅ", "សាលា", ".", "និង អាន", "ឆ្មា", "ក", "ខ", "ឆ្កែ", "12",
    ]  # fmt: skip
    made = document.render(
        ["Khmer", "I like learning", "language", "at", "school", ".", "and *reading*", "cat", "a", "b", "dog", "12"]
    )
    for part in (
        "---\ntitle: ផ្សារ\n---\n\n# Khmer\n",
        '> I like learning **language** at [school](https://example.org/ខ្មែរ "ចំណងជើង").\n',
        "1. `កូដ` and \\*reading\\*\n   * cat\n",
        "| a | b |\n|---|---|\n| dog | 12 |\n",
        'x = "ឆ្មា"\n```\n',
    ):
        assert part in made


def test_a_damaged_one_is_told() -> None:
    for content in ("no subtitles at all", "1\n00:00:01,000 -> 00:00:02,500\nx\n"):
        with pytest.raises(LlinkError, match=r"\[E541\] x.srt is no SubRip file"):
            parse(content, Path("x.srt"))


def test_on_the_command_line(tmp_path: Path) -> None:
    """What needs no reading; no model is loaded."""
    page, out = tmp_path / "page.md", tmp_path / "page.en.md"
    page.write_text("# 2024-05-01\n\n> Dear *Sir*,\n", encoding="utf-8")
    for extra in (("--json",), ("--out", out, "--resume")):
        assert CliRunner().invoke(main, ["translate", "--file", str(page), *map(str, extra)]).exit_code == 2
    done = CliRunner().invoke(main, ["translate", "--file", str(page)])
    assert (done.exit_code, done.stdout) == (3, page.read_text())
    page.write_text("ສະບາຍດີ *123*\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["translate", "--file", str(page), "--out", str(out)])
    assert (done.exit_code, out.read_text("utf-8")) == (1, "ສະບາຍດີ *123*\n")
    assert done.stderr.startswith("llink: [E503] Text 1: ")
    assert "[E218]" in CliRunner().invoke(main, ["translate", "--file", str(page), "--out", str(out)]).stderr
    page.write_bytes(b"na\xefve")
    assert "[E508]" in CliRunner().invoke(main, ["translate", "--file", str(page)]).stderr
