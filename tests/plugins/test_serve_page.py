"""docs/serving.md is what happens: its commands and its Python are run against a server, its tables compared with it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import Served, serve

from llink import Engine
from llink_plugins.serve.page import FILES

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def served(encoder_folder: str, decoder_folder: str, tiny_adapter: Path) -> Iterator[Served]:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    with serve(engine, encoder_folder) as served:
        yield served


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands(served: Served) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        command = f"{line.replace(ADDRESS, served.url)} --fail"
        assert subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_python(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python"):
        exec(block.replace(ADDRESS, served.url), {})
    assert "CompletionUsage" in capsys.readouterr().out


def test_every_address_and_counter_is_on_the_page(served: Served) -> None:
    for path in httpx.get(f"{served.url}/openapi.json").json()["paths"]:
        assert path.removesuffix("/{name}") in PAGE
    counters = httpx.get(f"{served.url}/metrics").text
    for name in re.findall(r"`(llink_\w+)`", PAGE):
        assert f"# TYPE {name}" in counters


def test_the_page_for_people_asks_nobody_else(served: Served) -> None:
    for path in FILES:
        answer = httpx.get(served.url + path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert not re.search(r"https?://|//\w+\.\w+", answer.text.replace("// The page", ""))
    for name in re.findall(r'(?:href|src)="([^"]+)"', httpx.get(served.url).text):
        assert f"/{name}" in FILES
