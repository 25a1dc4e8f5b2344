"""The shared adapter: which texts it reads, by whose rules, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from variants import variant

from llink import Engine, LlinkError, plugins
from llink.adapter.files import pair_name, read_manifest
from llink.adapter.shared import SHARED, seems_english
from llink.cli import main
from llink.evaluation.run import measure
from llink.home import home
from llink.training.run import train
from llink_khmer import SAMPLES

KHMER, ARABIC, HINDI = SAMPLES[0].foreign, "أحب تعلم اللغة الإنجليزية.", "मुझे अंग्रेज़ी सीखना पसंद है।"


@pytest.fixture
def install(tiny_adapter: Path, encoder_folder: str, decoder_folder: str, tmp_path: Path):
    """Put an adapter of the tiny pair where its language finds it, as ``install("mul")``."""

    def put(code: str) -> None:
        place = home() / "adapters" / code / pair_name(encoder_folder, decoder_folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if code == "km":
            shutil.copytree(tiny_adapter, place)
        else:
            variant(tiny_adapter, place, code, 3)

    return put


@pytest.fixture
def engine(encoder_folder: str, decoder_folder: str):
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    yield engine
    engine.close()


def test_a_language_without_an_adapter_of_its_own_is_read_by_the_shared_one(engine: Engine, install) -> None:
    with pytest.raises(LlinkError, match=r"\[E301\]"):
        engine.generate(KHMER, max_new_tokens=4)
    install(SHARED)
    assert engine.adapter_of(KHMER) == engine.adapter_of(KHMER, "km") == SHARED
    shared = engine.generate(KHMER, max_new_tokens=4)
    assert shared == engine.generate(KHMER, SHARED, max_new_tokens=4)
    assert engine.languages == (SHARED,)
    install("km")
    assert engine.adapter_of(KHMER) == "km"
    engine.generate(KHMER, max_new_tokens=4)
    assert engine.languages == (SHARED, "km")
    assert engine.generate(KHMER, SHARED, max_new_tokens=4) == shared


def test_a_script_without_a_language_goes_through_it_too(engine: Engine, install) -> None:
    for text in (ARABIC, HINDI):
        with pytest.raises(LlinkError, match=r"\[E503\]"):
            engine.adapter_of(text)
    install(SHARED)
    assert [engine.adapter_of(text) for text in (ARABIC, HINDI, "Me gusta aprender inglés.")] == [SHARED] * 3


@pytest.mark.parametrize("text", ["I like learning English.", "Dear Sir,", "OK"])
def test_english_is_not_taken_for_a_foreign_language(engine: Engine, install, text: str) -> None:
    install(SHARED)
    with pytest.raises(LlinkError, match=r"\[E503\]"):
        engine.adapter_of(text)
    assert engine.adapter_of(text, SHARED) == SHARED  # unless one says so


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("I like learning English.", True),
        ("Dear Sir,", True),
        ("Saya suka belajar bahasa Inggris.", False),
        ("Tôi thích học tiếng Anh.", False),
        ("İngilizce öğrenmeyi seviyorum.", False),
    ],
)
def test_latin_letters(text: str, english: bool) -> None:
    assert seems_english(text) is english


def test_a_script_that_the_encoder_does_not_know_is_refused(engine: Engine, install) -> None:
    install(SHARED)
    with pytest.raises(LlinkError, match=r"\[E509\].*xlm_roberta.*Arabic"):
        engine.generate(ARABIC)


def test_its_own_adapter_is_asked_for_by_name_all_the_same(engine: Engine, install) -> None:
    install(SHARED)
    with pytest.raises(LlinkError, match=r"\[E301\].*km@paper"):
        engine.generate(KHMER, "km@paper")


def test_each_text_goes_by_the_rules_of_its_own_language() -> None:
    shared, khmer = plugins.language(SHARED), plugins.language("km")
    text = "ថ្ងៃទី៣ ។ ល្អ។"
    assert shared.normalise(text) == khmer.normalise(text)
    assert shared.sentences(text) == khmer.sentences(text)
    assert shared.sentences("我喜欢学英语。是的。") == ["我喜欢学英语。", "是的。"]
    assert shared.sentences(f"{HINDI} हाँ।") == [HINDI, "हाँ।"]
    assert shared.verbatim("میں ۱۲۳ کتابیں") == ["123"]
    assert shared.ascii_digits("१२३") == "123"


def test_training_says_what_the_languages_own_adapter_adds(
    tiny_recipe, pairs_folder: Path, tmp_path: Path, install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(SHARED)
    adapter = train(tiny_recipe, stage="all", data=pairs_folder, out=tmp_path / "run")
    found = read_manifest(adapter).metrics["over the shared adapter"]["dev"]
    assert found["gain"] == pytest.approx(found["loss of the shared adapter"] - found["loss"])
    said = "nats a token better" if found["gain"] > 0 else "no better"
    assert f"dev: {said}" in capsys.readouterr().out.replace(f"{found['gain']:.2f} ", "")


def test_evaluation_of_a_language_without_its_own_measures_the_shared_one(
    tiny_recipe, pairs_folder: Path, install, tmp_path: Path
) -> None:
    khmer, options = plugins.language("km"), {"recipe": tiny_recipe, "data": pairs_folder, "against": ()}
    with pytest.raises(LlinkError, match=r"\[E301\]"):
        measure(khmer, ["retrieval"], **options)
    install(SHARED)
    found = measure(khmer, ["retrieval"], **options)
    assert "Khmer has no adapter of its own: the shared one was measured." in found.warnings
    assert found.metrics == measure(plugins.language(SHARED), ["retrieval"], **options).metrics
    install("km")
    assert not any("the shared one" in line for line in measure(khmer, ["retrieval"], **options).warnings)


@pytest.fixture
def inspect(encoder_folder: str, decoder_folder: str, tmp_path: Path):
    """``llink inspect CODE`` on the tiny pair, without data: exit status and output."""

    def run(code: str, *more: str) -> Result:
        pair = ["--encoder", encoder_folder, "--decoder", decoder_folder, "--pairs", "6", "--data", str(tmp_path)]
        return CliRunner().invoke(main, ["inspect", code, *pair, *more])

    return run


def test_inspect_says_what_it_makes_of_a_language(inspect, install) -> None:
    install(SHARED)
    done = inspect("km", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output[done.output.index("{") :])
    assert report["shared"]["answered"] == 6
    assert 0 <= report["shared"]["r1"] <= 1
    assert "The shared adapter reads it already: R@1" in inspect("km").output


def test_inspect_knows_languages_without_a_plugin(inspect) -> None:
    done = inspect("th")
    assert done.exit_code == 0, done.output
    assert "Thai (th), recipe none: 6 pairs of names of countries (CLDR)" in done.output
    assert "The shared adapter" not in done.output


def test_inspect_without_a_pair_to_look_at(inspect) -> None:
    """CLDR knows no name of a country in Assyrian."""
    assert "[E201] Unknown language 'aii'" in inspect("aii").output


def test_inspect_of_no_language(inspect) -> None:
    assert "[E201]" in inspect("qqq").output
