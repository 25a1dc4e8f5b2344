"""Standard test sets by their hub ids, whole and as they stream in, so that a number can be put beside a leaderboard's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llink.data.pairs import Pair
from llink.errors import LlinkError, unknown_name
from llink.interfaces import Language
from llink.language.called import called
from llink.progress import track

Rows = Iterable[Mapping[str, Any]]
Open = Callable[[str], Rows]
"""Config -> its rows."""
Sides = Iterator[tuple[str, str]]
"""English and foreign text."""


@dataclass(frozen=True)
class StandardSet:
    """A test set.

    Attributes:
        repo: its id on the hub.
        split: of it that is measured on.
        read: gives its sides, from the language's name there, and a way to open a config.
        codes: what the language may be called there, out of the names of the configs and the fields of a first row.
    """

    name: str
    repo: str
    split: str
    licence: str
    read: Callable[[Open, str], Sides]
    codes: Callable[[list[str], Open], Iterable[str]]
    about: str = ""


def load_set(name: str, language: Language) -> tuple[str, list[Pair]]:
    """A standard set's name and its pairs in a language, normalised.

    Args:
        name: one of ``STANDARD``; ``NAME=FOLDER`` reads a folder of the same layout in place of the hub.

    Raises:
        LlinkError: E534 for an unknown set, one without the language, or of another layout, E210 when it cannot be had.
    """
    key, _, place = name.partition("=")
    if key not in STANDARD:
        raise unknown_name("E534", "standard set", key, STANDARD)
    chosen = STANDARD[key]
    where = place or chosen.repo

    def open_config(config: str) -> Rows:
        from datasets import load_dataset

        return load_dataset(where, config, split=chosen.split, streaming=True)

    rows: list[Pair] = []
    try:
        from datasets import get_dataset_config_names

        codes = set(chosen.codes(get_dataset_config_names(where), open_config))
        own = called(language, codes)
        if len(own) != 1:
            raise LlinkError(
                "E534",
                f"{key} has {language.name} {len(own)} times" + (f": {', '.join(own)}." if own else "."),
                "Take another set: " + ", ".join(STANDARD),
            )
        with track(f"Reading {key}", total=None) as bar:
            for english, foreign in chosen.read(open_config, own[0]):
                rows.append(Pair(language.normalise(english), language.normalise(foreign), key, chosen.licence))
                bar(1)
    except LlinkError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise LlinkError(
            "E534", f"{where} is not of the layout of {key}: {type(error).__name__} {error}.", f"It is {chosen.repo}."
        ) from error
    except Exception as error:  # of the hub's client, the network or the data set's own format
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise LlinkError(
            "E210",
            f"{where} cannot be had: {said}.",
            f"Is the hub reachable? A gated set wants its terms accepted at huggingface.co/datasets/{chosen.repo}, then `hf auth login`.",
        ) from error
    if not rows:
        raise LlinkError("E534", f"{key} has no pair of {language.name}.", f"Looked in {where}, split {chosen.split}.")
    return key, rows


def _by_id(key: Callable[[Mapping[str, Any]], Any], text: str) -> Callable[[Open, str], Sides]:
    """Sets with a config a language: rows of one ``key`` belong together."""

    def read(open_config: Open, code: str) -> Sides:
        english = {key(row): str(row[text]) for row in open_config("eng_Latn")}
        seen = set()
        for row in open_config(code):
            if (found := key(row)) in english and found not in seen:
                seen.add(found)
                yield english[found], str(row[text])

    return read


def _columns(open_config: Open, code: str) -> Sides:
    """Sets with a column a language."""
    for row in open_config("default"):
        yield str(row["eng_Latn"]), str(row[code])


def _tico(open_config: Open, code: str) -> Sides:
    for row in open_config(f"en-{code}"):
        yield str(row["sourceString"]), str(row["targetString"])


def _alt(open_config: Open, code: str) -> Sides:
    for row in open_config("alt-parallel"):
        if row["translation"]["en"] and row["translation"][code]:
            yield str(row["translation"]["en"]), str(row["translation"][code])


def _first(rows: Rows) -> Mapping[str, Any]:
    return next(iter(rows))


STANDARD = {
    one.name: one
    for one in (
        StandardSet(
            "flores-plus",
            "openlanguagedata/flores_plus",
            "devtest",
            "CC-BY-SA-4.0",
            _by_id(lambda row: row["id"], "text"),
            lambda configs, _: configs,
            "FLORES+, 1,012 sentences; gated",
        ),
        StandardSet(
            "ntrex",
            "mteb/NTREX",
            "test",
            "CC-BY-SA-4.0",
            _columns,
            lambda _, open_config: _first(open_config("default")),
            "NTREX-128, 1,997 sentences of news",
        ),
        StandardSet(
            "tico19",
            "gmnlp/tico19",
            "test",
            "CC0-1.0",
            _tico,
            lambda configs, _: [config.removeprefix("en-") for config in configs if config.startswith("en-")],
            "TICO-19, 2,100 sentences on COVID-19",
        ),
        StandardSet(
            "alt",
            "mutiyama/alt",
            "test",
            "CC-BY-4.0",
            _alt,
            lambda _, open_config: _first(open_config("alt-parallel"))["translation"],
            "Asian Language Treebank, news",
        ),
        StandardSet(
            "belebele",
            "facebook/belebele",
            "test",
            "CC-BY-SA-4.0",
            _by_id(lambda row: row["link"], "flores_passage"),
            lambda configs, _: configs,
            "the 488 passages of Belebele; its questions are a task of the lm-evaluation-harness",
        ),
    )
}
"""By name, as ``--set`` takes them."""
