"""A language that LLINK has never seen, from nothing to a translation: in a fresh environment, outside the repository.

Fetches a package with Nepali translations and, once, the two default models.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from llink.home import home

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

REAL_HOME = Path(os.environ.get("LLINK_TEST_HOME") or home())
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``python -m ARGS`` of a new virtual environment in an empty folder, with a LLINK_HOME of its own."""
    venv, here, own_home = (tmp_path / name for name in ("venv", "here", "home"))
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # LLINK and torch are the ones that are here; what pip installs goes into the new environment.
    (Path(site) / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    here.mkdir()
    own_home.mkdir()
    models = REAL_HOME / "models"
    models.mkdir(parents=True, exist_ok=True)
    (own_home / "models").symlink_to(models.resolve())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLINK_", "PYTHONPATH"))}

    def run(*args: str) -> str:
        done = subprocess.run(
            [python, "-m", *args],
            cwd=here,
            env={**kept, "LLINK_HOME": str(own_home), "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=1200,
        )
        assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_nepali_from_nothing(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    harvested = run(
        "llink", "data", "harvest", "ne", "--package", "pypi:Django==5.2", "--no-installed", "--out", "ne.jsonl.gz"
    )
    assert "BSD-3-Clause" in harvested

    added = run("llink", "add-language", "ne", "--data", "ne.jsonl.gz", "--dev-size", "40")
    assert "Nepali (नेपाली): ne, nep" in added
    assert "in Devanagari" in added
    assert re.search(r" to train on, [4-9]\d held out", added), added  # 40 strings, some with two translations
    assert "licence unknown" not in added

    run("pip", "install", "-e", "llink-nepali")
    listed = run("llink", "languages")
    assert re.search(r"^ne +Nepali +Devanagari +none +llink-nepali\b", listed, re.MULTILINE), listed

    run("llink", "train", "ne", "--recipe", "smoke")
    [adapter] = (here / "llink-nepali" / "llink_nepali" / "adapters").iterdir()
    assert {path.name for path in adapter.iterdir()} >= {"manifest.json", "bridge.safetensors", "README.md"}

    evaluated = run("llink", "eval", "ne", "--recipe", "smoke")
    assert "dev" in evaluated
    assert "R@1" in evaluated or "r1" in evaluated

    # By its script alone: no language, no adapter is named.
    translated = run("llink", "translate", "कृपया फेरि प्रयास गर्नुहोस्।")
    assert re.search(r"[A-Za-z]{2}", translated)
    assert not re.search(r"[\u0900-\u097f]", translated)
