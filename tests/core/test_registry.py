"""The registry: the packaged file, files laid over it, and one clear line for each mistake in one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llink.errors import LlinkError
from llink.registry import load_registry

ENTRY = """
    role: {role}
    backend: huggingface
    licence: MIT
    source: {{hub: {{repo: me/mine}}}}
"""


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mine.yaml"
    monkeypatch.setenv("LLINK_REGISTRY", str(path))
    return path


def test_packaged_registry_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLINK_REGISTRY", raising=False)
    registry = load_registry()
    assert registry.get(registry.default.encoder).role == "encoder"
    assert registry.get(registry.default.decoder).role == "decoder"
    for name, entry in registry.models.items():
        assert entry.licence, name
        assert entry.licence_url.startswith("https://"), name
        if entry.source.hub:
            assert re.fullmatch(r"[0-9a-f]{40}", entry.source.hub.revision), name
            assert entry.source.hub.sha256, name


def test_overlay_adds_a_model_and_changes_the_default(overlay: Path) -> None:
    overlay.write_text("default: {decoder: mine}\nmodels:\n  mine:" + ENTRY.format(role="decoder"))
    registry = load_registry()
    assert registry.default.decoder == "mine"
    assert registry.default.encoder == "gemma3-270m"
    assert registry.get("mine").source.hub is not None


def test_unknown_model_says_what_was_meant() -> None:
    with pytest.raises(LlinkError, match=r"\[E101\].*Did you mean 'gemma3-270m'\?"):
        load_registry().get("gemma3-270")


def test_wrong_role() -> None:
    with pytest.raises(LlinkError, match=r"\[E103\].*Available: gemma3-270m"):
        load_registry().get("smollm2-135m-instruct", role="encoder")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 2", "version"),
        ("colour: red", "colour: unknown key"),
        ("models:\n  mine: {rolle: encoder}", "models.mine"),
        ("models:\n  ../up:" + ENTRY.format(role="decoder"), r"models.\.\./up"),
        ("models:\n  mine:" + ENTRY.format(role="singer"), "models.mine.role: .*'encoder' or 'decoder'"),
        ("models: {mine: {role: encoder, backend: x, licence: MIT, source: {}}}", "exactly one of 'wheel' and 'hub'"),
        (
            "models: {mine: {role: encoder, backend: x, licence: MIT, source: {wheel: {files: "
            "[{package: '--index-url=http://evil', member: a}], sha256: " + "0" * 64 + ", bytes: 1}}}}",
            "models.mine.source.wheel.files.0.package",
        ),
        ("default: {encoder: nope}", "default.encoder: expected"),
        ("models: [a, b]", "models: expected a mapping"),
        ("just text", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_naming_the_key(overlay: Path, text: str, says: str) -> None:
    overlay.write_text(text)
    with pytest.raises(LlinkError, match=rf"^\[E102\] Invalid registry .*mine.yaml: .*{says}") as caught:
        load_registry()
    assert "\n" not in str(caught.value)


def test_missing_overlay(overlay: Path) -> None:
    with pytest.raises(LlinkError, match=r"\[E102\].*No such file"):
        load_registry()
