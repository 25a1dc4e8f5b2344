"""The plugin manager, with real plugins installed beside LLINK in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llink.errors import LlinkError
from llink.plugins import decoder_backends, encoder_backends, language, languages

LAO = """
from llink.hookspecs import hookimpl
from llink.interfaces import Language

@hookimpl
def llink_languages():
    return [Language(code="{code}", code3="lao", name="{name}", scripts=("LAO",), package="llink_lao")]
"""

SHOW = "from llink import plugins; plugins.languages(); plugins.languages(); print(sorted(plugins.languages()))"


def install(folder: Path, name: str, code: str) -> None:
    """A distribution as pip leaves it: a module and its dist-info with one entry point."""
    (folder / f"plug_{name}.py").write_text(code)
    info = folder / f"llink_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llink-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[llink]\n{name} = plug_{name}\n")


def run(folder: Path, code: str = SHOW, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_third_party_comes_through_the_same_door(tmp_path: Path) -> None:
    install(tmp_path, "lao", LAO.format(code="lo", name="Lao"))
    result = run(tmp_path)
    assert "'km', 'lo'" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("def broken(:", "SyntaxError"),
        (LAO.format(code="lo", name="Lao").replace("llink_languages()", "llink_languages(extra)"), "extra"),
        (LAO.format(code="lo", name="Lao").replace("llink_languages()", "llink_langages()"), "llink_langages"),
        (LAO.format(code="lo", name="Lao").replace("return [", "return 1 / 0 or ["), "ZeroDivisionError"),
        (LAO.format(code="lo", name="Lao").replace("return [", "return 'lo' or ["), "must return a list of Language"),
    ],
)
def test_broken_plugin_is_skipped_with_one_line(tmp_path: Path, code: str, says: str) -> None:
    install(tmp_path, "broken", code)
    result = run(tmp_path)
    assert result.returncode == 0
    assert "'km'" in result.stdout
    assert "'lo'" not in result.stdout
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("llink: plugin 'broken': skipped: ")
    assert says in result.stderr
    assert run(tmp_path, LLINK_STRICT_PLUGINS="1").returncode != 0


def test_second_plugin_does_not_take_over_a_code(tmp_path: Path) -> None:
    install(tmp_path, "other", LAO.format(code="km", name="Not Khmer"))
    result = run(tmp_path, "from llink import plugins; print(plugins.languages()['km'].name, plugins.failures())")
    assert result.stdout.startswith("Khmer [PluginFailure(plugin='other'")
    assert result.stderr.count("\n") == 1
    assert "Language 'km' skipped" in result.stderr


def test_built_ins() -> None:
    assert {"gemma3", "xlm_roberta", "huggingface"} <= encoder_backends().keys()
    assert {"smollm2", "llama", "huggingface"} <= decoder_backends().keys()
    assert "km" in languages()


@pytest.mark.parametrize("name", ["km", "KHM", "Khmer", "khmer ", "ភាសាខ្មែរ"])
def test_a_language_has_several_names(name: str) -> None:
    assert language(name).code == "km"


def test_unknown_language() -> None:
    with pytest.raises(LlinkError, match=r"\[E201\].*Did you mean 'Khmer'\?"):
        language("Kmer")


def test_listing_plugins_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys; from llink import plugins as p; p.languages(); p.encoder_backends(); p.decoder_backends()"
    assert run(tmp_path, code + "; print('torch' in sys.modules)").stdout == "False\n"
