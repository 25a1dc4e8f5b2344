"""What the tests share: tiny models, tiny data, one tiny trained adapter, and a LLINK_HOME of each test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llink.recipe import Recipe, validate
from llink_khmer import SAMPLES

pytest_plugins = ["llink.testing", "skips"]


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
def tiny_texts() -> list[str]:
    """The kit's tokenizers know Khmer only, whatever else is installed."""
    return [text for sample in SAMPLES for text in (sample.english, sample.foreign)]


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
    from llink.testing import write_samples

    write_samples(SAMPLES, folder, dev=6)
    return folder


@pytest.fixture(scope="session")
def raw_recipe(encoder_folder: str, decoder_folder: str) -> dict[str, Any]:
    """A recipe of a run of seconds, as YAML would give it; copy it before you change it."""
    from llink.testing import tiny_recipe as recipe

    return recipe("km", encoder_folder, decoder_folder)


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


@pytest.fixture(scope="session")
def tiny_adapters(tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter for each of three languages: the trained Khmer one, and shaken copies of it for the other two."""
    from variants import variant

    folder = tmp_path_factory.mktemp("adapters")
    others = {code: variant(tiny_adapter, folder / code, code, seed) for seed, code in enumerate(("am", "my"), 1)}
    return {"km": tiny_adapter, **others}


@pytest.fixture(scope="session")
def taught(encoder_folder: str, decoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pair and adapter that know twenty sentences by heart, see ``taught.py``."""
    from taught import teach

    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(folder / "home"))
        return teach(folder, encoder_folder, decoder_folder)


@pytest.fixture(scope="session")
def evaluated(taught: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of the ``taught`` adapter, every suite; copy it before you change it."""
    from click.testing import CliRunner

    from llink.cli import main

    folder = tmp_path_factory.mktemp("evaluated") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(taught.folder / "home"))
        done = CliRunner().invoke(main, [*taught.eval("km"), "--limit", "20", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return folder
