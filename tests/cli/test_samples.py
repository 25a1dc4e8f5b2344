"""``llink samples``: sentences drawn by seed, with what stands beside them; a page that no text can break."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from taught import Taught, pairs

from llink.adapter.prompt import TASKS
from llink.cli import main
from llink.cli.samples import cell, draw
from llink.data.pairs import Pair, write_pairs


def samples(taught: Taught, *args: str | Path, data: Path | None = None) -> Result:
    options = ["--recipe", taught.folder / "recipe.yaml", "--data", data or taught.folder, "--adapter", taught.adapter]
    return CliRunner().invoke(main, list(map(str, ["samples", "km", *options, *args])))


def rows_of(page: str, label: str) -> list[str]:
    return re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", page, re.MULTILINE)


@pytest.fixture(scope="module")
def page(taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("samples") / "docs" / "samples.md"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(taught.folder / "home"))
        done = samples(taught, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(out)
    assert [path.name for path in out.parent.iterdir()] == ["samples.md"]
    return out.read_text("utf-8")


def test_twelve_translations_and_six_tasks(page: str, taught: Taught) -> None:
    translations, tasks = page.split("## Other tasks")
    assert len(re.findall(r"^### \d+\.$", translations, re.MULTILINE)) == 12
    asked = re.findall(r"^### \d+\. (.+)$", tasks, re.MULTILINE)
    others = [instruction for task, instruction in TASKS.items() if task != "translate"]
    assert asked == [*others, *others[:2]]
    texts = rows_of(page, "Khmer")
    assert len(set(texts)) == 18
    by_text = {cell(pair.foreign): cell(pair.english) for pair in pairs()}
    assert rows_of(page, "reference") == [by_text[text] for text in texts]
    # The adapter has learnt them by heart, the decoder reads English, and neither of it without slots.
    decoder = Path(taught.recipe.decoder.name).name
    assert rows_of(translations, "LLINK") == rows_of(translations, "reference")
    assert len(rows_of(page, f"{decoder} alone")) == 18
    assert not set(rows_of(translations, f"{decoder} alone")) & set(rows_of(translations, "reference"))
    assert len(rows_of(tasks, f"{decoder}, given the reference")) == 6
    assert "--translations 12 --tasks 6 --seed 7" in page


def test_the_same_page_again_and_another_by_another_seed(page: str, taught: Taught) -> None:
    again = samples(taught)
    assert again.exit_code == 0, again.output
    assert again.stdout == page
    other = samples(taught, "--seed", "8", "--translations", "2", "--tasks", "0")
    assert rows_of(other.stdout, "Khmer") != rows_of(page, "Khmer")[:2]
    assert "Other tasks" not in other.stdout


def test_fewer_sentences_than_asked(taught: Taught, tmp_path: Path) -> None:
    write_pairs(tmp_path / "few.jsonl", pairs()[:3])
    done = samples(taught, data=tmp_path / "few.jsonl")
    assert done.exit_code == 0, done.output
    assert "There are 3 sentences, not 18." in done.stderr
    assert len(rows_of(done.stdout, "Khmer")) == 3


def test_sets_take_turns_and_no_text_comes_twice() -> None:
    sets = {
        "a": [Pair(f"a{n}", f"text {n}") for n in range(9)] * 2,
        "b": [Pair(f"b{n}", f"text {n}") for n in range(5, 14)],
    }
    drawn = draw(sets, 6, 1)
    assert Counter(name for name, _ in drawn) == {"a": 3, "b": 3}
    everything = draw(sets, 99, 1)
    assert len({pair.foreign for _, pair in everything}) == len(everything) == 14
    assert everything[:6] == drawn != draw(sets, 6, 2)


def test_no_text_breaks_the_table() -> None:
    assert cell("a | b\n\n<b>*c*</b> _d_ [e](f) \\") == r"a \| b<br><br>&lt;b&gt;\*c\*&lt;/b&gt; \_d\_ \[e\](f) \\"
    assert cell(" \n") == "*nothing*"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--data", "nowhere.jsonl.gz"], "E210"),
        (["--adapter", "nothing"], "E301"),
        (["--recipe", "nothing"], "E205"),
    ],
)
def test_errors(taught: Taught, args: list[str], code: str) -> None:
    done = samples(taught, *args)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"llink: [{code}]")
    assert done.stderr.count("\n") == 1


def test_another_adapter_of_the_language(taught: Taught) -> None:
    given = ["--recipe", str(taught.folder / "recipe.yaml"), "--data", str(taught.folder)]
    unknown = CliRunner().invoke(main, ["samples", "km@nothing", *given])
    assert unknown.exit_code == 1
    assert "[E301]" in unknown.stderr
    both = CliRunner().invoke(main, ["samples", "km@nothing", *given, "--adapter", str(taught.adapter)])
    assert both.exit_code == 2


def test_file_that_cannot_be_written_is_known_before_anything_else(taught: Taught, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = samples(taught, "--out", tmp_path / "file" / "samples.md")
    assert done.exit_code == 1
    assert "[E112]" in done.stderr
