"""The data audit: a fair sample, a page in which nothing runs but itself, and marks that come back as numbers."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from llink import LlinkError
from llink.cli import main
from llink.data.audit import Hint, hints, overall, page, read_marks, sample, shares, wilson
from llink.data.pairs import Pair, read_pairs, write_pairs
from llink.features.cache import FeatureCache
from llink.home import home
from llink.plugins import language
from llink.store.models import load_encoder
from llink_khmer import SAMPLES

KHMER = language("km")
HOSTILE = [
    Pair(
        "</script><script>document.title = 'taken'</script>", "<img src=x onerror=\"document.title='taken'\">", "a<b>"
    ),
    Pair("<!-- <script> @CODE@ & \u2028 \\u003c", "ទឹក 'quotes\" @DATA@", "</main>"),
]
PAIRS = [Pair(s.english, s.foreign, "samples", "CC0-1.0") for s in SAMPLES]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def data(*arguments: Any, status: int = 0) -> Any:
    result = CliRunner().invoke(main, ["data", "audit", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def test_the_sample_is_fair() -> None:
    pairs = [Pair(f"{source} {n}", f"x{n}", source) for source, size in (("big", 900), ("small", 95), ("two", 2), ("three", 3))
             for n in range(size)]  # fmt: skip
    chosen = sample(pairs, 100)
    assert Counter(p.source for p in chosen) == {"big": 86, "small": 9, "three": 3, "two": 2}
    assert sample(list(reversed(pairs)), 100) == chosen
    assert sample(pairs, 100, seed=18) != chosen
    assert [p.source for p in chosen] != sorted(p.source for p in chosen)
    assert sorted(sample(pairs, 5000), key=str) == sorted(pairs, key=str)
    assert Counter(p.source for p in sample(pairs, 2)) == {"big": 1, "small": 1}


def test_hints_tell_a_translation_from_a_stranger(encoder_folder: str) -> None:
    cache = FeatureCache(home() / "features", load_encoder(encoder_folder, dtype="float32"))
    # For an encoder that has learnt nothing, only a text and itself are sure to be alike.
    same = [Pair(p.foreign, p.foreign) for p in PAIRS[:8]]
    assert [hint.rank for hint in hints(cache, same)] == [1] * 8
    assert all(hint.similarity == pytest.approx(1, abs=1e-2) for hint in hints(cache, same))
    swapped = [Pair(PAIRS[(n + 1) % 8].foreign, p.foreign) for n, p in enumerate(PAIRS[:8])]
    assert all(hint.rank > 1 for hint in hints(cache, swapped))
    left = cache.pooled([p.foreign for p in swapped])
    right = cache.pooled([p.english for p in swapped])
    expected = torch.cosine_similarity(left - left.mean(0), right - right.mean(0))
    found = torch.tensor([hint.similarity for hint in hints(cache, swapped)])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def embedded(text: str) -> Any:
    [found] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_nothing_in_a_pair_becomes_markup() -> None:
    text = page(KHMER, HOSTILE, HOSTILE, [Hint(0.5, 1), Hint(-0.1, 2)])
    plain = page(KHMER, [], [], None)
    assert text.count("<") == plain.count("<")
    assert "\u2028" not in text
    content = embedded(text)
    assert [(row["english"], row["foreign"]) for row in content["rows"]] == [(p.english, p.foreign) for p in HOSTILE]
    assert content["rows"][1]["hint"] == {"similarity": -0.1, "rank": 2}
    assert content["sources"] == {"a<b>": 1, "</main>": 1}
    assert "innerHTML" not in text
    assert "http://" not in text.replace("http-equiv", "")
    assert "https://" not in text


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    rows = [*HOSTILE, *PAIRS[:3]]
    text = page(KHMER, rows, rows * 2, [Hint(0.5, n + 1) for n in range(5)])
    # What a user does, done by a script at the end; what it saves is put where the dump shows it.
    driver = """<script>
      document.querySelectorAll("button.good")[0].click();
      document.querySelectorAll("button.bad")[1].click();
      cards[2].card.focus();
      for (const key of ["g", "b", "k", "u", "k", "b"]) document.dispatchEvent(new KeyboardEvent("keydown", { key }));
      document.body.append(element("pre", "saved", saved()));
    </script></body>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", driver), encoding="utf-8")
    result = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    dom = result.stdout
    assert dom.count("<article") == 5, result.stderr[-2000:]
    assert "<title>Data audit: Khmer</title>" in dom
    assert "<img" not in dom
    [found] = re.findall(r'<pre class="saved">(.*?)</pre>', dom, re.DOTALL)
    (tmp_path / "marks.json").write_text(html.unescape(found), encoding="utf-8")
    marks = read_marks(tmp_path / "marks.json", KHMER)
    # Key by key: 2 good; 3 bad; back to 3; unmarked; back to 2; bad.
    assert marks.good == [rows[0]]
    assert marks.bad == [rows[1], rows[2]]
    assert marks.sources == {"a<b>": 2, "</main>": 2, "samples": 6}
    assert "3 of 5 marked: 1 good, 2 bad" in dom


