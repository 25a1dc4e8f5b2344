"""``llink translate --server``: what a server answers is what the command answers alone, errors and all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from served import Served, serve

from llink import Engine
from llink.adapter.files import pair_name
from llink.cli import main
from llink.testing import _stored
from llink_khmer import SAMPLES
from llink_plugins.serve.settings import Keys

KHMER = [s.foreign for s in SAMPLES]
LINES = [KHMER[0], "", "Dear Sir,", "2024-05-01", KHMER[1], "ខ" * 21_000, "ສະບາຍດີ", "https://example.org", KHMER[2]]
SHORT = ("--max-new-tokens", "4")
KEY = "k" * 20


@pytest.fixture(scope="module")
def home(
    encoder_folder: str, decoder_folder: str, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A ``LLINK_HOME`` whose default pair is the tiny one, with its Khmer adapter."""
    home, names = tmp_path_factory.mktemp("served") / "home", (Path(encoder_folder).name, Path(decoder_folder).name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(home))
        models = {
            name: _stored(name, Path(folder), role, home)  # type: ignore[arg-type]
            for name, folder, role in zip(names, (encoder_folder, decoder_folder), ("encoder", "decoder"), strict=True)
        }
    default = dict(zip(("encoder", "decoder"), names, strict=True))
    (home / "registry.yaml").write_text(yaml.safe_dump({"version": 2, "default": default, "models": models}))
    shutil.copytree(tiny_adapter, home / "adapters" / "km" / pair_name(*names))
    return home


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLINK_HOME", str(home))
    monkeypatch.delenv("LLINK_SERVER", raising=False)
    monkeypatch.delenv("LLINK_SERVER_KEY", raising=False)
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)


@pytest.fixture(scope="module")
def served(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(home))
        engine = Engine.load(device="cpu", dtype="float32")
        with serve(engine, "xlm_roberta", keys=Keys.read(keys, "NONE")) as served:
            yield served


def both(
    served: Served, monkeypatch: pytest.MonkeyPatch, *args: str, stdin: str | None = None
) -> tuple[Result, Result]:
    """What the command says alone, and what it says through the server."""
    alone = CliRunner().invoke(main, args, input=stdin)
    monkeypatch.setenv("LLINK_SERVER", served.url)
    monkeypatch.setenv("LLINK_SERVER_KEY", KEY)
    through = CliRunner().invoke(main, args, input=stdin)
    monkeypatch.delenv("LLINK_SERVER")
    return alone, through


@pytest.mark.parametrize(
    ("args", "stdin", "status"),
    [
        (("translate", KHMER[0]), None, 0),
        (("translate", KHMER[0], "--language", "Khmer", "--json"), None, 0),
        (("generate", KHMER[3], "--task", "title", "--no-loop-guard"), None, 0),
        (("generate", KHMER[3], "--instruction", "What is it about?", "--json"), None, 0),
        (("translate",), "\n".join(LINES), 1),
        (("translate", "--json"), "\n".join(LINES), 1),
        (("translate", "Dear Sir,"), None, 3),
        (("translate", KHMER[0], "--language", "xx"), None, 1),
        (("translate", KHMER[0], "--language", "am"), None, 1),
        (("translate", KHMER[0], "--language", "km@none"), None, 1),
        (("translate", "ສະບາຍດີ"), None, 1),
        (("generate", KHMER[0], "--task", "poem"), None, 1),
    ],
)
def test_the_same_output_and_errors(
    served: Served, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], stdin: str | None, status: int
) -> None:
    alone, through = both(served, monkeypatch, *args, *SHORT, stdin=stdin)
    assert (alone.exit_code, alone.stdout, alone.stderr) == (through.exit_code, through.stdout, through.stderr)
    assert alone.exit_code == status


def test_a_server_that_cannot_be_asked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for url, says in (("http://127.0.0.1:9", "refused"), ("127.0.0.1:9", "no address"), (served.url, "key")):
        result = CliRunner().invoke(main, ["translate", KHMER[0], "--server", url])
        assert (result.exit_code, result.stdout) == (1, "")
        assert says in result.stderr
    result = CliRunner().invoke(main, ["translate", KHMER[0], "--server", served.url, "--device", "cpu"])
    assert result.exit_code == 2


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "LLINK_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **more}


def test_nothing_is_loaded(served: Served, home: Path) -> None:
    code = (
        f"import sys\nfrom llink.cli import main\nmain(['translate', {KHMER[0]!r}, '--server', {served.url!r}], 'llink',"
        " standalone_mode=False)\nprint({'torch', 'transformers', 'fastapi'} & set(sys.modules), file=sys.stderr)"
    )
    env = environment(home, LLINK_SERVER_KEY=KEY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert done.stderr == "set()\n"
    assert done.stdout


def test_the_process_ends_when_told_to_and_loses_nothing(home: Path) -> None:
    """``llink serve`` by itself: it says where it listens, and after SIGTERM an answer that was begun comes whole."""
    command = [sys.executable, "-m", "llink", "serve", "--port", "0", "--dtype", "float32", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(home)) as server:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "listening on" in line)
        url = line.rpartition(" ")[2].strip()
        said: list[str] = []
        threading.Thread(target=lambda: said.extend(server.stderr or ()), daemon=True).start()
        body = {
            "model": "km",
            "prompt": KHMER[0],
            "max_tokens": 300,
            "temperature": 2,
            "loop_guard": False,
            "stream": True,
        }
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert server.wait(60) in (0, -signal.SIGTERM)
    time.sleep(0.1)
    assert "POST /v1/completions 200" in "".join(said)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
