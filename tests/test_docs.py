"""README, docs and code agree: commands, error codes, hooks, examples, file headers."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llink import hookspecs

ROOT = Path(__file__).parents[1]
CODE = ("core", "llink_plugins", "languages")
FIRST_COMMANDS = [
    'pip install -c constraints.txt -e . && llink translate "ខ្ញុំចូលចិត្តរៀនភាសាអង់គ្លេស។"',
    'pip install -c constraints.txt -e ".[test]" && pytest',
]


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def blocks(page: str, language: str = r"\w*") -> list[str]:
    """The fenced code blocks of a page, one language's or all."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_readme_opens_with_the_two_commands() -> None:
    commands = [line for block in blocks("README.md") for line in block.splitlines() if line.strip()]
    assert commands[:2] == FIRST_COMMANDS


def test_readme_is_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", here.read_text("utf-8"))
    assert [t for t in targets if not (here.parent / t).exists()] == []


def codes_raised() -> set[str]:
    """Every error code in the code: the strings that are a code and nothing else."""
    nodes = (node for path in modules(*CODE) for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and re.fullmatch(r"E\d{3}", str(n.value))}


def test_every_error_code_is_documented_once_and_used() -> None:
    rows = re.findall(
        r"^\| (E\d{3}) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/errors.md").read_text("utf-8"), re.MULTILINE
    )
    documented = [code for code, _, _ in rows]
    assert documented == sorted(set(documented))
    assert sorted(codes_raised() - set(documented)) == [], "raised, not documented"
    assert sorted(set(documented) - codes_raised()) == [], "documented, not raised"


@pytest.mark.parametrize("path", modules(*CODE, "tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_begins_with_its_subject(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert tree.body[0].lineno == 1


def hooks() -> list[Any]:
    return [f for f in vars(hookspecs).values() if hasattr(f, "llink_spec")]


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook.__name__)
def test_hook_is_documented_with_its_signature(hook: Any) -> None:
    signature = str(inspect.signature(hook)).replace("'", "")
    assert f"`{hook.__name__}{signature}`" in (ROOT / "docs/plugins.md").read_text("utf-8")


def test_no_other_hook_is_documented() -> None:
    rows = re.findall(r"^\| `(llink_\w+)\(", (ROOT / "docs/plugins.md").read_text("utf-8"), re.MULTILINE)
    assert rows == [hook.__name__ for hook in hooks()]


def text_files() -> Iterator[Path]:
    yield ROOT / ".ci" / "run"
    kinds = (".json", ".md", ".py", ".toml", ".txt", ".yaml")
    for kind in kinds:
        yield from ROOT.glob(f"*{kind}")
        for folder in (*CODE, "tests", "docs"):
            yield from (ROOT / folder).rglob(f"*{kind}")


def test_no_file_names_a_place_on_one_machine() -> None:
    # Put together here, so that this file does not name one itself.
    places = re.compile(r"(?<![\w.~-])/(" + "|".join(("work", "root", "home", "Users", "opt", "mnt", "tmp")) + ")/")
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in text_files() for m in places.finditer(p.read_text("utf-8"))]
    assert found == []
