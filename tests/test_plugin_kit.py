"""The packages that docs/plugins.md shows in full: installed as they stand, listed, trained with, and their own tests run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
FILE = re.compile(r"^`(llink-[^`\n]+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROJECTS = ("llink-lao", "llink-labse", "llink-spread", "llink-attentive")


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, written to where it says they are."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in FILE.findall(PAGE.read_text("utf-8")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def installed(projects: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages installed: by pip where their build backend is at hand, else as pip leaves them."""
    target = tmp_path_factory.mktemp("installed")
    for name in PROJECTS:
        if importlib.util.find_spec("hatchling"):
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet",
                 "--disable-pip-version-check", "--target", str(target), str(projects / name)],
                check=True,
            )  # fmt: skip
        else:
            lay_out(projects / name, target)
    return target


def lay_out(project: Path, target: Path) -> None:
    """The packages that ``pyproject.toml`` names, and their dist-info."""
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    about = settings["project"]
    for package in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for file in (project / package).rglob("*"):
            if file.is_file():
                place = target / file.relative_to(project)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read_bytes())
    info = target / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    lines = [f"{name} = {module}\n" for name, module in about["entry-points"]["llink"].items()]
    (info / "entry_points.txt").write_text("[llink]\n" + "".join(lines))


def run(installed: Path, *command: str | Path, cwd: Path) -> str:
    """What a Python module says on stdout in a process that sees the installed packages."""
    clean = {name: value for name, value in os.environ.items() if name not in ("LLINK_REGISTRY", "LLINK_DATA")}
    result = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**clean, "PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8", "LLINK_STRICT_PLUGINS": "1"},
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=500,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_all_are_listed(installed: Path, tmp_path: Path) -> None:
    assert re.search(r"^lo +Lao .*llink-lao", run(installed, "llink", "languages", cwd=tmp_path), re.MULTILINE)
    report = json.loads(run(installed, "llink", "plugins", "--json", cwd=tmp_path))
    assert report["failures"] == []
    brings = {plugin["name"]: plugin["brings"] for plugin in report["plugins"]}
    assert brings["lao"] == {"llink_languages": ["lo"]}
    assert brings["labse"] == {"llink_encoders": ["labse"]}
    assert brings["spread"] == {"llink_losses": ["slot_spread"]}
    assert brings["attentive"] == {"llink_injectors": ["attentive"]}
    assert "lo/cpu" in run(installed, "llink", "recipes", "ls", cwd=tmp_path)


def test_example_language_is_trained_with_the_example_encoder(
    installed: Path, tmp_registry: Path, tmp_path: Path
) -> None:
    """The tiny encoder is given to the example backend by name, as the page's registry gives it LaBSE."""
    from llink.interfaces import Sample
    from llink.testing import tiny_recipe, write_samples

    raw = yaml.safe_load(tmp_registry.read_text())
    raw["models"]["tiny-encoder"]["backend"] = "labse"
    tmp_registry.write_text(yaml.safe_dump(raw))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe("lo")))
    show = "import json; from llink_lao import LAO; print(json.dumps([(s.foreign, s.english) for s in LAO.samples]))"
    (tmp_path / "show.py").write_text(show)
    samples = [Sample(*row) for row in json.loads(run(installed, "show", cwd=tmp_path))]
    write_samples(samples, tmp_path / "data")
    said = run(
        installed, "llink", "train", "lo", "--recipe", "tiny.yaml", "--data", "data", "--out", "run", cwd=tmp_path
    )
    # Its adapter goes into the package, which is not in site-packages.
    assert str(installed / "llink_lao" / "adapters" / "tiny-encoder--tiny-decoder") in said
    manifest = json.loads((tmp_path / "run" / "adapter" / "manifest.json").read_text())
    assert (manifest["language"], manifest["encoder"]) == ("lo", "tiny-encoder")
    rows = run(installed, "llink", "translate", "--json", samples[0].foreign, cwd=tmp_path).splitlines()
    assert [json.loads(row)["language"] for row in rows] == ["lo"]


@pytest.mark.parametrize("name", PROJECTS)
def test_their_own_tests_pass(installed: Path, projects: Path, tmp_path: Path, name: str) -> None:
    tests = projects / name / "tests"
    said = run(installed, "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tests, tests, cwd=tmp_path)
    written = sum(len(re.findall(r"^def test_", path.read_text("utf-8"), re.MULTILINE)) for path in tests.glob("*.py"))
    assert written > 0
    assert f"{written} passed" in said


def test_registry_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llink.store.registry import load_registry

    [example] = re.findall(r"^```yaml\n(version: 2\n.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    monkeypatch.setenv("LLINK_REGISTRY", str(path))
    registry = load_registry()
    assert registry.get("labse", "encoder").backend == "labse"
    assert registry.languages["lo"].package == "llink_lao"


def test_kit_is_documented() -> None:
    """Every fixture and function of ``llink.testing`` is on the page, with the arguments that it shows."""
    from llink import testing

    page = PAGE.read_text("utf-8")
    for name, value in vars(testing).items():
        if getattr(value, "__module__", "") == testing.__name__ and callable(value) and not name.startswith("_"):
            assert f"`{name}" in page, name
