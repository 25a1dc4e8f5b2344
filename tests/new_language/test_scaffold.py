"""``llink add-language`` and ``remove-language``, through real processes: what they make, refuse and survive."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from llink.cli import main
from llink.data.split import key
from llink.store.registry import edit, user_registry

ROOT = Path(__file__).parents[2]
LAO = "ສະບາຍດີ ປະເທດລາວ"


def environment(**env: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLINK_") or name == "LLINK_HOME"}
    return {**kept, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **env}


def llink(*args: str | Path, cwd: Path, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``cwd``; nothing is asked, for stdin is no terminal."""
    command = [sys.executable, "-m", "llink", *map(str, args)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, cwd=cwd, env=environment(**env), timeout=120
    )
    result = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert result.returncode == status, result
    return result


def fails(*args: str | Path, code: str, cwd: Path, **env: str) -> str:
    """The one line of an error with ``code``."""
    result = llink(*args, cwd=cwd, status=1, **env)
    assert result.stderr.startswith(f"llink: [{code}] "), result.stderr
    assert result.stderr.count("\n") == 1
    return result.stderr


def tsv(path: Path, foreign: Iterable[str], english: str = "The river number {} is wide and deep.") -> Path:
    path.write_text("".join(f"{english.format(i)}\t{text}\n" for i, text in enumerate(foreign)), encoding="utf-8")
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def shown(code: str, cwd: Path) -> dict[str, Any]:
    """The fields of an installed language, as another process sees them."""
    source = (
        "import json, sys; from dataclasses import asdict; from llink.plugins import language; "
        "print(json.dumps(asdict(language(sys.argv[1]))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", source, code], capture_output=True, check=True, cwd=cwd, env=environment(), timeout=120
    )
    fields: dict[str, Any] = json.loads(result.stdout)
    return fields


