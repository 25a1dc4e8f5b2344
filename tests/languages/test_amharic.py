"""The Amharic plugin: homophone letters, punctuation, numerals, and Tigrinya told apart."""

from __future__ import annotations

import pytest

from llink import LlinkError, plugins
from llink.interfaces import Language
from llink.language.script import detect


@pytest.fixture
def amharic() -> Language:
    return plugins.language("am")


def test_names(amharic: Language) -> None:
    assert (amharic.code, amharic.code3, amharic.endonym) == ("am", "amh", "አማርኛ")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("ሠላም", "ሰላም"),
        ("ዓለም ኣለም ዐለም", "አለም አለም አለም"),
        ("ፀሐይ ጸሃይ", "ጸሀይ ጸሀይ"),
        ("ኃይል ሐይል ሃይል", "ሀይል ሀይል ሀይል"),
    ],
)
def test_one_letter_a_sound(amharic: Language, written: str, kept: str) -> None:
    assert amharic.normalise(written) == kept


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ሰላም፡ነው", "ሰላም ነው"),
        ("ሰላም ነው፡፡ እኔ ነኝ፡ ፡", "ሰላም ነው። እኔ ነኝ።"),
        ("ሰላም ነው:: እኔ", "ሰላም ነው። እኔ"),
        ("ሰላም ነው ።", "ሰላም ነው።"),
        ("std::vector", "std::vector"),
        ("ሰዓት 10:30", "ሰአት 10:30"),
    ],
)
def test_punctuation(amharic: Language, typed: str, meant: str) -> None:
    assert amharic.normalise(typed) == meant


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("፩", "1"),
        ("፲፪", "12"),
        ("፻", "100"),
        ("፳፻፲፭", "2015"),
        ("፲፱፻፺፱", "1999"),
        ("፼", "10000"),
        ("፲፪፼፫፻፵፭", "120345"),
        ("፪፻፼", "2000000"),
    ],
)
def test_numerals(amharic: Language, numeral: str, value: str) -> None:
    assert amharic.ascii_digits(f"በ{numeral} ዓ.ም.") == f"በ{value} ዓ.ም."


@pytest.mark.parametrize("text", ["ሰላም ከመይ ኣለኻ?", "እቲ ቆልዓ ናብ ቤት ትምህርቲ ከይዱ።", "ኣብ ኤርትራ ትግርኛ ይዝረብ እዩ።"])
def test_tigrinya_is_not_taken_for_amharic(amharic: Language, text: str) -> None:
    with pytest.raises(LlinkError) as caught:
        detect(text, {"am": amharic})
    assert caught.value.code == "E502"
    assert "Amharic" in caught.value.message


def test_text_without_a_sign_is_amharic_where_no_other_is_installed(amharic: Language) -> None:
    assert amharic.likelihood("ሰላም") == 0.5
    assert detect("ሰላም", {"am": amharic}) is amharic
