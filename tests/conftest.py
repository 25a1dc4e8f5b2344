"""What the tests share: tiny models, tiny data, one tiny trained adapter, and a LLINK_HOME of each test's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llink.recipe import Recipe, validate
from llink_khmer import SAMPLES

TRAIN, DEV = SAMPLES[:24], SAMPLES[24:]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """For the shared runs: models this small gain nothing from a second thread, and lose a lot on busy cores."""
    threads(1)


def threads(count: int) -> None:
    """How many torch computes with; tests that do without torch are spared its import."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


@pytest.fixture(autouse=True)
def _own_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or fills the user's store, but for those that ask for the real models in it."""
    real = request.node.get_closest_marker("real")
    threads(2 if real else 1)
    if not real:
        monkeypatch.setenv("LLINK_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folder of a tiny model by its name in ``tiny``, written at first use."""
    import tiny

    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        place = root / name
        if not place.exists():
            getattr(tiny, name)(place)
        return str(place)

    return folder


@pytest.fixture(scope="session")
def encoder_folder(models: Callable[[str], str]) -> str:
    """A tiny XLM-R."""
    return models("xlm_roberta")


@pytest.fixture(scope="session")
def decoder_folder(models: Callable[[str], str]) -> str:
    """A tiny SmolLM2."""
    return models("chatml_llama")


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train.jsonl``, ``dev.jsonl`` and ``english.txt``, out of the Khmer samples."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, samples in (("train", TRAIN), ("dev", DEV)):
        rows = [
            {"english": s.english, "foreign": s.foreign, "source": "samples", "licence": "CC0-1.0"} for s in samples
        ]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "english.txt").write_text("The market opens early in the morning.\nThe dog likes to eat rice.\n")
    return folder


@pytest.fixture(scope="session")
def raw_recipe(encoder_folder: str, decoder_folder: str) -> dict[str, Any]:
    """A recipe of a run of seconds, as YAML would give it; copy it before you change it."""
    return {
        "name": "tiny",
        "language": "km",
        # Not the backend's own layer: whoever loads the adapter must read that from its manifest.
        "encoder": {"name": encoder_folder, "options": {"layer": 2}},
        "decoder": {"name": decoder_folder},
        "device": "cpu",
        "dtype": "float32",
        "data": {
            "train": ["train.jsonl"],
            "dev": {"dev": "dev.jsonl"},
            "english": ["english.txt"],
            "max_english": 10,
            "min_words": 2,
        },
        "projector": {"hidden": 64},
        "stage_a": {"epochs": 2, "batch": 8, "queue": 16, "hardest": 4},
        "injector": {"kind": "resampler", "slots": 4, "options": {"width": 32, "depth": 1, "heads": 2}},
        "warm_start": {"epochs": 1, "batch": 8},
        "stage_b": {"examples": 32, "batch": 4, "distilled": 4, "lora": {"r": 4, "alpha": 8}, "lr_lora": 1e-3},
        "checkpoint_every": 2,
        "dev_examples": 4,
    }


@pytest.fixture(scope="session")
def tiny_recipe(raw_recipe: dict[str, Any]) -> Recipe:
    """``raw_recipe``, validated."""
    return validate(raw_recipe, "tiny")


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Recipe, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole, unbroken run of the tiny recipe."""
    from llink.training.run import train

    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(folder / "home"))
        train(tiny_recipe, stage="all", data=pairs_folder, out=folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def tiny_adapter(tiny_run: Path) -> Path:
    """A Khmer adapter for the tiny pair; copy it before you change it."""
    return tiny_run / "adapter"
