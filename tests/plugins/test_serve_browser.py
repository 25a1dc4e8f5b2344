"""The server's page in a real Chromium: what a person types, sees and is told."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, serve

from llink import Engine
from llink_khmer import SAMPLES
from llink_plugins.serve.settings import Keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KHMER = SAMPLES[0].foreign
KEY = "k" * 20
WAIT = 60_000
"""Milliseconds; on a busy machine a browser takes its time."""


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path]) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    for code, folder in tiny_adapters.items():
        engine.add(code, folder)
    return engine


@pytest.fixture(scope="module")
def served(engine: Engine, encoder_folder: str) -> Iterator[Served]:
    with serve(engine, encoder_folder) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container's user is often root, who may not have a sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=3 * WAIT)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    context = browser.new_context()
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(error))
    page.goto(served.url)
    until(page, "document.querySelectorAll('#model option').length > 1")
    yield page
    assert page.errors == []
    context.close()


def until(page: Any, expression: str, arg: Any = None) -> None:
    """Wait for something to be true in the page; Playwright's own way is forbidden by the page's policy."""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def answered(page: Any) -> str:
    until(page, "document.getElementById('stop').disabled && document.getElementById('bare-cost').textContent")
    return str(page.text_content("#answer"))


def test_typed_found_answered_and_kept(page: Any, engine: Engine) -> None:
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.insert_text(KHMER)
    until(page, "document.getElementById('found').textContent === 'This is Khmer.'")
    page.keyboard.press("Control+Enter")
    assert answered(page) == engine.generate(KHMER, "km", max_new_tokens=256)
    assert "for the text, which raw would be" in page.text_content("#answer-cost")
    assert page.text_content("#bare")
    page.reload()
    page.click("summary >> text=Earlier")
    page.fill("#text", "")
    page.click("#history button")
    assert page.input_value("#text") == KHMER
    page.click("#forget")
    assert page.evaluate("localStorage.length") == 0


def test_an_instruction_about_a_mixed_text(page: Any) -> None:
    page.fill("#text", f"Windows 10: {KHMER}")
    page.select_option("#task", "")
    page.fill("#instruction", "What is it about?")
    page.uncheck("#beside")
    assert not page.is_visible("#raw")
    page.click("#ask")
    until(page, "document.getElementById('answer-cost').textContent")
    assert page.text_content("#error") == ""


def test_arabic_runs_from_right_to_left_and_is_told_apart(page: Any) -> None:
    page.fill("#text", "أشعر بألم في رأسي.")
    page.dispatch_event("#text", "input")
    until(page, "document.getElementById('found').textContent.startsWith('No installed language')")
    assert page.evaluate("getComputedStyle(document.getElementById('text')).direction") == "rtl"
    page.click("#ask")
    until(page, "document.getElementById('error').textContent.includes('E503')")


def test_everything_has_a_name_and_is_reached_by_keyboard(page: Any) -> None:
    """Each control has a label, and Tab goes through all that are shown."""
    nameless = "[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).map(e => e.id)"
    assert page.evaluate(nameless) == []
    reached = []
    for _ in range(10):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        page.keyboard.press("Tab")
    assert reached[:5] == ["text", "model", "task", "ask", "beside"]
    assert reached.count("SUMMARY") >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser: Any, served: Served, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(served.url)
    canvas = page.evaluate("getComputedStyle(document.getElementById('text')).backgroundColor")
    assert (sum(map(int, canvas[canvas.find("(") + 1 : -1].split(",")[:3])) > 380) == (scheme == "light")
    context.close()


def test_a_wrong_key_and_the_right_one(browser: Any, engine: Engine, encoder_folder: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    with serve(engine, encoder_folder, keys=Keys.read(tmp_path / "keys", "NONE")) as locked:
        context = browser.new_context()
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.goto(locked.url)
        until(page, "document.getElementById('error').textContent.includes('wants a key')")
        for key, says in (("wrong" * 5, "wants a key"), (KEY, "")):
            page.fill("#key", key)
            page.dispatch_event("#key", "change")
            until(
                page,
                "says => says ? document.getElementById('error').textContent.includes(says) : document.querySelectorAll('#model option').length > 1",
                arg=says,
            )
        page.fill("#text", KHMER)
        page.click("#ask")
        answered(page)
        context.close()


def test_a_connection_that_breaks_off(page: Any, served: Served) -> None:
    page.fill("#text", KHMER)
    page.context.set_offline(True)
    page.click("#ask")
    until(page, "document.getElementById('error').textContent.includes('cannot be reached')")
    page.context.set_offline(False)
    page.click("#ask")
    answered(page)
    assert page.text_content("#error") == ""
