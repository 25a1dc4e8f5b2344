"""The package that ``llink add-language`` makes is one that a stranger can publish: it trains, builds, and has its licences."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from llink.cli import main
from llink.data.pairs import Pair, write_pairs

PAIRS = [
    ("ສະບາຍດີ", "Hello."),
    ("ຂອບໃຈ", "Thank you."),
    ("ນ້ຳ", "Water."),
    ("ເຂົ້າ", "Rice."),
    ("ເຮືອນ", "House."),
    ("ແມ່ນ້ຳ", "River."),
    ("ຕະຫຼາດ", "Market."),
    ("ໂຮງຮຽນ", "School."),
    ("ແມ່", "Mother."),
    ("ພໍ່", "Father."),
    ("ໝາ", "Dog."),
    ("ແມວ", "Cat."),
]


def add(folder: Path, *more: str, licence: str = "CC0-1.0") -> Result:
    write_pairs(folder / "pairs.jsonl", (Pair(english, foreign, "own", licence) for foreign, english in PAIRS))
    line = [
        "add-language",
        "lo",
        "--data",
        str(folder / "pairs.jsonl"),
        "--dev-size",
        "1",
        "--into",
        str(folder),
        "--yes",
    ]
    return CliRunner().invoke(main, [*line, *more])


def text(folder: Path, name: str) -> str:
    return (folder / "llink-lao" / name).read_text("utf-8")


def test_licences_are_answered_for(tmp_path: Path) -> None:
    done = add(tmp_path, "--package-licence", "mit")
    assert done.exit_code == 0, done.output
    assert 'license = "MIT"' in text(tmp_path, "pyproject.toml")
    assert "| this package's code | MIT |" in text(tmp_path, "CARD.md")
    assert "| the data | CC0-1.0 |" in text(tmp_path, "CARD.md")
    assert "| a trained adapter | that of the data, and the terms" in text(tmp_path, "CARD.md")


@pytest.mark.parametrize(
    ("licence", "answer"),
    [
        ("CC-BY-NC-4.0", "not for commercial use: CC-BY-NC-4.0"),
        ("GPL-3.0", "share-alike data (GPL-3.0)"),
        ("unknown", "not known"),
    ],
)
def test_what_the_data_asks_for(tmp_path: Path, licence: str, answer: str) -> None:
    assert add(tmp_path, licence=licence).exit_code == 0
    assert answer in text(tmp_path, "CARD.md")
    assert 'license = "Apache-2.0"' in text(tmp_path, "pyproject.toml")


def test_no_licence_of_that_name(tmp_path: Path) -> None:
    done = add(tmp_path, "--package-licence", "free as in beer")
    assert (done.exit_code, "[E224]" in done.output) == (1, True)
    assert not (tmp_path / "llink-lao").exists()


def test_ci_and_files(tmp_path: Path) -> None:
    assert add(tmp_path).exit_code == 0
    workflow = yaml.safe_load(text(tmp_path, ".github/workflows/test.yml"))
    steps = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert "pytest" in steps
    assert any("twine check --strict" in step for step in steps)
    assert workflow["permissions"] == {"contents": "read"}
    assert "${{ matrix.python }}" in text(tmp_path, ".github/workflows/test.yml")


def test_its_own_tests_pass_and_it_builds(tmp_path: Path) -> None:
    for tool in ("build", "twine", "hatchling"):
        pytest.importorskip(tool)
    assert add(tmp_path).exit_code == 0
    project = tmp_path / "llink-lao"

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *args],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
            env={**os.environ, "LLINK_HOME": str(tmp_path / "home")},
        )
        assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    passed = run("pytest", "-q", "-rs", "-p", "no:cacheprovider")
    assert "CLDR" not in passed, "training was not skipped"
    run("build", "--no-isolation", "--outdir", str(tmp_path / "dist"))
    built = sorted(path.name for path in (tmp_path / "dist").iterdir())
    assert built == ["llink_lao-0.1.0-py3-none-any.whl", "llink_lao-0.1.0.tar.gz"]
    assert run("twine", "check", "--strict", *(str(tmp_path / "dist" / name) for name in built)).count("PASSED") == 2
