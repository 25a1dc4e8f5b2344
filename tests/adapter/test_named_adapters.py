"""``CODE@NAME``: several adapters of one language, found by name, side by side in one engine and on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from variants import variant

from llink import Engine, Foreign, LlinkError
from llink.adapter.files import find_adapter, pair_name
from llink.cli import main
from llink.plugins import language, select
from llink.testing import tiny_recipe, write_samples
from llink_khmer import SAMPLES

KHMER = [sample.foreign for sample in SAMPLES[:3]]
SHORT = {"max_new_tokens": 6}
PAIR = "xlm_roberta--chatml_llama"


@pytest.fixture
def installed(tiny_adapter: Path, tmp_path: Path) -> Path:
    """The user's Khmer adapters for the tiny pair: its own, ``paper``, ``short`` of no pair, and another pair's ``far``."""
    root = tmp_path / "home" / "adapters" / "km"
    shutil.copytree(tiny_adapter, root / PAIR)
    for seed, folder in enumerate((f"{PAIR}@paper", "short", f"{PAIR}2@far"), 3):
        variant(tiny_adapter, root / folder, "km", seed)
    return root


@pytest.fixture
def engine(encoder_folder: str, decoder_folder: str, installed: Path) -> Engine:
    return Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")


def test_a_name_selects_an_adapter_of_the_pair(installed: Path, encoder_folder: str, decoder_folder: str) -> None:
    khmer, models = language("km"), (encoder_folder, decoder_folder)
    assert find_adapter(khmer, *models) == installed / PAIR
    assert find_adapter(khmer, *models, name="paper") == installed / f"{PAIR}@paper"
    assert find_adapter(khmer, *models, name="short") == installed / "short"
    for wrong, meant in (("papr", "km@paper"), ("far", "km@paper, km@short"), ("../km/short", "km@short")):
        with pytest.raises(LlinkError, match=rf"\[E301\] Unknown Khmer adapter 'km@{wrong}'.*{meant}") as caught:
            find_adapter(khmer, *models, name=wrong)
        assert "far'" not in caught.value.hint


def test_what_is_selected() -> None:
    assert [str(select(name)) for name in ("Khmer@paper", "KHM@paper", "km")] == ["km@paper", "km@paper", "km"]
    for wrong in ("kmm@paper", "km@"):
        with pytest.raises(LlinkError, match=r"\[E201\].*Did you mean 'km'"):
            select(wrong)


def test_two_adapters_of_a_language_are_resident_at_once(engine: Engine) -> None:
    own = engine.generate(KHMER, "km", **SHORT)
    paper = engine.generate(KHMER, "km@paper", **SHORT)
    assert own != paper
    assert engine.languages == ("km", "km@paper")
    # In one batch, as each alone; and in every other way that a language can be given.
    assert engine.generate(KHMER[:2] * 2, language=["km", "km", "km@paper", "khmer@paper"], **SHORT) == [
        *own[:2],
        *paper[:2],
    ]
    with engine.using("km@paper"):
        assert engine.generate(KHMER, **SHORT) == paper
    assert "".join(engine.stream(KHMER[0], "km@paper", **SHORT)) == paper[0]
    assert not engine.slots(KHMER, "km").equal(engine.slots(KHMER, "km@paper"))
    # In the encoder's space both have the encoder's own vectors; in the decoder's each has its projector's.
    same = {engine.resident(code).bridge.space for code in ("km", "km@paper")} == {"encoder"}
    assert engine.embed(KHMER, "km").equal(engine.embed(KHMER, "km@paper")) is same
    assert engine.rank(KHMER[0], ["a", "b"], "km@paper")
    with pytest.raises(LlinkError, match=r"\[E504\] Khmer"):
        engine.generate("ሰላም", "km@paper")
    stats = engine.stats()
    assert set(stats["adapters"]) == {"km", "km@paper"}
    assert stats["loads"] == 2


def test_chat_takes_one_of_them(engine: Engine) -> None:
    def asked(*languages: str) -> str:
        parts = ["What is said?", *(Foreign(text, code) for text, code in zip(KHMER, languages, strict=False))]
        return engine.chat([{"role": "user", "content": parts}], **SHORT)

    assert asked("km@paper") != asked("km")
    with pytest.raises(LlinkError, match=r"\[E517\].*Khmer, Khmer@paper"):
        asked("km", "km@paper")


def test_each_is_added_replaced_and_removed_alone(engine: Engine, installed: Path) -> None:
    own = engine.generate(KHMER, "km", **SHORT)
    engine.add("km@mine", installed / "short")
    short = engine.generate(KHMER, "km@short", **SHORT)
    assert engine.generate(KHMER, "km@mine", **SHORT) == short
    assert engine.generate(KHMER, "km", **SHORT) == own
    engine.replace("km@mine", f"{PAIR}@paper")
    assert engine.generate(KHMER, "km@mine", **SHORT) == engine.generate(KHMER, "km@paper", **SHORT) != short
    engine.remove("km@mine")
    assert "km" in engine.languages
    with pytest.raises(LlinkError, match=r"\[E301\].*'km@mine'.*Available: km, km@paper, km@short"):
        engine.generate(KHMER, "km@mine")
    with pytest.raises(LlinkError, match=r"\[E515\].*'km@mine'"):
        engine.remove("km@mine")


def test_one_that_left_for_room_comes_back(encoder_folder: str, decoder_folder: str, installed: Path) -> None:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", max_resident=1)
    first = engine.generate(KHMER, "km@paper", **SHORT)
    assert engine.generate(KHMER, "km", **SHORT) != first
    assert engine.languages == ("km",)
    assert engine.generate(KHMER, "km@paper", **SHORT) == first
    assert engine.languages == ("km@paper",)


def test_on_the_command_line(tmp_registry: Path, tmp_path: Path) -> None:
    def llink(*arguments: str | Path, status: int = 0) -> str:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == status, done.output
        return done.stderr if status else done.stdout

    write_samples(SAMPLES, tmp_path / "data")
    recipe, data = tmp_path / "tiny.yaml", ("--data", tmp_path / "data")
    recipe.write_text(yaml.safe_dump(tiny_recipe("km")))
    llink("train", "km", "--recipe", recipe, *data, "--out", tmp_path / "run", "--no-install")
    pair, root = pair_name("tiny-encoder", "tiny-decoder"), tmp_path / "home" / "adapters" / "km"
    shutil.copytree(tmp_path / "run" / "adapter", root / pair)
    variant(root / pair, root / f"{pair}@paper", "km", 3)

    assert f"{pair}@paper" in llink("languages")
    own, paper = (
        llink("translate", "--language", code, "--json", "--max-new-tokens", "6", KHMER[0])
        for code in ("km", "Khmer@paper")
    )
    assert json.loads(own)["output"] != json.loads(paper)["output"]
    assert [json.loads(row)["language"] for row in (own, paper)] == ["km", "km@paper"]
    report = tmp_path / "report"
    llink("eval", "km@paper", "--suite", "usage", "--against", "none", "--recipe", recipe, *data, "--out", report)
    manifest = json.loads((root / f"{pair}@paper" / "manifest.json").read_text())
    assert json.loads((report / "metrics.json").read_text())["adapter"] == manifest["files"]
    for command in (("translate", "--language", "km@papr", KHMER[0]), ("eval", "km@papr", "--recipe", recipe, *data)):
        assert "[E301] Unknown Khmer adapter 'km@papr'. Did you mean 'km@paper'?" in llink(*command, status=1)
    both = ("translate", "--language", "km@paper", "--adapter", pair, KHMER[0])
    assert "not both" in llink(*both, status=2)
