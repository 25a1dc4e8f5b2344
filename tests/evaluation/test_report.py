"""``llink report``: one page that needs nothing else, with every plot, and no text that could be markup."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llink.cli import main

PLOTS = ("ranks", "r-1-against-length", "loss-with-and-without", "exact-values", "quality-against-position",
         "tokens-against-latency")  # fmt: skip


def llink(*args: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


class Tags(HTMLParser):
    """The tags of a page with what they point to, and which were left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page(folder: Path) -> None:
    done = llink("report", folder)
    assert done.exit_code == 0, done.output
    assert [Path(line).name for line in done.stdout.splitlines()[:2]] == ["report.html", "report.md"]
    images = sorted((folder / "plots").glob("*.png"))
    assert len(images) == len(PLOTS)
    assert all(any(path.name.startswith(name) for path in images) for name in PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in images)

    tags = Tags((folder / "report.html").read_text("utf-8"))
    assert tags.open == []
    assert tags.names.count("img") == len(PLOTS)
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert "script" not in tags.names

    markdown = (folder / "report.md").read_text("utf-8")
    assert "| retrieval | r1 | 1.000 |" in markdown
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)
    assert sorted(linked) == [f"plots/{path.name}" for path in images]


def test_every_number_of_the_evaluation_is_on_the_page(folder: Path) -> None:
    assert llink("report", folder).exit_code == 0
    page = (folder / "report.html").read_text("utf-8")
    for suite, sets in json.loads((folder / "metrics.json").read_text("utf-8"))["results"].items():
        assert f"<h2>{suite}</h2>" in page
        for values in sets.values():
            for metric, value in values.items():
                shown = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
                assert re.search(rf"<td>{re.escape(metric)}</td>.*>{re.escape(shown)}</td>", page), metric


def test_text_is_not_markup(folder: Path) -> None:
    place = folder / "translate" / "dev" / "predictions.jsonl"
    rows = [json.loads(line) for line in place.read_text("utf-8").splitlines()]
    rows[0]["answer"] = "<script>alert(1)</script> & <b>"
    place.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    content = json.loads((folder / "metrics.json").read_text("utf-8"))
    content["warnings"], content["skipped"] = ["<img src=x onerror=y>"], ["<i>"]
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    assert llink("report", folder).exit_code == 0
    page = (folder / "report.html").read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;" in page
    assert not {"script", "b", "i"} & set(Tags(page).names)
    assert all(link.startswith("data:") for link in Tags(page).links)


def test_some_suites_only(folder: Path) -> None:
    """What was not measured has no plot; the page is made all the same."""
    content = json.loads((folder / "metrics.json").read_text("utf-8"))
    content["results"] = {"translate": content["results"]["translate"]}
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    assert llink("report", folder).exit_code == 0
    assert list((folder / "plots").iterdir()) == []
    assert "<h2>usage</h2>" not in (folder / "report.html").read_text("utf-8")


def test_without_matplotlib(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = llink("report", folder)
    assert done.exit_code == 1
    assert "[E521]" in done.stderr
    assert 'pip install "llink[report]"' in done.stderr
    assert not (folder / "report.html").exists()
