"""What a run is trained on: pairs, general English, instructions and dev sets, each file read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from llink.data.instruct import Instruction, read_instructions
from llink.data.pairs import Pair, Pairs, dev_pairs, english_text, held_out, training_pairs
from llink.interfaces import Language
from llink.recipe import Recipe
from llink.training.data_record import check_data


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, normalised and filtered.

    Attributes:
        english: general English. english_sources: source of it -> number of sentences and licence.
    """

    pairs: Pairs
    english: list[str]
    english_sources: dict[str, dict[str, Any]]
    instructions: list[Instruction]
    dev: dict[str, list[Pair]]

    @classmethod
    def read(
        cls,
        recipe: Recipe,
        folder: Path,
        language: Language,
        out: Path,
        accelerator: Accelerator,
        most: int | None = None,
    ) -> TrainingData:
        """Read what a recipe names, say how much it is, and compare it with what the run in ``out`` was begun with.

        Args:
            folder: that the recipe's data paths are relative to.
            most: pairs of a dev set.

        Raises:
            LlinkError: E21x, E230 and E233 for the files, E410 when the data of the run changed.
        """
        data, normalise = recipe.data, language.normalise
        read = {name: dev_pairs(data, folder, name, normalise) for name in data.dev}
        held = held_out(data, folder, normalise, read)
        pairs = training_pairs(data, folder, normalise, held)
        english, about_english = english_text(data, folder, normalise, pairs, held)
        instructions, about = read_instructions(data, folder, normalise, held)
        accelerator.print(f"Training data: {pairs.summary()}" + (f"; {about}" if instructions else ""), flush=True)
        for name, found in read.items():
            if found.skipped:
                accelerator.print(f"Dev set {name}: {found.summary()}", flush=True)
        dev = {name: found.rows[:most] for name, found in read.items()}
        check_data(out, accelerator, pairs=pairs.rows, english=english, instructions=instructions, dev=dev)
        return cls(pairs, english, about_english, instructions, dev)
