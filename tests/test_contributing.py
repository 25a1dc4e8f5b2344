"""CONTRIBUTING.md tells of the code as it is: the files that it names exist and hold what its walks say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FILES = re.findall(r"`([\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|yaml|toml|txt|tmpl)))`", PAGE)
STEPS = re.findall(r"^\d+\. (`(?:core|languages|llink_plugins)/.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(FILES)))
def test_named_file_is_there(name: str) -> None:
    assert (ROOT / name).is_dir() if name.endswith("/") else (ROOT / name).is_file()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.split("`")[1])
def test_step_of_a_walk_is_in_its_files(step: str) -> None:
    spans = re.findall(r"`([^`]+)`", step)
    texts = "".join((ROOT / name).read_text("utf-8") for name in spans if name in FILES and not name.endswith("/"))
    missing = [name for name in spans if name not in FILES and not re.search(rf"\b{name.split('.')[-1]}\b", texts)]
    assert missing == []


def test_the_walks_are_there() -> None:
    assert len(re.findall(r"^### ", PAGE, re.MULTILINE)) == 3
    assert len(STEPS) > 40
    assert len(FILES) > 60
