"""Experiments, one a file: each asks one question of the method and answers it with one table and one plot.

An experiment is a module of this package (``-`` as ``_``) with an ``experiment``, see ``base.Experiment``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llink.errors import unknown_name

if TYPE_CHECKING:
    from llink.experiments.base import Experiment

EXPERIMENTS = {
    "alignment-probe": "Stage A alone: does a text find its translation?",
    "usage-ablation": "What the weight of the usage contrast does to use, quality and English.",
    "slot-sweep": "How many slots a text needs, for questions and for translation.",
    "injectors": "Which slot injector, with how many slots, and what each costs.",
    "ablation": "What each step of a recipe is worth: it without one of them at a time.",
    "general-text": "What helps stage A on text of another domain than most of the pairs.",
    "teacher": "Which layer and position of the decoder stage A should aim at.",
}
"""With what each asks. The first three are the paper's."""


def check_name(name: str) -> None:
    """E530 for a name that is no experiment's."""
    if name not in EXPERIMENTS:
        raise unknown_name("E530", "experiment", name, EXPERIMENTS)


def experiment(name: str) -> Experiment:
    """The experiment of that name; E530 for an unknown one."""
    check_name(name)
    found: Experiment = import_module(f"llink.experiments.{name.replace('-', '_')}").experiment
    return found
