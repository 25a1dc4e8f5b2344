"""pytest plugin for CI: with ``LLINK_CI=1`` a test that skips itself fails, unless what it misses is on a short list."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

MAY_BE_MISSING = ("no GPU", "no Chromium", "no development data")
"""How the reasons of skips begin that CI accepts: what no package registry has, or not every machine."""


def _judged(report: Any) -> Any:
    """The report, as a failure where it is a skip for a reason that is not on the list."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("LLINK_CI") == "1":
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(MAY_BE_MISSING):
            report.outcome, report.longrepr = "failed", f"CI skips nothing for this reason: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return _judged((yield))
