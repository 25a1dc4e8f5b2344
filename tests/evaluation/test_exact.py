"""Suite ``exact``: the templates of every language, what counts as the same value, and values in real text."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from llink import LlinkError, plugins
from llink.data.pairs import Pair
from llink.evaluation.exact import KINDS, SENTENCES, cases, holds, sentences, templates, values
from llink.interfaces import Language
from llink.language.text import script_counts

LANGUAGES = ("km", "am", "my")


@pytest.mark.parametrize("code", LANGUAGES)
def test_two_hundred_sentences_evenly_over_the_kinds(code: str) -> None:
    language = plugins.language(code)
    made = sentences(language)
    kinds = Counter(kind for case in made for kind, _ in case.values)
    assert len(made) == len({case.english for case in made}) == len({case.foreign for case in made}) == SENTENCES
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 30
    assert made == sentences(language)
    assert len(templates(language)) >= 10


@pytest.mark.parametrize("code", LANGUAGES)
def test_each_sentence_holds_its_value_on_both_sides(code: str) -> None:
    language = plugins.language(code)
    names = 0
    for case in sentences(language):
        [(kind, value)] = case.values
        assert holds(value, case.english)
        if not holds(value, language.ascii_digits(case.foreign)):
            assert kind == "names"  # one in the language's own letters
            names += 1
        else:
            assert (kind, value) in values(case.english, language.ascii_digits(case.foreign))
        assert sum(script_counts(case.foreign)[script] for script in language.scripts) >= 3
        assert language.normalise(case.foreign) == case.foreign
        assert "{" not in case.english + case.foreign
    assert 0 < names < 20


@pytest.mark.parametrize("code", ["km", "my"])
def test_half_of_the_numbers_are_in_the_languages_own_digits(code: str) -> None:
    language = plugins.language(code)
    counted = [case for case in sentences(language) if case.values[0][0] in ("numbers", "units", "dates")]
    own = [case for case in counted if language.ascii_digits(case.foreign) != case.foreign]
    assert 0.3 < len(own) / len(counted) < 0.7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("30 MW", "it makes 30MW."),
        ("30 MW", "30 MW"),
        ("30", "There are 30."),
        ("30", "30, or more"),
        ("12500", "has 12,500 students"),
        ("12,500", "has 12500 students"),
        ("https://example.org", "See https://example.org."),
        ("2012-05-17", "on 2012-05-17."),
        ("Peter", "PETER is here"),
        ("--help", "Type --help and press Enter."),
        ("404-B", "the code 404-B."),
        ("E204", "(E204)"),
    ],
)
def test_same_value(value: str, text: str) -> None:
    assert holds(value, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("30 MW", "it makes 1.5 kW."),
        ("30 MW", "30 MWh"),
        ("30", "300"),
        ("30", "130"),
        ("30", "1.30"),
        ("3", "3.5"),
        ("12", "12,500"),
        ("7", "the third of 2017"),
        ("17/05/2012", "17/05/20123"),
        ("2012-05-17", "12012-05-17"),
        ("https://example.org", "https://example.org/docs"),
        ("www.example.com", "www.example.com/school"),
        ("example.com", "www.example.com"),
        ("E204", "E2045"),
        ("e204", "E204"),
        ("report.pdf", "my_report.pdf"),
        ("Peter", "Petersburg"),
        ("30", ""),
    ],
)
def test_another_value(value: str, text: str) -> None:
    assert not holds(value, text)


def test_values_of_real_text() -> None:
    khmer = plugins.language("km")
    rows = [
        Pair(
            "Open https://example.org/a?b=1 in Firefox 3.5 (%s).", "បើក https://example.org/a?b=1 ក្នុង Firefox ៣.៥ (%s)។"
        ),
        Pair("The disk has 30 GB on 2012-05-17, not 8.", "ថាស ៣០ GB នៅ 2012-05-17 មិនមែន 8 ទេ។"),
        Pair("Charité is in Berlin.", "Charité នៅ Berlin។"),
        Pair("Nothing of 12 here.", "គ្មានអ្វីនៅទីនេះទេ។"),
        Pair("Use --force with my_file.txt and UTF-8.", "ប្រើ --force ជាមួយ my_file.txt និង UTF-8។"),
    ]
    found = [case.values for case in cases(rows, khmer)]
    assert set(found[0]) == {
        ("urls", "https://example.org/a?b=1"), ("names", "Firefox"), ("numbers", "3.5"), ("codes", "%s"),
    }  # fmt: skip
    assert set(found[1]) == {("units", "30 GB"), ("dates", "2012-05-17"), ("numbers", "8")}
    assert found[2] == (("names", "Berlin"),)
    assert found[3] == ()
    assert set(found[4]) == {("codes", "--force"), ("codes", "my_file.txt"), ("codes", "UTF-8")}


def wrong(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> Language:
    """Khmer, as if its package were another."""
    package = folder / "wrong_language"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "exact.yaml").write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return dataclasses.replace(plugins.language("km"), package="wrong_language")


@pytest.mark.parametrize(
    "content",
    [
        "templates: {studnts: 'សិស្ស {value}'}",
        "templates: {students: សិស្ស}",
        "templates: [",
        "names: {}",
        "[]",
        "templates: 3",
    ],
)
def test_wrong_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    with pytest.raises(LlinkError, match=r"\[E523\].*exact\.yaml") as caught:
        templates(wrong(tmp_path, monkeypatch, content))
    assert "\n" not in str(caught.value)


def test_language_without_templates() -> None:
    assert templates(dataclasses.replace(plugins.language("km"), package="llink_plugins")) == {}
