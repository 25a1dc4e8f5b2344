"""The house rules. Exceptions are listed by name, and one that is no longer needed fails: the lists can only shrink."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLUGINS = ["llink_plugins", *(path.parent.name for path in sorted(ROOT.glob("languages/*/__init__.py")))]
# The files and folders of core/llink from the ground up, plugins above; each imports of its own floor and of lower ones.
FLOORS = [
    "bounded errors home hookspecs interfaces language progress recipe",
    "plugins store",
    "features adapter",
    "data",
    "serving",
    "training",
    "evaluation",
    "experiments new_language testing",
    "cli __init__ __main__",
    " ".join(PLUGINS),
]
FLAT = 8
"""Files of ``core/llink`` beside the two that Python wants."""
LONG = {
    "core/llink/cli/data.py",
    "core/llink/training/run.py",
    "core/llink/training/sizing.py",
}
ONE_NAME = {"Lora", "Origin", "Part", "Report", "Source"}
FMT_SKIPS = 210
FILES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for folder in ("core", "languages", "llink_plugins", "benchmarks", "docs", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def test_files_are_short() -> None:
    lines = {name: text.count("\n") for name, text in FILES.items()}
    assert {name for name, count in lines.items() if count > 500} == LONG
    assert [name for name in PLUGINS if lines.get(f"languages/{name}/__init__.py", 0) > 30] == []
    assert lines["core/llink/hookspecs.py"] <= 60


def imports(text: str) -> Iterator[str]:
    """What a module imports, inside functions and for type checking too; the version stands in the topmost file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name modules in full"
            yield from (f"{node.module}.{name.name}" for name in node.names if name.name != "__version__")


def room(module: str) -> str:
    package, *inside = module.split(".")
    return package if package in PLUGINS else (inside or ["__init__"])[0]


def test_imports_go_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
    upwards, rooms = set(), set()
    for path, text in FILES.items():
        if path.startswith(("core/", "languages/", "llink_plugins/")):
            module = path.removeprefix("core/").removeprefix("languages/").removesuffix(".py").replace("/", ".")
            rooms.add(room(module))
            for name in imports(text):
                if name.split(".")[0] in ("llink", *PLUGINS) and floor[room(name)] > floor[room(module)]:
                    upwards.add((module.removeprefix("llink."), room(name)))
    assert rooms == set(floor), "every file and folder has its floor"
    assert upwards == set()
    assert sum(path.count("/") == 2 and "__" not in path for path in FILES if path.startswith("core/")) <= FLAT


def test_no_two_public_classes_of_one_name_in_core() -> None:
    trees = (ast.parse(text) for path, text in FILES.items() if path.startswith("core/"))
    names = Counter(n.name for tree in trees for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_")
    assert {name for name, count in names.items() if count > 1} == ONE_NAME


def test_the_formatter_is_seldom_switched_off() -> None:
    count = sum(line.endswith("# fmt: skip") for text in FILES.values() for line in text.splitlines())
    assert FMT_SKIPS - 10 < count <= FMT_SKIPS, "FMT_SKIPS is that count, rounded up to tens"
