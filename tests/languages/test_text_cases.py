"""Texts that went wrong once, one test a kind: order of Khmer signs, Ethiopic numerals, joiners, digits of any script."""

from __future__ import annotations

import pytest

from llink import plugins
from llink.interfaces import Language
from llink.language.generic import generic_language


@pytest.mark.parametrize(
    ("canonical", "typed"),
    [
        ("ខ្មែរ", ["ខែ្មរ"]),  # vowel before the subscript
        ("ស្ត្រី", ["ស្រ្តី", "ស្រី្ត"]),  # subscript ro before the other
        ("ស៊ី", ["សី៊", "សុី", "ស\u200c៊ី"]),  # shifter behind the vowel, or typed as the vowel u
        ("ម៉ីង", ["មី៉ង", "មុីង"]),
        ("ប៉ុន្តែ", ["បុ៉ន្តែ", "ប៉ុនែ្ត"]),
        ("ស្រ៊ី", ["ស៊្រី", "ស្រី៊"]),  # shifter before the subscript
        ("ចាំ", ["ចំា"]),  # nikahit before the vowel
        ("នេះ", ["នះេ"]),
        ("កាំ", ["កំា"]),
        ("ធ្វើ", ["ធើ្វ", "ធ្វេី", "ធេី្វ"]),  # a vowel in two parts
        ("កោះ", ["កេាះ", "កះោ"]),
    ],
)
def test_khmer_order(canonical: str, typed: list[str]) -> None:
    khmer = plugins.language("km")
    for spelling in (canonical, *typed):
        assert khmer.normalise(spelling) == canonical
        assert khmer.normalise(f"{spelling}{spelling}។") == f"{canonical}{canonical}។"


@pytest.mark.parametrize("text", ["្", "ក្", "្ក", "ែក", "ក ែ", "a្b", "ក្ាក", "\u17dd្ក", "ក\u17dd្ក", "ក្\u17dd"])
def test_khmer_order_of_what_is_no_syllable(text: str) -> None:
    khmer = plugins.language("km")
    once = khmer.normalise(text)
    assert khmer.normalise(once) == once
    assert sorted(once) == sorted(text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("በ፲፱፻፹፪ ዓ.ም.", ["1982"]),
        ("በ፲፱፹፪ ዓ.ም.", ["1982"]),
        ("በ፳፲፭ ዓ.ም.", ["2015"]),
        ("በ፲፱፹ ዓ.ም.", ["1980"]),
        ("ገጽ ፳፭", ["25"]),
        ("፲\u200b፱", ["19"]),  # one numeral, not 10 and 9 side by side
        ("፻፩", ["101"]),
        ("፼፻", ["10100"]),
        # No number, so none is made of it.
        ("፩፪፫", []),
        ("፹፪፲፱", []),
        ("፻፻", []),
        ("፻፱፹፪", []),
        ("፩፲፻", []),
    ],
)
def test_geez_numerals(written: str, read: list[str]) -> None:
    amharic = plugins.language("am")
    text = amharic.normalise(written)
    assert amharic.normalise(text) == text
    assert amharic.verbatim(text) == read
    if not read:
        assert text == written


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("si", "ශ්\u200dරී ලංකාව"),
        ("fa", "می\u200cخواهم خانه\u200cهای کار\u200cآموز"),
        ("ml", "അവന്\u200d പറഞ്ഞു"),
        ("bn", "র\u200d্যাম"),
        ("kn", "ರ\u200d್ಕ"),
        ("ckb", "ئه\u200cوه\u200c"),
        ("te", "సాఫ్ట్\u200cవేర్"),
        ("mn-Mong", "ᠬᠠᠷ\u180eᠠ"),
    ],
)
def test_joiners_where_they_are_orthography(code: str, text: str) -> None:
    assert generic_language(code).normalise(text) == text
    # A language that says nothing of them is read the same way, one that does without says so.
    plain = Language("xx", "xxx", "X", generic_language(code).scripts, "")
    assert plain.normalise(text) == text
    without = Language("xx", "xxx", "X", plain.scripts, "", joiners=False)
    assert without.normalise(text) == text.replace("\u200c", "").replace("\u200d", "")


@pytest.mark.parametrize("code", ["km", "my", "am"])
def test_joiners_inside_emoji(code: str) -> None:
    language, text = plugins.language(code), "👩\u200d💻 ❤️\u200d🔥 👩🏽\u200d🚀 🏳️\u200d🌈"
    assert language.normalise(text) == text
    assert language.normalise(f"a\u200d{language.samples[0].foreign}\u200d") == f"a{language.samples[0].foreign}"


@pytest.mark.parametrize("code", ["fa", "ur", "ps", "prs", "uz-Arab", "ug", "ks"])
def test_digits_of_persian_by_cldr(code: str) -> None:
    assert generic_language(code).digits == "۰۱۲۳۴۵۶۷۸۹"


@pytest.mark.parametrize("code", ["ar", "sd", "ckb"])
def test_digits_of_arabic_by_cldr(code: str) -> None:
    assert generic_language(code).digits == "٠١٢٣٤٥٦٧٨٩"
