"""docs/add-a-language.md is what happens: its quick commands are run and compared, the others are parsed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from llink.cli import main
from llink.home import home

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-a-language.md").read_text("utf-8")
LAO = ROOT.parent / "shared" / "data" / "lo"
REAL_HOME = Path(os.environ.get("LLINK_TEST_HOME") or home())


def transcripts() -> list[tuple[str, str]]:
    """Each command of the page with the output shown under it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_the_page_goes_all_the_way() -> None:
    commands = [shlex.split(command)[1] for command, _ in transcripts()]
    assert [c for c in dict.fromkeys(commands) if c != "data"] == [
        "add-language",
        "languages",
        "inspect",
        "train",
        "eval",
        "translate",
    ]


@pytest.mark.parametrize("command", [command for command, _ in transcripts()])
def test_every_command_can_be_typed(command: str) -> None:
    """click takes it apart as it would be run; an option that is gone is a usage error."""
    program, *arguments = shlex.split(command)
    assert program == "llink"
    context: click.Context = main.make_context("llink", arguments)
    while isinstance(context.command, click.Group):
        name, child, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None, f"no command {name}"
        context = child.make_context(name, rest, parent=context)


@pytest.mark.real
@pytest.mark.skipif(not LAO.is_dir(), reason="no development data: the Lao pairs of the page")
def test_adding_lao_prints_what_the_page_shows(tmp_path: Path) -> None:
    import gzip

    shutil.copy(LAO / "dev_software.jsonl.gz", tmp_path / "dev.jsonl.gz")
    (tmp_path / "pairs.jsonl").write_bytes(gzip.decompress((LAO / "train.jsonl.gz").read_bytes()))
    own_home = tmp_path / "home"
    own_home.mkdir()
    models = REAL_HOME / "models"
    models.mkdir(parents=True, exist_ok=True)
    (own_home / "models").symlink_to(models.resolve())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLINK_")} | {"LLINK_HOME": str(own_home)}
    for command, shown in transcripts():
        arguments = shlex.split(command)[1:]
        if arguments[0] not in ("add-language", "languages"):
            continue
        done = subprocess.run(
            [sys.executable, "-m", "llink", *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.replace(str(own_home), "~/.cache/llink").replace(str(tmp_path), "~/lao") == shown