def registered() -> dict[str, Any]:
    text = user_registry().read_text("utf-8") if user_registry().exists() else ""
    return dict((yaml.safe_load(text) or {}).get("languages") or {})


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder outside any checkout."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """LLINK_HOME, as the environment of every test has it."""
    return tmp_path / "home"


@pytest.fixture
def lao_pairs(here: Path) -> Path:
    return tsv(here / "pairs.tsv", [f"{LAO} {i}." for i in range(40)])


def test_one_command_makes_a_language_that_works(here: Path, home: Path, lao_pairs: Path) -> None:
    with lao_pairs.open("a", encoding="utf-8") as more:
        more.write("broken\n")
        more.write(f"The river number 3 is wide and deep.\t  {LAO}  3.\n")  # the same, spelt otherwise
        more.write(f"the RIVER number 3 is wide and deep.\t{LAO}\n")  # another translation of the same string
    report = llink("add-language", "lo", "--name", "Lao", "--data", lao_pairs.name, cwd=here).stdout
    for left_out in ("1 broken", "1 duplicates", "first: pairs.tsv:41"):
        assert left_out in report
    assert "licence unknown" in report

    train, dev = (rows(home / "data" / "lo" / f"{name}.jsonl.gz") for name in ("train", "dev"))
    assert (len(train) + len(dev), len({key(row["english"]) for row in dev})) == (41, 4)
    assert not {key(row["english"]) for row in train} & {key(row["english"]) for row in dev}

    lao = shown("lo", here)
    assert (lao["code3"], lao["endonym"], lao["scripts"]) == ("lao", "ລາວ", ["LAO"])
    assert lao["digits"] == "໐໑໒໓໔໕໖໗໘໙"
    trained = {row["english"]: row["foreign"] for row in train}
    assert 3 <= len(lao["samples"]) <= 12
    assert all(trained[sample["english"]] == sample["foreign"] for sample in lao["samples"])
    assert lao["sources"] == [{"name": "pairs.tsv", "where": "pairs.tsv", "licence": "unknown"}]

    assert "lo/cpu: ok" in llink("recipes", "validate", "lo/cpu", "lo/smoke", "lo/gpu", cwd=here).stdout
    assert "Lao" in llink("languages", cwd=here).stdout
    assert report.rstrip().splitlines()[-2].split()[:3] == ["llink", "train", "lo"]


def test_the_project_is_complete(here: Path, lao_pairs: Path) -> None:
    llink("add-language", "lo", "--data", lao_pairs, "--licence", "CC0-1.0", "--source", "me | you", cwd=here)
    project = here / "llink-lao"
    present = {str(path.relative_to(project)) for path in project.rglob("*") if "__pycache__" not in path.parts}
    assert {
        ".gitignore",
        "CARD.md",
        "README.md",
        "pyproject.toml",
        "tests/test_lao.py",
        "llink_lao/__init__.py",
        "llink_lao/samples.py",
        "llink_lao/recipes/cpu.yaml",
        "llink_lao/recipes/smoke.yaml",
        "llink_lao/recipes/gpu.yaml",
    } <= present
    assert 'lao = "llink_lao"' in (project / "pyproject.toml").read_text("utf-8")
    assert len((project / "llink_lao" / "__init__.py").read_text("utf-8").splitlines()) <= 25
    assert "| me / you | CC0-1.0 | 40 |" in (project / "CARD.md").read_text("utf-8")
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", project, project / "tests"],
        cwd=project,
        env=environment(PYTHONPATH=os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert own.returncode == 0, own.stdout + own.stderr
    # "${{ … }}" is GitHub's own.
    left = re.compile(r"\$\{(?!\{)")
    unresolved = [path.name for path in project.rglob("*") if path.is_file() and left.search(path.read_text("utf-8"))]
    assert unresolved == []


def test_dry_run_writes_nothing(here: Path, home: Path, lao_pairs: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    report = llink("add-language", "lo", "--data", lao_pairs, "--dry-run", cwd=here).stdout
    assert snapshot(tmp_path) == before
    assert not home.exists() or not any(home.iterdir())
    assert "llink_lao/recipes/cpu.yaml" in report
    assert "36 to train on, 4 held out" in report


def test_nothing_is_overwritten(here: Path, home: Path, lao_pairs: Path) -> None:
    llink("add-language", "lo", "--data", lao_pairs, cwd=here)
    before = snapshot(here), snapshot(home / "data")
    assert "llink_lao" in fails("add-language", "Lao", "--data", lao_pairs, cwd=here, code="E222")
    assert (snapshot(here), snapshot(home / "data")) == before

    (here / "llink-nepali").mkdir()
    (here / "llink-nepali" / "mine.txt").write_text("mine")
    assert "llink-nepali" in fails("add-language", "ne", cwd=here, code="E221")
    assert [path.name for path in (here / "llink-nepali").iterdir()] == ["mine.txt"]
    assert "llink_plugins" in fails("add-language", "ne", "--name", "Plugins", cwd=here, code="E221")


def test_other_data_is_not_overwritten(here: Path, home: Path, lao_pairs: Path) -> None:
    llink("add-language", "lo", "--data", lao_pairs, cwd=here)
    llink("remove-language", "lo", "--delete", "--yes", cwd=here)
    before = snapshot(home / "data")
    other = tsv(here / "other.tsv", [f"{LAO} {i} {i}" for i in range(40)])
    fails("add-language", "lo", "--data", other, cwd=here, code="E225")
    assert snapshot(home / "data") == before
    assert not (here / "llink-lao").exists()
    assert registered() == {}
    # The same data is no other data.
    llink("add-language", "lo", "--data", lao_pairs, cwd=here)
    assert snapshot(home / "data") == before


def test_data_that_is_there_is_used(here: Path, home: Path) -> None:
    folder = home / "data" / "lo"
    folder.mkdir(parents=True)
    for name, count in (("train", 20), ("dev_general", 3)):
        lines = [
            json.dumps({"english": f"This is {name} {i}.", "foreign": f"{LAO} {i}", "source": "s", "licence": "MIT"})
            for i in range(count)
        ]
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
            out.write("\n".join(lines))
    before = snapshot(folder)
    report = llink("add-language", "lo", cwd=here).stdout
    assert "20 to train on, 3 held out" in report
    assert snapshot(folder) == before
    recipe = yaml.safe_load((here / "llink-lao" / "llink_lao" / "recipes" / "cpu.yaml").read_text("utf-8"))
    assert recipe["data"] == {"train": ["lo/train.jsonl.gz"], "dev": {"dev_general": "lo/dev_general.jsonl.gz"}}


def test_without_data_the_next_step_is_to_get_some(here: Path, home: Path) -> None:
    report = llink("add-language", "ht", cwd=here).stdout
    assert "llink data harvest ht" in report
    assert (here / "llink-haitian-creole" / "llink_haitian_creole").is_dir()
    assert shown("ht", here)["samples"] == []
    assert not (home / "data").exists()


def test_dev_pairs_of_ones_own(here: Path, home: Path, lao_pairs: Path) -> None:
    dev = tsv(here / "dev.tsv", [f"{LAO} {i}" for i in range(5)])  # English strings of which pairs.tsv has all
    report = llink("add-language", "lo", "--data", lao_pairs, "--dev", dev, cwd=here).stdout
    assert "5 in the dev set" in report
    assert len(rows(home / "data" / "lo" / "train.jsonl.gz")) == 35
    assert len(rows(home / "data" / "lo" / "dev.jsonl.gz")) == 5


def test_right_to_left_with_one_of_two_sets_of_digits(here: Path) -> None:
    pairs = tsv(here / "ur.tsv", [f"یہ دریا نمبر ۱۲ ہے{'۔' if i % 2 else '؟'}" for i in range(20)])
    assert "right to left" in llink("add-language", "ur", "--data", pairs, cwd=here).stdout
    urdu = shown("ur", here)
    assert (urdu["scripts"], urdu["digits"]) == (["ARABIC"], "۰۱۲۳۴۵۶۷۸۹")
    assert {"؟", "۔"} <= set(urdu["sentence_ends"])
    assert "right to left" in (here / "llink-urdu" / "CARD.md").read_text("utf-8")


def test_digits_that_cldr_names_where_no_data_tell(here: Path) -> None:
    for code in ("fa", "ur", "ps"):
        assert "digits ۰۱۲۳۴۵۶۷۸۹" in llink("add-language", code, "--dry-run", cwd=here).stdout
    pairs = tsv(here / "ps.tsv", [f"دا سیند لوی دی {'آ' * (i + 1)}" for i in range(20)])
    assert "digits ۰۱۲۳۴۵۶۷۸۹" in llink("add-language", "ps", "--data", pairs, "--dry-run", cwd=here).stdout
    assert "digits ٠١٢٣٤٥٦٧٨٩" in llink("add-language", "sd", "--dry-run", cwd=here).stdout


def test_a_language_in_two_scripts(here: Path) -> None:
    pairs = tsv(here / "sr.tsv", [f"{'Река је широка' if i % 2 else 'Reka je široka'} {i}" for i in range(20)])
    report = llink("add-language", "sr", "--data", pairs, "--dry-run", cwd=here).stdout
    assert "50% of the texts are mostly in its script; Latin 50%: add --script" in report
    both = ("--script", "Cyrl", "--script", "Latin")
    assert "100% of the texts" in llink("add-language", "sr", *both, "--data", pairs, cwd=here).stdout
    assert shown("sr", here)["scripts"] == ["CYRILLIC", "LATIN"]


def test_a_mark_that_ends_many_texts_is_pointed_out(here: Path) -> None:
    pairs = tsv(here / "bo.tsv", ["ཆུ་འདི་ཆེན་པོ་རེད།"] * 1 + [f"ཆུ་ཆེན་པོ {i}།" for i in range(20)])
    report = llink("add-language", "bo", "--data", pairs, "--dry-run", cwd=here).stdout
    assert "100% of the texts end in '།'" in report
    report = llink("add-language", "bo", "--data", pairs, "--sentence-ends", "།?!", "--dry-run", cwd=here).stdout
    assert "texts end in" not in report


def test_a_code_that_yaml_takes_for_false(here: Path) -> None:
    llink("add-language", "no", cwd=here)
    assert "ok" in llink("recipes", "validate", "no/cpu", cwd=here).stdout
    assert shown("no", here)["name"] == "Norwegian"
    llink("remove-language", "no", cwd=here)
    assert registered() == {}


def test_other_models_are_named_in_the_recipes_and_tried(
    here: Path, lao_pairs: Path, encoder_folder: str, decoder_folder: str
) -> None:
    models = ("--encoder", encoder_folder, "--decoder", decoder_folder)
    report = llink("add-language", "lo", "--data", lao_pairs, *models, cwd=here).stdout
    assert f"encoder {encoder_folder}: " in report
    assert "tokens a text" in report
    for name in ("cpu", "smoke", "gpu"):
        shipped = llink("recipes", "cat", f"lo/{name}", cwd=here).stdout
        assert yaml.safe_load(shipped)["encoder"]["name"] == encoder_folder
        # No adapter of another language fits other models.
        resolved = subprocess.run(
            [sys.executable, "-c", "import sys; from pathlib import Path; from llink.recipe import load_recipe; "
             "print(load_recipe(Path(sys.argv[1])).init_from)", here / f"llink-lao/llink_lao/recipes/{name}.yaml"],
            capture_output=True, text=True, check=True, env=environment(), timeout=120,
        )  # fmt: skip
        assert resolved.stdout.strip() == "None"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["Laotion"], "E220", "ISO 639"),
        (["Burmease"], "E220", "Did you mean Burmese (my)"),
        (["en"], "E220", "English"),
        (["../lo"], "E220", "ISO 639"),
        (["km"], "E222", "llink_khmer"),
        (["khm"], "E222", "llink_khmer"),
        (["tlh"], "E223", "--script"),
        (["lo", "--script", "Lan"], "E224", "Did you mean 'Latn'"),
        (["lo", "--digits", "123"], "E224", "ten"),
        (["lo", "--sentence-ends", "a."], "E224", "punctuation"),
        (["lo", "--name", 'a"""'], "E224", "no name"),
        (["lo", "--endonym", "a\\b"], "E224", "no name"),
        (["lo", "--dev", "x.tsv"], "E224", "--data"),
        (["lo", "--encoder", "gemma3-270"], "E101", "Did you mean 'gemma3-270m'"),
        (["lo", "--encoder", "smollm2-135m-instruct"], "E103", "gemma3-270m"),
        (["lo", "--data", "nowhere.tsv"], "E210", "nowhere.tsv"),
        (["th", "--data", "pairs.tsv"], "E227", "most are in Lao"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    args: Sequence[str],
    code: str,
    says: str,
    here: Path,
    home: Path,
    lao_pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = snapshot(here)
    monkeypatch.chdir(here)
    result = CliRunner().invoke(main, ["add-language", *args])  # in this process: it gets no further than a look
    assert result.exit_code == 1
    assert result.stderr.startswith(f"llink: [{code}] ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert snapshot(here) == before
    assert registered() == {}
    assert not (home / "data").exists()


def test_a_terminal_is_asked_for_what_nobody_knows(here: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "llink", "add-language", "tlh"]
    process = subprocess.Popen(
        command, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment()
    )
    os.close(slave)
    os.write(master, b"Latn\nMIT\n")
    out, err = process.communicate(timeout=120)
    os.close(master)
    assert process.returncode == 0, err
    assert b"Script that Klingon is written in" in err
    assert 'license = "MIT"' in (here / "llink-klingon" / "pyproject.toml").read_text("utf-8")
    assert shown("tlh", here)["scripts"] == ["LATIN"]
    assert b"Klingon: tlh" in out


def test_killed_midway_beside_another_one(here: Path, home: Path, lao_pairs: Path) -> None:
    def start(*args: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "llink", "add-language", *args],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, env=environment(),
        )  # fmt: skip

    # Both come as far as the registry, which is held here; one of them dies there.
    with edit(user_registry()):
        killed, other = start("lo", "--data", lao_pairs), start("ne")
        folders = [here / "llink-lao", here / "llink-nepali"]
        deadline = time.monotonic() + 60
        while not all(folder.exists() for folder in folders):
            assert time.monotonic() < deadline, "no folder"
            assert killed.poll() is None
            assert other.poll() is None
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    _, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert set(registered()) == {"ne"}

    made = snapshot(here / "llink-lao")
    report = llink("add-language", "lo", "--data", lao_pairs, cwd=here).stdout
    assert "there already and left as it is" in report
    assert snapshot(here / "llink-lao") == made
    assert set(registered()) == {"lo", "ne"}
    assert {shown("lo", here)["code"], shown("ne", here)["code"]} == {"lo", "ne"}
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_the_rest_of_a_draft_is_no_hindrance(here: Path) -> None:
    draft = here / ".llink-lao.draft"
    draft.mkdir()
    (draft / "half.py").write_text("half")
    llink("add-language", "lo", cwd=here)
    assert not draft.exists()
    assert not (here / "llink-lao" / "half.py").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the source tree without the weights, so that nothing is written into the real one."""
    tree = tmp_path / "tree"
    leave = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("core/llink", "llink_plugins", "languages"):
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    shutil.copy(ROOT / "registry.yaml", tree)
    return tree


def test_in_a_checkout_it_becomes_part_of_it(checkout: Path, home: Path) -> None:
    paths = [str(checkout / "core"), str(checkout / "languages"), str(checkout), os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(paths)}
    before = snapshot(checkout)
    llink("add-language", "lo", cwd=checkout / "core", **env)
    new = {name for name in snapshot(checkout).keys() - before.keys() if "__pycache__" not in name}
    assert new == {f"languages/llink_lao/{name}" for name in (
        "__init__.py", "samples.py", "recipes/cpu.yaml", "recipes/smoke.yaml", "recipes/gpu.yaml")}  # fmt: skip
    text = (checkout / "registry.yaml").read_text("utf-8")
    assert yaml.safe_load(text)["languages"]["lo"] == {"package": "llink_lao"}
    comments = [line for line in before["registry.yaml"].decode().splitlines() if line.lstrip().startswith("#")]
    assert [line for line in text.splitlines() if line.lstrip().startswith("#")] == comments
    assert not user_registry().exists()
    assert "lo/cpu: ok" in llink("recipes", "validate", "lo/cpu", cwd=checkout, **env).stdout

    # Elsewhere it is a part of LLINK like the others.
    home.mkdir(exist_ok=True)
    for code in ("lo", "km"):
        fails("remove-language", code, cwd=home, code="E226", **env)
    assert (checkout / "registry.yaml").read_text("utf-8") == text
    llink("remove-language", "lo", "--delete", "--yes", cwd=checkout, **env)
    assert (checkout / "registry.yaml").read_bytes() == before["registry.yaml"]
    assert not (checkout / "languages" / "llink_lao").exists()
    fails("remove-language", "km", cwd=checkout, code="E226", **env)


def test_remove_leaves_the_folder_and_add_takes_it_up(here: Path, lao_pairs: Path) -> None:
    llink("add-language", "lo", "--data", lao_pairs, cwd=here)
    made = snapshot(here / "llink-lao" / "llink_lao" / "recipes")
    assert "stays" in llink("remove-language", "Lao", cwd=here).stdout
    assert registered() == {}
    fails("train", "lo", cwd=here, code="E201")
    assert "left as it is" in llink("add-language", "lo", cwd=here).stdout
    assert snapshot(here / "llink-lao" / "llink_lao" / "recipes") == made
    assert set(registered()) == {"lo"}


def test_delete_asks(here: Path, home: Path, lao_pairs: Path) -> None:
    llink("add-language", "lo", "--data", lao_pairs, cwd=here)
    assert "--yes" in fails("remove-language", "lo", "--delete", cwd=here, code="E223")
    assert set(registered()) == {"lo"}
    data = snapshot(home / "data")
    llink("remove-language", "lo", "--delete", "--yes", cwd=here)
    assert not (here / "llink-lao").exists()
    assert snapshot(home / "data") == data
    assert lao_pairs.exists()


def test_delete_spares_what_is_not_ours(here: Path) -> None:
    package = here / "precious" / "llink_lao"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("'''Something else.'''\n")
    with edit(user_registry()) as registry:
        registry["languages"] = {"lo": {"package": "llink_lao", "path": str(package.parent)}}
    result = llink("remove-language", "lo", "--delete", "--yes", cwd=here, status=1)
    assert "[E226]" in result.stderr
    assert package.is_dir()


def test_an_entry_whose_folder_is_gone(here: Path) -> None:
    llink("add-language", "lo", cwd=here)
    shutil.rmtree(here / "llink-lao")
    assert "remove-language lo" in llink("add-language", "lo", cwd=here, status=1).stderr
    llink("remove-language", "lo", cwd=here)
    llink("add-language", "lo", cwd=here)
    assert set(registered()) == {"lo"}


def test_remove_what_is_not_there(here: Path) -> None:
    assert "Available" in fails("remove-language", "lo", cwd=here, code="E201")


def test_an_installed_plugin_goes_with_pip(here: Path) -> None:
    site = here / "site"
    (site / "plug_lao").mkdir(parents=True)
    (site / "plug_lao" / "__init__.py").write_text(
        "from llink.hookspecs import hookimpl\nfrom llink.interfaces import Language\n\n@hookimpl\n"
        "def llink_languages():\n    return [Language('lo', 'lao', 'Lao', ('LAO',), 'plug_lao')]\n"
    )
    info = site / "llink_lao-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llink-lao\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nlao = plug_lao\n")
    env = {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    assert "pip uninstall llink-lao" in fails("remove-language", "lo", cwd=here, code="E226", **env)
    assert "llink-lao" in fails("add-language", "lo", cwd=here, code="E222", **env)
