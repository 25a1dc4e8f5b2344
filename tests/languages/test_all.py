"""What every language that LLINK brings must have: samples in its script, stable spelling, licences, files."""

from __future__ import annotations

import pytest

from llink import plugins
from llink.interfaces import Language, package_folder
from llink.language.script import detect
from llink.language.text import script_counts
from llink.language.values import names

CODES = ("am", "km", "my")


@pytest.fixture(params=CODES)
def language(request: pytest.FixtureRequest) -> Language:
    return plugins.language(request.param)


def test_names_are_normalised_and_found(language: Language) -> None:
    known, _ = names(language.package)
    assert len(known) > 200
    months = {"January", "February", "March", "April", "June", "July", "September", "October", "November", "December"}
    assert len(months & set(known.values())) >= 9
    for name, english in known.items():
        assert language.normalise(name) == name
        assert set(script_counts(name)) == set(language.scripts)
        assert set(script_counts(english)) == {"LATIN"}
        assert language.verbatim(name) == [english]


def test_all_are_here() -> None:
    assert set(CODES) <= set(plugins.languages())


def test_samples_are_in_the_language_with_english(language: Language) -> None:
    assert len(language.samples) == 30
    assert len({s.foreign for s in language.samples}) == len({s.english for s in language.samples}) == 30
    for sample in language.samples:
        assert set(script_counts(sample.foreign)) == set(language.scripts)
        assert set(script_counts(sample.english)) == {"LATIN"}
        assert sample.foreign[-1] in language.sentence_ends
        assert detect(sample.foreign, plugins.languages()) is language


def test_every_source_has_a_licence(language: Language) -> None:
    assert language.sources
    assert all(source.name and source.where and source.licence for source in language.sources)


@pytest.mark.parametrize("between", [" ", "\n", "  \n\n"])
def test_joined_samples_split_into_the_samples(language: Language, between: str) -> None:
    foreign = [s.foreign for s in language.samples]
    assert language.sentences(between.join(foreign)) == foreign


def test_normalise_is_idempotent(language: Language) -> None:
    end = language.sentence_ends[0]
    for text in [*(s.foreign for s in language.samples), f" {end} {end}", f"x \u200b {end}", "", "\n"]:
        once = language.normalise(text)
        assert language.normalise(once) == once
        assert once == once.strip()


def test_latin_parts_are_kept(language: Language) -> None:
    text = f"{language.samples[0].foreign} Firefox 3.5 https://example.org/?q=1 a@b.org"
    assert language.normalise(text).endswith("Firefox 3.5 https://example.org/?q=1 a@b.org")
    assert detect(text, plugins.languages()) is language


def test_package_folder(language: Language) -> None:
    path = package_folder(language.package, "recipes")
    assert path.is_dir()
    assert path.parent.joinpath("samples.py").is_file()
