"""Adapters that are loaded, replaced and removed while the server runs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Served, serve
from variants import variant

from llink import Engine
from llink_khmer import SAMPLES
from llink_plugins.serve.settings import Keys

TEXT = SAMPLES[0].foreign
ADMIN = {"Authorization": "Bearer " + "a" * 20}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 40, "loop_guard": False}


@pytest.fixture(scope="module")
def folder(tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("first", "second"), 20):
        variant(tiny_adapter, folder / name, "km", seed)
    damaged = variant(tiny_adapter, folder / "damaged", "km", 30)
    (damaged / "adapter_model.safetensors").write_bytes(b"no")
    os.symlink(tiny_adapter, folder / "elsewhere")
    return folder


@pytest.fixture(scope="module")
def served(encoder_folder: str, decoder_folder: str, tiny_adapter: Path, folder: Path) -> Iterator[Served]:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    keys = folder.parent / "admin-key"
    keys.write_text("a" * 20)
    with serve(engine, encoder_folder, adapters=(folder,), admin=Keys.read(keys, "NONE")) as served:
        yield served


def ask(served: Served, model: str) -> str:
    answer = httpx.post(f"{served.url}/v1/chat/completions", json={**ASK, "model": model}, timeout=60)
    return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


def put(served: Served, name: str, adapter: str | None) -> httpx.Response:
    body = {"adapter": adapter}
    return httpx.put(f"{served.url}/admin/adapters/{name}", json=body, headers=ADMIN, timeout=60)


def test_load_replace_remove(served: Served, folder: Path) -> None:
    listed = httpx.get(f"{served.url}/admin/adapters", headers=ADMIN).json()
    assert [row["name"] for row in listed["loaded"]] == ["km"]
    assert set(listed["available"]) >= {"first", "second", "damaged"}
    before = ask(served, "km")
    for name in ("first", "second"):
        assert put(served, f"km@{name}", name).status_code == 200
    assert [m["id"] for m in httpx.get(f"{served.url}/v1/models").json()["data"]][1:-1] == [
        "km",
        "km@first",
        "km@second",
    ]
    first, second = ask(served, "km@first"), ask(served, "km@second")
    assert len({before, first, second}) == 3
    assert put(served, "km", "second").status_code == 200
    assert ask(served, "km") == second
    assert httpx.delete(f"{served.url}/admin/adapters/km@first", headers=ADMIN).status_code == 200
    assert httpx.post(f"{served.url}/v1/chat/completions", json={**ASK, "model": "km@first"}).status_code == 404
    assert httpx.delete(f"{served.url}/admin/adapters/km@first", headers=ADMIN).status_code == 404


def test_requests_in_flight_end_as_they_began(served: Served) -> None:
    put(served, "km", "first")
    expected = ask(served, "km")
    with httpx.stream(
        "POST",
        f"{served.url}/v1/completions",
        json={"model": "km", "prompt": TEXT, "stream": True, "max_tokens": 40, "loop_guard": False},
        timeout=60,
    ) as answer:
        lines = answer.iter_lines()
        begun = [next(lines)]
        assert put(served, "km", "second").status_code == 200
        rows = [json.loads(line[6:]) for line in [*begun, *lines] if line.startswith("data: {")]
    assert "".join(row["choices"][0]["text"] for row in rows) == expected
    assert ask(served, "km") != expected


def test_many_clients_while_an_adapter_is_replaced(served: Served) -> None:
    """Every answer is one of an adapter that was there; none is lost."""
    texts = [sample.foreign for sample in SAMPLES[:4]]

    def said(text: str) -> str:
        body = {"model": "km", "messages": [{"role": "user", "content": text}], "max_tokens": 12}
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=120)
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    right: dict[str, set[str]] = {text: set() for text in texts}
    for name in ("first", "second"):
        put(served, "km", name)
        for text in texts:
            right[text].add(said(text))
    asked = [texts[n % 4] for n in range(48)]
    done, changes = threading.Event(), []

    def change() -> None:
        while not done.is_set():
            changes.append(put(served, "km", ("first", "second")[len(changes) % 2]).status_code)
            time.sleep(0.02)

    with ThreadPoolExecutor(9) as pool:
        changing = pool.submit(change)
        answers = list(pool.map(said, asked))
        done.set()
        changing.result()
    assert all(answer in right[text] for text, answer in zip(asked, answers, strict=True))
    assert len(changes) > 2
    assert set(changes) == {200}
    assert served.idle()


@pytest.mark.parametrize("name", ["../adapters", "/etc", "..", ".", "nothing", "elsewhere", "first/..", ""])
def test_only_from_the_folders_that_were_named(served: Served, name: str) -> None:
    answer = put(served, "km", name)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "E558")


def test_what_cannot_be_loaded_changes_nothing(served: Served) -> None:
    put(served, "km", "first")
    before = ask(served, "km")
    damaged = put(served, "km", "damaged")
    assert (damaged.status_code, damaged.json()["error"]["code"]) == (422, "E310")
    assert put(served, "am", "first").status_code == 422  # a Khmer one
    assert put(served, "xx", "first").json()["error"]["code"] == "E201"
    assert put(served, "km@none", None).status_code in (404, 422)
    assert ask(served, "km") == before
