"""The plugin manager, with real plugins installed beside LLINK in a process of their own."""

from __future__ import annotations

import json
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
    return execute(["-c", code], PYTHONPATH=str(folder), **env)


def cli(*args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """The ``llink`` command, which unlike ``python -m`` does not import from the current folder."""
    code = "import sys; sys.path = [p for p in sys.path if p]; from llink.cli import main; main(prog_name='llink')"
    return execute(["-c", code, *args], cwd=cwd, **env)


def execute(command: list[str], cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **env},
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LLINK_HOME with a registry of its own, which names a Lao package in a folder beside it."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "registry.yaml").write_text("version: 2\nlanguages:\n  lo: {package: llink_lao, path: ../packages}\n")
    packages = tmp_path / "packages" / "llink_lao"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text(LAO.format(code="lo", name="Lao"))
    return home


def test_language_of_the_registry(home: Path) -> None:
    listed = cli("languages")
    assert listed.stderr == ""
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert ["lo", "Lao", "Lao", "none", "registry", "(user)"] in rows
    assert any(row[0] == "km" and row[-2:] == ["built", "in"] for row in rows)
    shown = cli("languages", "lao").stdout
    assert "from      registry (user)\n" in shown
    assert f"package   llink_lao in {home.parent / 'packages'}\n" in shown


def test_language_of_an_older_registry_and_of_llink_registry(home: Path, tmp_path: Path) -> None:
    (home / "registry.yaml").write_text("version: 1\n")
    named = tmp_path / "packages" / "named.yaml"
    named.write_text("languages: {lo: {package: llink_lao, path: .}}\n")
    listed = cli("languages", LLINK_REGISTRY=str(named))
    assert "registry (LLINK_REGISTRY)" in listed.stdout
    assert listed.stderr == ""


def test_installed_package_is_not_loaded_again_for_the_registry(home: Path, tmp_path: Path) -> None:
    install(tmp_path / "packages", "lao", LAO.format(code="lo", name="Lao"))
    (tmp_path / "packages" / "llink_lao-1.0.dist-info" / "entry_points.txt").write_text("[llink]\nlao = llink_lao\n")
    listed = cli("languages", PYTHONPATH=str(tmp_path / "packages"))
    assert listed.stderr == ""
    [row] = [line.split() for line in listed.stdout.splitlines() if line.startswith("lo ")]
    assert row[-1] == "llink-lao"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{package: llink_lao, path: ../moved}", "FileNotFoundError: its folder"),
        ("{package: llink_lao_too, path: ../packages}", "ModuleNotFoundError: there is no package 'llink_lao_too'"),
        ("{package: llink_lao}", "ModuleNotFoundError: there is no package 'llink_lao'"),
    ],
)
def test_language_that_is_gone_says_how_to_be_rid_of_it(home: Path, entry: str, says: str) -> None:
    (home / "registry.yaml").write_text(f"version: 2\nlanguages:\n  lo: {entry}\n")
    listed = cli("languages")
    assert listed.returncode == 0
    assert "Khmer" in listed.stdout
    assert listed.stderr.count("\n") == 1
    assert says in listed.stderr
    assert f"`llink remove-language lo` takes it out of {home / 'registry.yaml'}" in listed.stderr
    assert cli("languages", LLINK_STRICT_PLUGINS="1").returncode != 0


def test_project_registry_runs_no_code_of_its_folder(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "packages"
    (home / "registry.yaml").unlink()
    registry = project / "registry.yaml"
    registry.write_text("languages: {lo: {package: llink_lao, path: .}}\n")
    (project / "llink_lao" / "__init__.py").write_text("open('ran', 'w').close()\n" + LAO.format(code="lo", name="Lao"))
    listed = cli("languages", cwd=project)
    assert listed.returncode == 0
    assert listed.stderr.count("\n") == 1
    assert f"the path that {registry} gives is ignored" in listed.stderr
    assert not (project / "ran").exists()
    # A package that is installed anyway may be named; the path is still told of.
    listed = cli("languages", cwd=project, PYTHONPATH=str(project))
    assert listed.stderr.count("\n") == 1
    assert f"the path that {registry} gives is ignored" in listed.stderr
    assert "registry (project)" in listed.stdout


def test_plugins_lists_what_each_brings(home: Path, tmp_path: Path) -> None:
    install(tmp_path, "burmese_too", LAO.format(code="my", name="Burmese"))
    listed = cli("plugins", PYTHONPATH=str(tmp_path))
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert rows[0] == ["plugin", "version", "from", "hooks", "brings"]
    assert ["llink_lao", "none", "registry", "(user)", "llink_languages", "lo"] in rows
    assert ["burmese_too", "1.0", "llink-burmese_too", "llink_languages", "nothing"] in rows
    assert "plugin 'burmese_too' (llink-burmese_too) failed: ValueError: 'my' already comes from" in listed.stdout
    told = json.loads(cli("plugins", "--json", PYTHONPATH=str(tmp_path)).stdout)
    plugins = {plugin["name"]: plugin for plugin in told["plugins"]}
    assert plugins["khmer"]["brings"] == {"llink_languages": ["km"]}
    assert plugins["khmer"]["origin"]["distribution"] == "llink"
    assert plugins["huggingface"]["hooks"] == ["llink_decoders", "llink_encoders"]
    assert plugins["llink_lao"]["origin"] == {"kind": "registry (user)", "distribution": "", "version": ""}
    [failure] = told["failures"]
    assert failure["plugin"] == "burmese_too"
    assert failure["origin"]["version"] == "1.0"


def test_models_say_which_registry_they_are_from(home: Path) -> None:
    entry = "{role: decoder, backend: huggingface, licence: MIT, source: {hub: {repo: me/mine}}}"
    (home / "registry.yaml").write_text(f"version: 1\nmodels: {{mine: {entry}}}\n")
    rows = {line.split()[0]: line.split() for line in cli("models").stdout.splitlines() if line}
    assert rows["mine"][1:] == ["decoder", "no", "unknown", "user", "MIT"]
    assert "packaged" in rows["gemma3-270m"]


def test_invalid_registry_is_one_line(home: Path) -> None:
    (home / "registry.yaml").write_text("languages: {lo: {}}")
    listed = cli("languages")
    assert listed.returncode == 1
    assert listed.stderr.startswith("llink: [E102] ")
    assert listed.stderr.count("\n") == 1
