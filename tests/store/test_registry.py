"""The registry: its layers and versions, one clear line for each mistake, and edits that lose nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llink.errors import LlinkError
from llink.store.registry import edit, layers, load_registry, origin, packaged_registry, user_registry

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
            # A commit stands for the hashes of its files; where they are not stated, the store keeps those that it saw first.
            assert re.fullmatch(r"[0-9a-f]{40}", entry.source.hub.revision), name


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
        ("version: two", "version: expected a whole number up to 2, got 'two'"),
        ("version: 0", "version: expected a whole number"),
        ("colour: red", "colour: unknown key"),
        ("langages: {}", "langages: unknown key. Did you mean 'languages'"),
        ("models:\n  mine: {rolle: encoder}", "models.mine.rolle: unknown key. Did you mean 'role'"),
        ("default: {encodr: mine}", "default.encodr: unknown key. Did you mean 'encoder'"),
        (
            "models: {source: {role: encoder, backend: x, licence: MIT, source: {wheel: {files: [{pakage: a}]}}}}",
            "models.source.source.wheel.files.0.pakage: unknown key. Did you mean 'package'",
        ),
        ("languages: {lo: {pakage: llink_lao}}", "languages.lo.pakage: unknown key. Did you mean 'package'"),
        ("languages: {lo: {package: llink-lao}}", "languages.lo.package: expected the name of a Python package"),
        ("languages: {lo: {package: ../evil}}", "languages.lo.package"),
        ("languages: {../up: {package: a}}", r"languages.\.\./up"),
        ("languages: {no: {package: llink_norwegian}}", "write it in quotes"),
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


def test_file_for_a_newer_llink_is_refused(overlay: Path) -> None:
    overlay.write_text("version: 3\ndatasets: {}\n")
    with pytest.raises(
        LlinkError, match=r"^\[E106\] Registry .*mine.yaml is of version 3; .* up to 2\. It needs an LLINK"
    ):
        load_registry()


def test_empty_overlay_changes_nothing(overlay: Path) -> None:
    overlay.write_text("# models:\n")
    assert load_registry().models.keys() == {*layers()[0].content.models}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``./registry.yaml`` of an empty current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("LLINK_REGISTRY", raising=False)
    return folder / "registry.yaml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_layers_lie_over_one_another(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = "languages:\n  {}: {{package: {}}}\n  lo: {{package: {}}}\n"
    write(user_registry(), "version: 2\n" + every.format("hr", "of_user", "lao_of_user"))
    write(project, every.format("hsb", "of_project", "lao_of_project"))
    named = write(tmp_path / "named.yaml", "models:\n  mine:" + ENTRY.format(role="decoder"))
    monkeypatch.setenv("LLINK_REGISTRY", str(named))
    found = layers()
    assert [layer.name for layer in found] == ["packaged", "user", "project", "LLINK_REGISTRY"]
    assert [layer.path for layer in found] == [packaged_registry(), user_registry(), project, named]
    registry = load_registry()
    assert {code: registry.languages[code].package for code in ("hr", "hsb", "lo")} == {
        "hr": "of_user",
        "hsb": "of_project",
        "lo": "lao_of_project",
    }
    assert [origin("languages", code) for code in ("hr", "hsb", "lo", "zz")] == ["user", "project", "project", ""]
    assert [origin("models", name) for name in ("gemma3-270m", "mine")] == ["packaged", "LLINK_REGISTRY"]


@pytest.mark.parametrize("part", ["packaged", "user", "LLINK_REGISTRY"])
def test_a_file_of_two_layers_is_counted_once(project: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    if part == "packaged":
        project.symlink_to(packaged_registry())
    elif part == "user":
        monkeypatch.setenv("LLINK_HOME", str(write(project, "languages: {}").parent))
    else:
        monkeypatch.setenv("LLINK_REGISTRY", write(project, "languages: {}").name)
    assert [layer.name for layer in layers()] == list(dict.fromkeys(["packaged", part]))


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: ConfigMap\n",
        "- a\n- b\n",
        "version: 0.1\nlog: {}\n",
        "{{ template }}",
        "a: [",
        "",
        "\xff: [",
    ],
)
def test_registry_of_another_tool_is_left_alone(project: Path, text: str) -> None:
    project.write_text(text, encoding="latin-1")
    assert [layer.name for layer in layers()] == ["packaged"]


@pytest.mark.parametrize("text", ["version: 2\nmodles: {}\n", "models: [", "languages: {lo: {}}\n"])
def test_mistake_in_a_project_registry_names_that_file(project: Path, text: str) -> None:
    project.write_text(text)
    write(user_registry(), "version: 1\n")
    with pytest.raises(LlinkError, match=rf"^\[E102\] Invalid registry {re.escape(str(project))}: "):
        load_registry()


def test_a_default_that_names_no_model_is_told_of_its_own_file(project: Path) -> None:
    write(user_registry(), "default: {encoder: nope}\n")
    write(project, "languages: {}\n")
    with pytest.raises(LlinkError, match=r"home/registry.yaml: default.encoder: expected .* got 'nope'"):
        load_registry()


HAND_WRITTEN = """\
# My own models and languages.

version: 1  # as it was

# Spoken at home.
languages:
  # the first
  hr: {package: llink_croatian}  # good

  # the second
  hsb:
    package: 'llink_sorbian'
    path: "../languages"

  # the third
  lo:
    package: llink_lao

