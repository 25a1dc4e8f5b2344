"""Broken packages of third parties beside LLINK: each is named with its reason, and the commands go on without it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
from llink.hookspecs import hookimpl
from llink.interfaces import Language

@hookimpl
def llink_languages():
    return [Language(code="lo", code3="lao", name="Lao", scripts=("LAO",), package=__name__)]
"""

BROKEN = {
    "syntax": ("def llink_languages(:\n", "SyntaxError: invalid syntax"),
    "signature": (GOOD.replace("llink_languages()", "llink_languages(config)"), "PluginValidationError: .*'config'"),
    "taken": (GOOD.replace('"lo"', '"km"'), "ValueError: 'km' already comes from plugin 'khmer', which keeps it"),
    "first": (
        GOOD.replace('"lo"', '"km"').replace("@hookimpl", "@hookimpl(trylast=True)"),
        "ValueError: 'km' already comes from plugin 'khmer', which keeps it",
    ),
    "exits": ("raise SystemExit('no GPU')", "SystemExit: no GPU"),
    "khmer": (GOOD, "ValueError: a plugin of that name is there already .built in."),
}


def install(folder: Path, name: str, code: str) -> None:
    """A package and its metadata as pip leaves them in site-packages."""
    package, info = folder / f"their_{name}", folder / f"their_{name}-2.1.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(f"[llink]\n{name} = their_{name}\n")


def llink(*args: str, site: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llink", *args],
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONIOENCODING": "utf-8", **env},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.parametrize("name", BROKEN)
def test_the_command_goes_on_without_a_broken_plugin(tmp_path: Path, name: str) -> None:
    code, why = BROKEN[name]
    install(tmp_path, name, code)
    result = llink("languages", site=tmp_path)
    assert result.returncode == 0
    listed = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert listed["km"].split()[1] == "Khmer"
    assert "lo" not in listed
    assert re.fullmatch(rf"llink: plugin '{name}': (Language 'km' )?skipped: {why}.*\n", result.stderr)
    assert re.search(rf"^plugin '{name}' \(their-{name}\) failed: {why}", result.stdout, re.MULTILINE)
    strict = llink("languages", site=tmp_path, LLINK_STRICT_PLUGINS="1")
    assert strict.returncode != 0
    assert strict.stdout == ""


def test_several_broken_plugins_and_a_good_one(tmp_path: Path) -> None:
    for name, (code, _) in BROKEN.items():
        install(tmp_path, name, code)
    install(tmp_path, "lao", GOOD)
    result = llink("languages", site=tmp_path)
    assert result.returncode == 0
    assert [line.split()[-1] for line in result.stdout.splitlines() if line.startswith("lo ")] == ["their-lao"]
    assert result.stderr.count("\n") == len(BROKEN)
    told = json.loads(llink("plugins", "--json", site=tmp_path).stdout)
    assert sorted(failure["plugin"] for failure in told["failures"]) == sorted(BROKEN)
    [lao] = [plugin for plugin in told["plugins"] if plugin["name"] == "lao"]
    assert lao["brings"] == {"llink_languages": ["lo"]}
    assert (lao["origin"]["distribution"], lao["origin"]["version"]) == ("their-lao", "2.1")
    # The syntax error shows with its traceback where it is asked for.
    strict = llink("languages", site=tmp_path, LLINK_STRICT_PLUGINS="1", LLINK_DEBUG="1")
    assert "Traceback" in strict.stderr
