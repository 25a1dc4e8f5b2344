"""The command line, through real processes: help, errors, listings, recipes; ``docs/cli.md`` is its --help.

``UPDATE_DOCS=1 pytest tests/cli/test_cli.py -k docs`` writes the page anew.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from llink.cli import COMMANDS
from llink.cli.eval import report
from llink.cli.names import all_recipes
from llink.interfaces import package_folder
from llink.recipe import load_recipe, recipe_files

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"
RECIPES = ("recipes ls", "recipes cat", "recipes cp", "recipes validate", "recipes accelerate")
WITH_HELP = ("", *COMMANDS, "serve", "data instruct", *RECIPES)
CPU = package_folder("llink_khmer", "recipes") / "cpu.yaml"

INTRO = """# The command line

One section a command, each with its own `--help`; `python -m llink` is the same as `llink`.

Answers go to stdout; progress, notices and errors go to stderr. The exit status is 0 when all went well, 1 for an
error with a code ([errors.md](errors.md)), 2 for an option or argument that does not exist, 3 for texts that came
through unread, 70 for a bug (`LLINK_DEBUG=1` shows the traceback) and 130 after Ctrl-C.
"""

LAO = """
from llink.hookspecs import hookimpl
from llink.interfaces import Language

@hookimpl
def llink_languages():
    return [Language(code="lo", code3="lao", name="Lao", scripts={scripts}, package="plug_lao")]
