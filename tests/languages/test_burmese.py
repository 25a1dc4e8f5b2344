"""The Burmese plugin: Zawgyi, look-alike digits, order of signs."""

from __future__ import annotations

import pytest

from llink import plugins
from llink.interfaces import Language


@pytest.fixture
def burmese() -> Language:
    return plugins.language("my")


def test_names(burmese: Language) -> None:
    assert (burmese.code, burmese.code3, burmese.endonym) == ("my", "mya", "မြန်မာဘာသာ")


def test_every_sample_comes_back_from_zawgyi(burmese: Language, capsys: pytest.CaptureFixture[str]) -> None:
    from myanmar.converter import convert

    for sample in burmese.samples:
        zawgyi = convert(sample.foreign, "unicode", "zawgyi")
        assert zawgyi != sample.foreign
        assert burmese.normalise(zawgyi) == burmese.normalise(sample.foreign)
    assert capsys.readouterr().out == ""


def test_unicode_is_left_as_it_is(burmese: Language) -> None:
    assert [burmese.normalise(s.foreign) for s in burmese.samples] == [s.foreign for s in burmese.samples]
    assert burmese.normalise("Only Latin here.") == "Only Latin here."


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("၀ါး", "ဝါး"),  # zero for wa before a vowel sign
        ("၇ှိ", "ရှိ"),  # seven for ra
        ("၁၀၀ ၇၅၀", "၁၀၀ ၇၅၀"),
        ("ဖုိ့", "ဖို့"),  # vowel signs the wrong way round
        ("ယောက်ျား", "ယောက်ျား"),  # a medial behind an asat is right
    ],
)
def test_spelling(burmese: Language, typed: str, meant: str) -> None:
    assert burmese.normalise(typed) == meant


def test_digits(burmese: Language) -> None:
    assert burmese.ascii_digits("၅၀၀၀ ကျပ်") == "5000 ကျပ်"
