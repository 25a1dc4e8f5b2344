"""Gates: what a recipe's ``expect`` asks of the numbers, and which of it is not so."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from llink.errors import unknown_name
from llink.evaluation import SUITES
from llink.recipe import EXPECTED

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


def gates(expect: Mapping[str, str], suites: Sequence[str] = SUITES) -> dict[str, str]:
    """Those of ``expect`` that are about ``suites``; E202 for one about a suite that is not known."""
    for key in expect:
        suite = key.partition(".")[0]
        if suite not in SUITES:
            raise unknown_name("E202", "suite in expect:", suite, SUITES)
    return {key: wanted for key, wanted in expect.items() if key.partition(".")[0] in suites}


def failed(expect: Mapping[str, str], results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """What is not as expected, a line each; what was not measured is not as expected.

    Args:
        expect: ``suite.metric`` for every set, or ``suite.set.metric`` -> ``>=0.6`` and the like.
        results: suite -> set -> metric -> value.
    """
    lines = []
    for key, wanted in expect.items():
        suite, _, rest = key.partition(".")
        name, _, metric = rest.rpartition(".")
        sets = results.get(suite, {})
        found = {of: values[metric] for of, values in sets.items() if name in ("", of) and metric in values}
        match = EXPECTED.fullmatch(wanted)
        assert match is not None  # the recipe was validated
        lines += [
            f"{suite}.{of}.{metric} is {value:.3f}, expected {wanted}"
            for of, value in found.items()
            if not _COMPARE[match[1]](value, float(match[2]))
        ]
        if not found:
            lines.append(f"{key} was not measured, expected {wanted}")
    return lines
