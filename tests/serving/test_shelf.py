"""The shelf: adapters within a budget, the least recently used one dropped, none that is in use."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from variants import GREETING, variant

from llink import Engine, LlinkError
from llink.adapter.files import pair_name
from llink_khmer import SAMPLES

CODES = ("km", "am", "my")
TEXT = {code: GREETING[code] + SAMPLES[0].foreign for code in CODES}
SHORT = {"max_new_tokens": 4}


@pytest.fixture
def load(encoder_folder: str, decoder_folder: str) -> Callable[..., Engine]:
    return lambda **limits: Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", **limits)


@pytest.fixture
def answers(load: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> dict[str, str]:
    """What each language's adapter says, with room for all."""
    engine = load()
    for code in CODES:
        engine.add(code, tiny_adapters[code])
    return {code: engine.generate(TEXT[code], code, **SHORT) for code in CODES}


def filled(load: Callable[..., Engine], adapters: dict[str, Path], **limits: Any) -> Engine:
    engine = load(**limits)
    for code in CODES:
        engine.add(code, adapters[code])
    return engine


def test_the_least_recently_used_leaves_and_comes_back(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    engine = filled(load, tiny_adapters, max_resident=2)
    assert engine.languages == ("am", "my")
    engine.generate(TEXT["am"], "am", **SHORT)
    assert engine.languages == ("my", "am")
    # Khmer is back from where it was added from; nothing is installed.
    assert engine.generate(TEXT["km"], "km", **SHORT) == answers["km"]
    assert engine.languages == ("am", "km")
    for code in CODES * 2:
        assert engine.generate(TEXT[code], code, **SHORT) == answers[code]
        assert len(engine.languages) == 2
    assert engine.stats()["evictions"] == engine.stats()["loads"] - 2


def test_stats(load: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> None:
    engine = filled(load, tiny_adapters)
    sizes = {code: one["bytes"] for code, one in engine.stats()["adapters"].items()}
    assert len(set(sizes.values())) == 1  # each costs its own bytes and no more
    for code in ("km", "km", "am", "km"):
        engine.generate(TEXT[code], code, **SHORT)
        engine.generate("Hello", None, **SHORT)
    with engine.using("my"):
        assert engine.stats()["adapters"]["my"]["users"] == 1
    stats = engine.stats()
    assert (stats["loads"], stats["hits"], stats["evictions"], stats["waiting"]) == (3, 5, 0, 0)
    assert (stats["batches"], stats["swaps"]) == (8, 8)
    assert stats["bytes"] == sum(sizes.values())
    assert {name: stats["slots"][name] for name in ("entries", "hits", "misses")} == {
        "entries": 2,
        "hits": 2,
        "misses": 2,
    }
    assert stats["features"]["entries"] == 2


def test_a_budget_of_bytes(load: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> None:
    one = filled(load, tiny_adapters).stats()["bytes"] // 3
    assert filled(load, tiny_adapters, max_bytes=2 * one + 1).languages == ("am", "my")
    engine = load(max_bytes=one - 1)
    for ask in (lambda: engine.add("km", tiny_adapters["km"]), lambda: engine.generate(TEXT["km"], "km")):
        with pytest.raises(LlinkError, match=r"\[E512\].*Khmer|\[E301\]"):
            ask()
    assert engine.languages == ()


def test_what_is_in_use_is_not_dropped(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    engine = filled(load, tiny_adapters, max_resident=1)
    with engine.using("km"):
        for ask in (lambda: engine.add("am", tiny_adapters["am"]), lambda: engine.generate(TEXT["am"], "am")):
            with pytest.raises(LlinkError, match=r"\[E512\].*Amharic.*max_resident"):
                ask()
        assert engine.languages == ("km",)
        assert engine.generate(TEXT["km"], **SHORT) == answers["km"]
    assert engine.generate(TEXT["am"], "am", **SHORT) == answers["am"]
    assert engine.languages == ("am",)


def test_another_thread_waits_for_room(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    engine = filled(load, tiny_adapters, max_resident=1)
    with ThreadPoolExecutor(2) as pool:
        with engine.using("km"):
            waiting = [pool.submit(engine.generate, TEXT[code], code, **SHORT) for code in ("am", "my")]
            with pytest.raises(LlinkError, match=r"\[E514\]"):
                ThreadPoolExecutor(1).submit(engine.generate, TEXT["am"], "am", timeout=0.2).result()
            assert not any(future.done() for future in waiting)
        assert [future.result(20) for future in waiting] == [answers["am"], answers["my"]]


def test_a_mixed_batch_of_more_languages_than_fit(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], answers: dict[str, str]
) -> None:
    for room in (1, 2):
        engine = filled(load, tiny_adapters, max_resident=room)
        codes = ["my", None, "km", "am", "my", "km"]
        texts = [TEXT[code] if code else "Hello" for code in codes]
        got = engine.generate(texts, language=codes, **SHORT)
        assert [got[i] for i in (0, 2, 3, 4, 5)] == [answers[codes[i]] for i in (0, 2, 3, 4, 5)]
        assert got[1] == engine.generate("Hello", None, **SHORT)
        assert len(engine.languages) == room


def test_replace_and_remove(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], answers: dict[str, str], tmp_path: Path
) -> None:
    engine = load(max_resident=1)
    for change in (lambda: engine.remove("km"), lambda: engine.replace("km", tiny_adapters["km"])):
        with pytest.raises(LlinkError, match=r"\[E515\].*'km'.*none"):
            change()
    other = variant(tiny_adapters["km"], tmp_path / "other", "km", 9)
    engine.add("Khmer", tiny_adapters["km"])
    with engine.using("km"):
        engine.replace("km", other)
        changed = engine.generate(TEXT["km"], "km", **SHORT)
    assert changed != answers["km"]
    engine.add("am", tiny_adapters["am"])
    # It was dropped for room, and is still the one that was last put there.
    assert engine.languages == ("am",)
    assert engine.generate(TEXT["km"], "km", **SHORT) == changed
    engine.generate(TEXT["am"], "am", **SHORT)
    engine.remove("km")
    with pytest.raises(LlinkError, match=r"\[E301\]"):
        engine.generate(TEXT["km"], "km", **SHORT)
    engine.remove("am")
    assert engine.languages == ()
    assert engine.stats()["bytes"] == 0


def test_found_by_name(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path, answers: dict[str, str]
) -> None:
    place = tmp_path / "home" / "adapters" / "km"
    shutil.copytree(tiny_adapters["km"], place / "mine.v2")
    shutil.copytree(tiny_adapters["km"], tmp_path / "home" / "adapters" / "secret")
    engine = load()
    engine.add("km", "mine.v2")
    assert engine.generate(TEXT["km"], "km", **SHORT) == answers["km"]
    for name in ("mine", "../secret", "..", "../km/mine.v2", "", "."):
        with pytest.raises(LlinkError, match=r"\[E301\]"):
            engine.replace("km", name)
    # A path is a path, wherever it leads.
    engine.add("km", f"{place}/../secret")


def test_installed_over_while_it_is_read(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the bridge of one adapter with the LoRA of another."""
    import llink.serving.frozen as module

    place = tmp_path / "home" / "adapters" / "km" / pair_name("xlm_roberta", "chatml_llama")
    shutil.copytree(tiny_adapters["km"], place)
    newer = variant(tiny_adapters["km"], tmp_path / "newer", "km", 3)
    real, once = module.load_bridge, []

    def between(*args: Any) -> Any:
        bridge = real(*args)
        if not once:
            once.append(True)
            shutil.rmtree(place)
            shutil.copytree(newer, place)
        return bridge

    monkeypatch.setattr(module, "load_bridge", between)
    engine = load()
    expected = load()
    expected.add("km", newer)
    assert engine.generate(TEXT["km"], "km", **SHORT) == expected.generate(TEXT["km"], "km", **SHORT)
    assert once


def test_a_cold_adapter_is_read_once(
    load: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path, answers: dict[str, str]
) -> None:
    shutil.copytree(
        tiny_adapters["km"], tmp_path / "home" / "adapters" / "km" / pair_name("xlm_roberta", "chatml_llama")
    )
    engine, start = load(), threading.Barrier(6)

    def ask() -> str:
        start.wait(10)
        return engine.generate(TEXT["km"], "km", **SHORT)

    with ThreadPoolExecutor(6) as pool:
        assert {future.result(30) for future in [pool.submit(ask) for _ in range(6)]} == {answers["km"]}
    assert engine.stats()["loads"] == 1
    assert engine.stats()["features"]["entries"] == 1
