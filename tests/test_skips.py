"""In CI a skip for an unknown reason is a failure, of a test as of a whole file; elsewhere it is a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.skip(reason="no GPU is here")
def test_without_a_gpu(): ...

@pytest.mark.skip(reason="too slow")
def test_marked(): ...

def test_in_its_body():
    pytest.importorskip("a_library_that_nobody_has")

@pytest.fixture
def fixture():
    pytest.skip("not today")

def test_in_a_fixture(fixture): ...

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail():
    raise ValueError
"""


@pytest.mark.parametrize(
    ("ci", "counts"),
    [("1", "1 failed, 1 skipped, 1 xfailed, 3 errors"), ("0", "5 skipped, 1 xfailed")],
    ids=["CI", "elsewhere"],
)
def test_unexpected_skips_fail_in_ci(ci: str, counts: str, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_file.py").write_text('import pytest\npytest.importorskip("a_library_that_nobody_has")\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "skips", "--continue-on-collection-errors", "--tb=line", str(tmp_path)],
        env={**os.environ, "LLINK_CI": ci, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert counts in done.stdout.splitlines()[-1]
    assert done.returncode == int(ci)
    assert ("CI skips nothing for this reason: too slow" in done.stdout) == (ci == "1")