def marks_file(path: Path, **changes: Any) -> Path:
    rows = [{"english": f"e{n}", "foreign": f"f{n}", "source": "x" if n < 8 else "y", "licence": "MIT",
             "mark": "bad" if n in (0, 8) else "good"} for n in range(12)]  # fmt: skip
    content = {"version": 1, "language": "km", "sample": "s", "sources": {"x": 900, "y": 100, "z": 5}, "marks": rows}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return path


def test_marks_become_numbers(tmp_path: Path) -> None:
    path, bad = marks_file(tmp_path / "marks.json"), tmp_path / "bad.jsonl"
    found = {share.source: share for share in shares(read_marks(path, KHMER))}
    assert {name: (s.pairs, s.marked, s.good) for name, s in found.items()} == {"x": (900, 8, 7), "y": (100, 4, 3)}
    # The data's own proportions count, not those of the sample.
    assert overall(list(found.values())) == pytest.approx(0.9 * 7 / 8 + 0.1 * 3 / 4)
    result = data("km", "--marks", path, "--bad", bad)
    assert result.stdout.splitlines()[1].split() == ["x", "900", "8", "1", "0.88", "0.53", "0.98"]
    assert "About 86% of the pairs are good" in result.stdout
    assert [pair.english for pair in read_pairs("bad.jsonl", tmp_path).rows] == ["e0", "e8"]
    assert "[E218]" in data("km", "--marks", path, "--bad", bad, status=1).stderr
    assert json.loads(data("km", "--marks", path, "--json").stdout)["good"] == pytest.approx(0.8625)


def test_wilson() -> None:
    assert wilson(7, 8) == pytest.approx((0.529, 0.978), abs=1e-3)
    assert wilson(10, 10)[0] == pytest.approx(0.722, abs=1e-3)
    assert wilson(0, 3) == pytest.approx((0, 0.561), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"language": "am"}, "marks of 'am', not of 'km'"),
        ({"marks": []}, "marks no pair"),
        ({"marks": [{"english": "e", "foreign": "f", "source": "x", "licence": "l", "mark": "fine"}]}, "KeyError"),
        (
            {"marks": [{"english": 1, "foreign": "f", "source": "x", "licence": "l", "mark": "bad"}]},
            "english is no text",
        ),
        ({"marks": None}, "holds no marks"),
        ({"sources": []}, "holds no marks"),
    ],
)
def test_files_that_are_no_marks(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LlinkError, match=rf"\[E528\].*{said}"):
        read_marks(marks_file(tmp_path / "marks.json", **changes), KHMER)


def test_files_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    for name in ("broken.json", "missing.json"):
        error = data("km", "--marks", tmp_path / name, status=1).stderr
        assert error.startswith("llink: [E528]")
        assert len(error.splitlines()) == 1


def test_from_the_command_line(tmp_path: Path, raw_recipe: dict[str, Any]) -> None:
    write_pairs(tmp_path / "train.jsonl", PAIRS)
    write_pairs(tmp_path / "dev.jsonl", PAIRS[:2])
    (tmp_path / "english.txt").write_text("")
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "audit.html"
    recipe.write_text(yaml.safe_dump(raw_recipe))
    common = ("km", "--data", tmp_path, "--recipe", recipe, "--html", out)
    assert "--bad and --json go with --marks" in data(*common, "--json", status=2).stderr
    result = data(*common, "--sample", "5")
    assert re.match(rf"5 of \d+ pairs: {re.escape(str(out))}\n", result.stdout)
    rows = embedded(out.read_text(encoding="utf-8"))["rows"]
    # Of the training pairs, as training sees them: those of the dev set are not among them.
    assert {row["english"] for row in rows} <= {p.english for p in PAIRS[2:]}
    assert all(1 <= row["hint"]["rank"] <= 5 for row in rows)
    assert "[E218]" in data(*common, status=1).stderr
    out.unlink()
    data(*common, "--no-hints")
    assert embedded(out.read_text(encoding="utf-8"))["rows"][0]["hint"] is None
    assert "[E210]" in data("km", "--data", tmp_path / "none", "--html", tmp_path / "x.html", status=1).stderr
