"""Many threads, many languages, adapters that come and go: every answer is that of an adapter that was there."""

from __future__ import annotations

import gc
import hashlib
import random
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from variants import GREETING, variant

from llink import Engine
from llink.adapter.files import pair_name
from llink.adapter.lora import Lora
from llink.serving.shelf import Resident
from llink.store.models import load_decoder
from llink_khmer import SAMPLES

CODES = ("km", "am", "my")
THREADS, REQUESTS = 8, 20
TEXTS = {code: [GREETING[code] + s.foreign for s in SAMPLES[:8]] for code in CODES}
ENGLISH = [s.english for s in SAMPLES[:8]]
SHORT = {"max_new_tokens": 4}


@pytest.fixture
def load(encoder_folder: str, decoder_folder: str) -> Callable[..., Engine]:
    return lambda **limits: Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", **limits)


@pytest.fixture
def versions(tiny_adapters: dict[str, Path], tmp_path: Path) -> dict[str, list[Path]]:
    """For each language the installed adapter and two others."""
    found = {}
    for number, code in enumerate(CODES):
        place = tmp_path / "home" / "adapters" / code / pair_name("xlm_roberta", "chatml_llama")
        shutil.copytree(tiny_adapters[code], place)
        others = [variant(tiny_adapters[code], tmp_path / f"{code}{n}", code, 10 * number + n + 5) for n in (1, 2)]
        found[code] = [place, *others]
    return found


class Timeline:
    """Which version of each language's adapter was current, and when it may have changed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.versions: dict[str, list[int]] = {code: [0] for code in CODES}
        self.settled = dict.fromkeys(CODES, 0)

    def change(self, code: str, version: int, act: Callable[[], None]) -> None:
        with self.lock:
            self.versions[code].append(version)
            now = len(self.versions[code]) - 1
        act()
        with self.lock:
            self.settled[code] = now

    def during(self, code: str, ask: Callable[[], Any]) -> tuple[Any, set[int]]:
        """What ``ask`` returned, and the versions that were current at some moment of it."""
        with self.lock:
            first = self.settled[code]
        answer = ask()
        with self.lock:
            return answer, set(self.versions[code][first:])


def count(kind: type) -> int:
    """Live objects; to be asked while all is quiet, because a look at the objects of a running thread disturbs it."""
    time.sleep(0.1)
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


@pytest.mark.parametrize("limits", [{}, {"max_resident": 2}], ids=["all", "two"])
def test_adapters_come_and_go_under_load(
    load: Callable[..., Engine], versions: dict[str, list[Path]], limits: dict[str, int], decoder_folder: str
) -> None:
    reference = load()
    truth: dict[tuple[str, int, int], str] = {}
    for code in CODES:
        for version, folder in enumerate(versions[code]):
            reference.add(code, folder)
            for n, text in enumerate(TEXTS[code]):
                truth[code, version, n] = reference.generate(text, code, **SHORT)
        assert len({tuple(truth[code, v, n] for n in range(8)) for v in range(3)}) == 3
    bare = [reference.generate(text, None, **SHORT) for text in ENGLISH]
    engine, timeline, stop = load(**limits), Timeline(), threading.Event()
    alive = (count(Lora), count(Resident))
    ids = torch.arange(4, 40)[None]

    def hashed(decoder: Any) -> str:
        with torch.inference_mode():
            return hashlib.sha256(decoder.model(ids).logits.numpy().tobytes()).hexdigest()

    wanted = hashed(load_decoder(decoder_folder, dtype="float32"))

    def come_and_go(code: str) -> None:
        draw = random.Random(code)
        while not stop.is_set():
            version = draw.randrange(3)
            if version == 0 and code in engine.languages:
                # What is removed comes back as the installed one.
                timeline.change(code, 0, lambda: engine.remove(code))
            elif version:
                timeline.change(code, version, lambda v=version: engine.add(code, versions[code][v]))
            time.sleep(draw.random() / 50)

    def ask(seed: int) -> int:
        draw, wrong = random.Random(seed), 0
        for number in range(REQUESTS):
            n, code = draw.randrange(8), draw.choice([*CODES, None])
            if code is None:
                wrong += engine.generate(ENGLISH[n], None, **SHORT) != bare[n]
            elif draw.random() < 0.3:
                m = draw.randrange(8)
                (first, other), current = timeline.during(
                    code,
                    lambda c=code, n=n, m=m: engine.generate([TEXTS[c][n], ENGLISH[m]], language=[c, None], **SHORT),
                )
                wrong += other != bare[m] or first not in {truth[code, v, n] for v in current}
            else:
                answer, current = timeline.during(code, lambda c=code, n=n: engine.generate(TEXTS[c][n], c, **SHORT))
                wrong += answer not in {truth[code, v, n] for v in current}
            if number % 5 == 0:
                wrong += hashed(engine.decoder) != wanted
        return wrong

    for half in (0, 1):
        stop.clear()
        with ThreadPoolExecutor(THREADS + 3) as pool:
            changing = [pool.submit(come_and_go, code) for code in CODES if not limits]
            asking = [pool.submit(ask, seed + half * THREADS) for seed in range(THREADS)]
            try:
                assert [future.result(120) for future in asking] == [0] * THREADS
            finally:
                stop.set()
            for future in changing:
                future.result(20)
        # Nothing is left of the adapters that came and went.
        assert count(Lora) - alive[0] <= len(engine.languages)
        assert count(Resident) - alive[1] <= len(engine.languages)
    stats = engine.stats()
    assert all(adapter["users"] == 0 for adapter in stats["adapters"].values())
    assert stats["waiting"] == 0
    assert len(engine.languages) <= limits.get("max_resident", 3)
    assert stats["loads"] > 10
    engine.close()


def test_requests_of_threads_share_batches(load: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> None:
    engine = load()
    for code in CODES:
        engine.add(code, tiny_adapters[code])
    engine.slots(TEXTS["km"], "km")
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(
                engine.generate,
                TEXTS[CODES[n % 3]][n // 3 % 8],
                max_new_tokens=20,
                language=CODES[n % 3],
                min_new_tokens=20,
            )
            for n in range(48)
        ]
        assert all(future.result(60) for future in asked)
    assert engine.stats()["steps"] < 48 * 20 / 2


def test_using_is_a_thread_s_own(load: Callable[..., Engine], tiny_adapters: dict[str, Path]) -> None:
    engine, meet = load(), threading.Barrier(4)
    for code in CODES:
        engine.add(code, tiny_adapters[code])
    text, ids = "ខ្មែរ ሰላም မြန်မာ", torch.arange(4, 40)[None]
    alone: dict[str | None, tuple[str, torch.Tensor]] = {}

    def both(code: str | None) -> tuple[str, torch.Tensor]:
        with engine.using(code), torch.inference_mode():
            return engine.generate(text, **SHORT), engine.decoder.model(ids).logits

    for code in (*CODES, None):
        alone[code] = both(code)

    def together(code: str | None) -> bool:
        for _ in range(10):
            meet.wait(20)
            with engine.using(code), torch.inference_mode():
                meet.wait(20)  # all four are inside
                same = engine.generate(text, **SHORT) == alone[code][0]
                if not (same and torch.equal(engine.decoder.model(ids).logits, alone[code][1])):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(together, (*CODES, None)))