"""


def environment(**env: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("LLINK_")}
    return {**clean, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **env}


def llink(
    *args: str | Path, stdin: bytes = b"", cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "llink", *map(str, args)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment(**env),
        timeout=120,
    )
    # The result with text in place of bytes.
    return subprocess.CompletedProcess(result.args, result.returncode, result.stdout.decode(), result.stderr.decode())


def fails(*args: str | Path, code: str, **options: object) -> str:
    """The one line of an error with ``code``."""
    result = llink(*args, **options)  # type: ignore[arg-type]
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"llink: [{code}] ")
    return result.stderr


def install(folder: Path, code: str) -> None:
    """The plugin package ``plug_lao`` as pip leaves it."""
    package, info = folder / "plug_lao", folder / "llink_lao-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llink-lao\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nlao = plug_lao\n")


@cache
def help_of(command: str) -> str:
    result = llink(*command.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def page() -> str:
    """``docs/cli.md`` as it should be."""
    sections = [f"## llink {name}".rstrip() + f"\n\n```text\n{help_of(name).rstrip()}\n```\n" for name in WITH_HELP]
    return "\n".join([INTRO, *sections])


def test_docs_hold_every_help() -> None:
    if os.environ.get("UPDATE_DOCS") == "1":
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text("utf-8") == page(), "run UPDATE_DOCS=1 pytest tests/cli/test_cli.py -k docs"


@pytest.mark.parametrize("command", WITH_HELP)
def test_help(command: str) -> None:
    assert help_of(command).startswith(f"Usage: llink {command}".rstrip())


@pytest.mark.parametrize(
    "args",
    [
        "--help",
        "languages --help",
        "languages",
        "models",
        "recipes ls",
        "translate --help",
        "train --help",
        "experiment --help",
    ],
)
def test_light_commands_do_not_import_torch(args: str, tmp_path: Path) -> None:
    code = (
        f"import sys\nfrom llink.cli import main\nmain({args.split()!r}, 'llink', standalone_mode=False)\n"
        "print({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules), file=sys.stderr)"
    )
    environ = environment(LLINK_HOME=str(tmp_path))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=120)
    assert result.stderr == "set()\n"


def test_version() -> None:
    from llink import __version__

    assert llink("--version").stdout == f"llink, version {__version__}\n"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ("translat", "E500", "Did you mean 'translate'?"),
        ("translate x --language kmm", "E201", "Did you mean 'km'?"),
        ("languages kmm", "E201", "Did you mean 'km'?"),
        ("train kmm", "E201", "Did you mean 'km'?"),
        ("eval kmm", "E201", "Did you mean 'km'?"),
        ("experiment teachr km", "E530", "Did you mean 'teacher'?"),
        ("experiment teacher kmm", "E201", "Did you mean 'km'?"),
        ("translate x --language km --adapter nope", "E301", "'nope'"),
        ("eval km --adapter nope", "E301", "'nope'"),
        ("generate x --task titel", "E501", "Did you mean 'title'?"),
        ("translate", "E505", "There is no text."),
        ("generate", "E505", "There is no text."),
        ("translate --file nope.txt", "E508", "nope.txt"),
        ("eval km --suite retrievl", "E506", "Did you mean 'retrieval'?"),
        ("eval km --suite usage,", "E506", "Available: english, exact, "),
        ("train km --recipe cpuu", "E205", "Did you mean 'cpu'?"),
        ("eval km --recipe cpuu", "E205", "Did you mean 'cpu'?"),
        ("recipes cat ../../etc/passwd", "E205", "Available: "),
        ("recipes cat nope.x/cpu", "E205", "Available: "),
        ("recipes cat km/cpuu", "E205", "Did you mean 'km/cpu'?"),
        ("recipes cp km/cpuu x.yaml", "E205", "Did you mean 'km/cpu'?"),
        ("recipes cat llink_plugins.smollm2/cpuu", "E205", "Did you mean 'llink_plugins.smollm2/cpu'?"),
        ("train km --recipe nope.yaml", "E202", "nope.yaml"),
        ("train km --set stage_b.bach=8", "E202", "Did you mean 'stage_b.batch'?"),
        ("train km --set stage_b.batch=none", "E202", "stage_b.batch"),
        ("train km --set stage_b.batch", "E202", "key=value"),
        ("train km --set stage_b.losses.usage_contrst=0", "E219", "Did you mean 'usage_contrast'?"),
        ("train km --set stage_b.losses.direction=1", "E219", "not for stage_b but for stage_a"),
        ("train km --set encoder.name=gema3-270m", "E101", "Did you mean 'gemma3-270m'?"),
        ("train km --set decoder.name=gemma3-270m", "E103", "encoder"),
        ("train km --set projector.kind=mpl", "E203", "Did you mean 'mlp'?"),
        ("train km --set injector.kind=pool", "E204", "Did you mean 'pooled'?"),
    ],
)
def test_what_a_user_mistypes(args: str, code: str, says: str, tmp_path: Path) -> None:
    assert says in fails(*args.split(), code=code, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["--file", "a", "text"], ["--max-new-tokens", "0", "text"], ["--nope"], ["a", "b"]])
def test_wrong_usage(args: list[str]) -> None:
    result = llink("translate", *args)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: llink translate")


def test_one_task_or_one_instruction() -> None:
    assert llink("generate", "x", "--task", "qa", "--instruction", "Why?").returncode == 2
    assert llink("generate", "x", "--instruction", " ").returncode == 2


@pytest.mark.parametrize("text", ["", "  ", "\n\n"])
def test_blank_text_is_no_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(text)
    fails("translate", text, code="E505")
    fails("translate", "--file", tmp_path / "blank.txt", code="E505")
    fails("translate", code="E505", stdin=text.encode())
    fails("translate", "--file", "-", code="E505", stdin=text.encode())


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    assert "latin.txt is not UTF-8 (byte 2)" in fails("translate", "--file", tmp_path / "latin.txt", code="E508")
    assert "stdin is not UTF-8" in fails("translate", code="E508", stdin=b"\xff")


def test_languages() -> None:
    result = llink("languages")
    assert (result.returncode, result.stderr) == (0, "")
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["code", "name", "scripts", "adapters", "from"]
    assert any(row.split()[:3] == ["km", "Khmer", "Khmer"] for row in rows)


def test_one_language() -> None:
    shown = llink("languages", "Khmer").stdout
    assert "km, khm" in shown
    assert "samples   30" in shown
    assert "TICO-19" in shown
    assert "CC0-1.0" in shown
    assert all(name in shown for name in recipe_files("llink_khmer"))


def test_broken_plugin_is_told(tmp_path: Path) -> None:
    install(tmp_path, "import not_there")
    says = "No module named 'not_there'"
    listed = llink("languages", PYTHONPATH=str(tmp_path))
    assert listed.returncode == 0
    assert says in listed.stdout
    checked = llink("doctor", PYTHONPATH=str(tmp_path), LLINK_HOME=str(tmp_path / "home"))
    assert checked.returncode == 1
    assert any(line.startswith("fail") and says in line for line in checked.stdout.splitlines())


def test_own_adapters_are_listed(tmp_path: Path) -> None:
    adapter = tmp_path / "adapters" / "km" / "mine"
    adapter.mkdir(parents=True)
    (adapter / "manifest.json").write_text("{}")
    assert "mine" in llink("languages", LLINK_HOME=str(tmp_path)).stdout


def test_models(tmp_path: Path) -> None:
    result = llink("models", LLINK_HOME=str(tmp_path / "home"))
    assert (result.returncode, result.stderr) == (0, "")
    encoder = next(line for line in result.stdout.splitlines() if line.startswith("gemma3-270m *"))
    assert encoder.split()[2:6] == ["encoder", "no", "253", "MB"]
    assert "Gemma Terms of Use" in encoder
    assert str(tmp_path / "home" / "models") in result.stdout
    assert not (tmp_path / "home").exists()


def test_doctor(tmp_path: Path) -> None:
    result = llink("doctor", LLINK_HOME=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    lines = result.stdout.splitlines()
    assert all(line[:6].strip() in ("ok", "warn") for line in lines[:-2])
    for subject in ("python", "torch", "transformers", "peft", "cpu", "LLINK_HOME", "model", "plugins", "language"):
        assert any(line[6:].startswith(subject) for line in lines), subject
    assert "warn  model         gemma3-270m, not fetched yet" in result.stdout


def test_doctor_names_what_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "registry.yaml").write_text("models: 3")
    result = llink("doctor", LLINK_HOME=str(tmp_path / "file"), LLINK_REGISTRY=str(tmp_path / "registry.yaml"))
    assert result.returncode == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("fail")]
    assert any("[E112]" in line for line in failed)
    assert any("[E102]" in line for line in failed)
    assert "ok    torch" in result.stdout


def test_recipes_ls_finds_every_file() -> None:
    listed = llink("recipes", "ls").stdout
    for name, path in recipe_files("llink_khmer").items():
        comment = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
        [row] = [line for line in listed.splitlines() if line.split()[0] == f"km/{name}"]
        assert comment in row


def test_recipes_cat() -> None:
    assert llink("recipes", "cat", "km/cpu").stdout == CPU.read_text("utf-8")
    base = package_folder("llink_plugins.smollm2", "recipes") / "cpu.yaml"
    assert llink("recipes", "cat", "llink_plugins.smollm2/cpu").stdout == base.read_text("utf-8")


def test_recipes_cat_whole_holds_every_setting() -> None:
    whole = yaml.safe_load(llink("recipes", "cat", "km/cpu", "--whole").stdout)
    assert whole == load_recipe(CPU).model_dump(mode="json")
    assert whole["stage_b"]["lora"]["r"] == 8


def test_recipes_cp_never_overwrites(tmp_path: Path) -> None:
    assert llink("recipes", "cp", "km/cpu", tmp_path / "own.yaml").returncode == 0
    assert (tmp_path / "own.yaml").read_bytes() == CPU.read_bytes()
    (tmp_path / "own.yaml").write_text("mine")
    fails("recipes", "cp", "km/cpu", tmp_path / "own.yaml", code="E206")
    assert (tmp_path / "own.yaml").read_text() == "mine"
    assert llink("recipes", "cp", "km/cpu", tmp_path).returncode == 0
    assert (tmp_path / "cpu.yaml").read_bytes() == CPU.read_bytes()
    fails("recipes", "cp", "km/cpu", tmp_path / "no" / "own.yaml", code="E206")
    assert "own.yaml" in fails("recipes", "cp", "km/cpu", tmp_path / "own", code="E206")


def test_every_shipped_recipe_is_valid() -> None:
    names = list(all_recipes())
    result = llink("recipes", "validate", *names)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{name}: ok" for name in names]


def test_recipes_validate_goes_through_all_files(tmp_path: Path) -> None:
    text = CPU.read_text("utf-8")
    (tmp_path / "good.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "key.yaml").write_text(text.replace("data:", "dataa:"), encoding="utf-8")
    (tmp_path / "language.yaml").write_text(text.replace("language: km", "language: kmm"), encoding="utf-8")
    files = [tmp_path / name for name in ("key.yaml", "good.yaml", "language.yaml", "missing.yaml")]
    result = llink("recipes", "validate", *files)
    assert result.returncode == 1
    assert result.stdout == f"{tmp_path / 'good.yaml'}: ok\n"
    assert [line.split("[")[1].split("]")[0] for line in result.stderr.splitlines()] == ["E202", "E201", "E202"]


def test_recipe_of_another_language(tmp_path: Path) -> None:
    install(tmp_path, LAO.format(scripts=("LAO",)))
    (tmp_path / "plug_lao" / "recipes").mkdir()
    (tmp_path / "plug_lao" / "recipes" / "cpu.yaml").write_bytes(CPU.read_bytes())
    path = str(tmp_path)
    assert "km/cpu" in fails("recipes", "cat", "cpu", code="E205", PYTHONPATH=path)
    assert llink("recipes", "cat", "lo/cpu", PYTHONPATH=path).returncode == 0
    assert "for 'km', not for 'lo'" in fails("train", "lo", code="E207", cwd=tmp_path, PYTHONPATH=path)


def test_train_does_not_touch_another_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "km-cpu"
    run.mkdir(parents=True)
    (run / "recipe.yaml").touch()
    assert "--resume" in fails("train", "km", code="E404", cwd=tmp_path)
    assert "--resume" in fails("train", "km", "--out", run, code="E404")


def test_bug_is_one_line_and_the_traceback_is_there_on_demand(tmp_path: Path) -> None:
    install(tmp_path, LAO.format(scripts=(1,)))
    result = llink("languages", PYTHONPATH=str(tmp_path))
    assert result.returncode == 70
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("llink: [bug] AttributeError: ")
    # Where to report it, and what to attach.
    for told in (
        "LLINK_DEBUG=1",
        "Please report it where you got LLINK from",
        "the command",
        "traceback",
        "`llink doctor`",
    ):
        assert told in result.stderr
    assert "Traceback" in llink("languages", PYTHONPATH=str(tmp_path), LLINK_DEBUG="1").stderr


@pytest.mark.skipif(os.name == "nt", reason="a FIFO tells when the command has begun to read")
def test_ctrl_c(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "llink", "translate", "--file", str(fifo)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    with fifo.open("wb"):  # waits for the command to open it
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "llink: stopped\n")


def test_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "llink", "recipes", "cat", "km/cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=60)


def test_eval_table_lines_up() -> None:
    results = {
        "retrieval": {"dev_software": {"r1": 0.93, "n": 1024}, "dev_general": {"r1": 0.5, "mrr": 0.6}},
        "usage": {"dev_software": {"gap": 1.25}},
    }
    assert report(results) == (
        "retrieval  dev_software  dev_general\n"
        "r1                0.930        0.500\n"
        "n                  1024            -\n"
        "mrr                   -        0.600\n"
        "\n"
        "usage  dev_software\n"
        "gap           1.250"
    )
