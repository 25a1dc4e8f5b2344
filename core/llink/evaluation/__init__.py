"""Evaluators, one a file: each measures one thing about a language adapter, and all come together in one report.

A suite is a module of this package with an ``evaluator``, see ``base.Evaluator``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llink.errors import unknown_name

if TYPE_CHECKING:
    from llink.evaluation.base import Evaluator

SUITES = ("retrieval", "usage", "translate", "exact", "tasks", "long", "english", "tokens", "judge")
"""In the order of the report."""
BASELINES = ("raw", "english", "encoder", "direct-lora", "cascade")
"""What an adapter is measured against: the decoder reading the foreign text or its English, the bare encoder, a
LoRA trained on the raw foreign text, and a translation model before the decoder."""


def evaluator(suite: str) -> Evaluator:
    """The evaluator of a suite; E506 for an unknown one."""
    if suite not in SUITES:
        raise unknown_name("E506", "suite", suite, SUITES)
    found: Evaluator = import_module(f"llink.evaluation.{suite}").evaluator
    return found
