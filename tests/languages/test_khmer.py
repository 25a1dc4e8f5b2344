"""The Khmer plugin: script, digits, spelling, sentences, samples and files."""

from __future__ import annotations

import pytest

from llink import plugins
from llink.interfaces import Language, package_folder


@pytest.fixture(scope="module")
def khmer() -> Language:
    return plugins.language("km")


def test_names(khmer: Language) -> None:
    assert (khmer.code, khmer.code3, khmer.name, khmer.endonym) == ("km", "khm", "Khmer", "ភាសាខ្មែរ")


def test_digits(khmer: Language) -> None:
    assert khmer.ascii_digits("០១២៣៤៥៦៧៨៩") == "0123456789"
    assert khmer.ascii_digits("ថ្លៃ ៥០០០ រៀល ឬ 1.25 ដុល្លារ") == "ថ្លៃ 5000 រៀល ឬ 1.25 ដុល្លារ"


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
    texts = [" ។ ។ ៕", "ក \u200b ។", "ក\u200b ។ល។", "", "\n"]
    for text in texts:
        once = khmer.normalise(text)
        assert khmer.normalise(once) == once
    assert [khmer.normalise(s.foreign) for s in khmer.samples] == [s.foreign for s in khmer.samples]


def test_package_folder_of_no_package() -> None:
    assert not package_folder("llink_nowhere", "recipes").exists()