# Tried out.
models:
  mine:
    role: decoder
    backend: huggingface
    licence: MIT
    source: {hub: {repo: me/mine}}

# The end.
"""


def test_edit_keeps_what_people_wrote(project: Path) -> None:
    path = write(user_registry(), HAND_WRITTEN)
    text = HAND_WRITTEN.replace("version: 1", "version: 2")
    with edit(path):
        pass
    assert path.read_text("utf-8") == text
    with edit(path) as data:
        data["languages"]["no"] = {"package": "llink_norwegian"}
    lao = "  lo:\n    package: llink_lao\n"
    text = text.replace(lao, lao + "  'no':\n    package: llink_norwegian\n")
    assert path.read_text("utf-8") == text
    assert load_registry().languages["no"].package == "llink_norwegian"
    with edit(path) as data:
        del data["languages"]["hsb"]
    gone = "  # the second\n  hsb:\n    package: 'llink_sorbian'\n    path: \"../languages\"\n\n"
    assert path.read_text("utf-8") == text.replace("\n" + gone, "\n")


def test_edit_gives_the_packaged_file_back_byte_for_byte(tmp_path: Path) -> None:
    copy = write(tmp_path / "copy.yaml", packaged_registry().read_text("utf-8"))
    with edit(copy) as data:
        data["languages"]["lo"] = {"package": "llink_lao"}
    with edit(copy) as data:
        del data["languages"]["lo"]
    assert copy.read_bytes() == packaged_registry().read_bytes()


@pytest.mark.parametrize("text", [None, "", "# later\n", "languages:\n", "version: 1\n"])
def test_edit_fills_what_is_not_there_yet(project: Path, text: str | None) -> None:
    path = user_registry() if text is None else write(user_registry(), text)
    with edit(path) as data:
        data.setdefault("languages", {})["lo"] = {"package": "llink_lao", "path": "here"}
    assert load_registry().languages["lo"].path == "here"
    written = path.read_text("utf-8")
    assert "version: 2" in written
    assert "# later" in written or text != "# later\n"
    assert {entry.name for entry in path.parent.iterdir()} == {"locks", "registry.yaml"}


def test_edit_through_a_link_changes_the_file_behind_it(project: Path, tmp_path: Path) -> None:
    behind = write(tmp_path / "dotfiles" / "registry.yaml", "version: 2\n")
    user_registry().parent.mkdir()
    user_registry().symlink_to(behind)
    with edit(user_registry()) as data:
        data["languages"] = {"lo": {"package": "llink_lao"}}
    assert user_registry().is_symlink()
    assert "llink_lao" in behind.read_text()


@pytest.mark.parametrize(
    ("section", "value", "says"),
    [
        ("languages", {"lo": {"package": "a b"}}, "languages.lo.package"),
        ("languages", {"lo": {"packag": "a"}}, "Did you mean 'package'"),
        ("default", {"encoder": "nope"}, "default.encoder"),
    ],
)
def test_edit_writes_nothing_invalid(project: Path, section: str, value: object, says: str) -> None:
    path = write(user_registry(), HAND_WRITTEN)
    with pytest.raises(LlinkError, match=rf"\[E102\].*{says}"), edit(path) as data:
        data[section] = value
    assert path.read_text("utf-8") == HAND_WRITTEN


def test_edit_that_fails_inside_writes_nothing(project: Path) -> None:
    def change() -> None:
        with edit(user_registry()) as data:
            data["languages"] = {"lo": {"package": "llink_lao"}}
            raise KeyError("changed my mind")

    with pytest.raises(KeyError):
        change()
    assert not user_registry().exists()


@pytest.mark.parametrize("text", ["models: 3\n", "version: 9\n", "languages: {}\nlanguages: {}\n", "a: ["])
def test_edit_of_a_broken_file_leaves_it(project: Path, text: str) -> None:
    path = write(user_registry(), text)
    with pytest.raises(LlinkError, match=r"\[E10[26]\].*registry.yaml"), edit(path):
        pytest.fail("it should not be given out")
    assert path.read_text() == text


EDITOR = """
import sys, time
from pathlib import Path
from llink.store.registry import edit

path, code, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with edit(path) as data:
    languages = data.setdefault("languages", {})
    print("inside", flush=True)
    time.sleep(seconds)
    languages[code] = {"package": f"llink_{code}"}
"""


def editor(path: Path, code: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", EDITOR, str(path), code, str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_edit_at_once_lose_nothing(project: Path) -> None:
    codes = ["hr", "hsb", "lo"]
    processes = [editor(user_registry(), code, 0.3) for code in codes]
    for process in processes:
        start(process)
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert sorted(load_registry().languages.keys() - layers()[0].content.languages.keys()) == codes


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_in_the_middle_of_an_edit(project: Path) -> None:
    path = write(user_registry(), HAND_WRITTEN)
    killed = editor(path, "zza", 600)
    start(killed)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "inside\n"
    with pytest.raises(LlinkError, match=r"\[E107\] Another process"), edit(path, timeout=0.2):
        pytest.fail("two at once")
    killed.kill()
    killed.wait(timeout=60)
    assert path.read_text("utf-8") == HAND_WRITTEN
    began = time.monotonic()
    with edit(path) as data:
        data["languages"]["zzb"] = {"package": "llink_b"}
    assert time.monotonic() - began < 10
    assert {"hr", "zzb"} <= load_registry().languages.keys()
    assert "zza" not in load_registry().languages
