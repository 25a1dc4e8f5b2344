"""The Khmer plugin: script, digits, spelling, sentences, samples and files."""

from __future__ import annotations

import pluggy
import pytest

import llink_khmer
from llink import hookspecs
from llink.interfaces import Language, package_folder
from llink.text import script_counts


@pytest.fixture(scope="module")
def khmer() -> Language:
    manager = pluggy.PluginManager("llink")
    manager.add_hookspecs(hookspecs)
    manager.register(llink_khmer)
    [[language]] = manager.hook.llink_languages()
    return language


def test_names(khmer: Language) -> None:
    assert (khmer.code, khmer.code3, khmer.name, khmer.endonym) == ("km", "khm", "Khmer", "ភាសាខ្មែរ")


def test_samples_are_khmer_with_english(khmer: Language) -> None:
    assert len(khmer.samples) == 30
    assert len({s.foreign for s in khmer.samples}) == len({s.english for s in khmer.samples}) == 30
    for sample in khmer.samples:
        assert set(script_counts(sample.foreign)) == set(khmer.scripts)
        assert set(script_counts(sample.english)) == {"LATIN"}
        assert sample.foreign[-1] in khmer.sentence_ends


def test_every_source_has_a_licence(khmer: Language) -> None:
    assert all(source.name and source.where and source.licence for source in khmer.sources)


def test_digits(khmer: Language) -> None:
    assert khmer.ascii_digits("០១២៣៤៥៦៧៨៩") == "0123456789"
    assert khmer.ascii_digits("ថ្លៃ ៥០០០ រៀល ឬ 1.25 ដុល្លារ") == "ថ្លៃ 5000 រៀល ឬ 1.25 ដុល្លារ"


@pytest.mark.parametrize("between", [" ", "\n", "  \n\n"])
def test_joined_samples_split_into_the_samples(khmer: Language, between: str) -> None:
    foreign = [s.foreign for s in khmer.samples]
    assert khmer.sentences(between.join(foreign)) == foreign


def test_khmer_ends_need_no_space(khmer: Language) -> None:
    assert khmer.sentences("ខ្ញុំឈឺក្បាល។ថ្ងៃនេះក្តៅណាស់៕អរគុណ!ចាស") == [
        "ខ្ញុំឈឺក្បាល។",
        "ថ្ងៃនេះក្តៅណាស់៕",
        "អរគុណ!",
        "ចាស",
    ]


def test_and_so_on_is_one_mark(khmer: Language) -> None:
    assert khmer.sentences("មានត្រី បាយ ទឹក ។ល។ អរគុណ។") == ["មានត្រី បាយ ទឹក ។ល។", "អរគុណ។"]
    assert khmer.sentences("ក\0ខ។") == ["ក ខ។"]


def test_old_spacing_is_removed(khmer: Language) -> None:
    assert khmer.normalise("ខ្ញុំ\u200bឈឺក្បាល  ។ អរគុណ ៕") == "ខ្ញុំឈឺក្បាល។ អរគុណ៕"


def test_normalise_is_idempotent(khmer: Language) -> None:
    texts = [s.foreign for s in khmer.samples] + [" ។ ។ ៕", "ក \u200b ។", "ក\u200b ។ល។", "", "\n"]
    for text in texts:
        once = khmer.normalise(text)
        assert khmer.normalise(once) == once
    assert [khmer.normalise(s.foreign) for s in khmer.samples] == [s.foreign for s in khmer.samples]


@pytest.mark.parametrize("folder", ["recipes", "adapters"])
def test_package_folder(khmer: Language, folder: str) -> None:
    path = package_folder(khmer.package, folder)
    assert path.is_dir()
    assert path.parent.joinpath("samples.py").is_file()


def test_package_folder_of_no_package() -> None:
    assert not package_folder("llink_nowhere", "recipes").exists()
