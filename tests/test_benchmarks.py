"""The benchmarks run as they stand, on a tiny pair, and write their tables and figures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llink.adapter.files import pair_name
from llink.data.pairs import Pair, write_pairs
from llink.testing import _stored
from llink_khmer import SAMPLES

ROOT = Path(__file__).parents[1]
FEW = {
    "swap": ["--repeats", "2"],
    "mixed": ["--repeats", "1", "--rows", "3", "--tokens", "2"],
    "constrained": ["--repeats", "1", "--rows", "3", "--tokens", "2"],
    "prefill": ["--repeats", "1", "--sentences", "1", "2"],
    "shelf": ["--repeats", "5", "--adapters", "1", "3"],
    "encode": ["--repeats", "1", "--texts", "24", "--batches", "4", "8"],
    "cache": ["--pairs", "100", "300"],
    "stage_a": ["--repeats", "2", "--sample", "16", "--queue", "16", "--steps", "2", "--micro", "4"],
    "stage_b": ["--repeats", "1", "--steps", "3"],
    "stress": ["--requests", "6", "--threads", "3", "--tokens", "2"],
    "ddp": ["--pairs", "20", "--examples", "8", "--batch", "2"],
    "gpu": ["--tiny", "--repeats", "2"],
}


@pytest.fixture(scope="module")
def home(
    encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A ``LLINK_HOME`` where the tiny pair is the default and the three adapters are installed."""
    home = tmp_path_factory.mktemp("home")
    models = {
        "xlm_roberta": _stored("xlm_roberta", Path(encoder_folder), "encoder", home),
        "chatml_llama": _stored("chatml_llama", Path(decoder_folder), "decoder", home),
    }
    registry = {"version": 2, "default": {"encoder": "xlm_roberta", "decoder": "chatml_llama"}, "models": models}
    (home / "registry.yaml").write_text(yaml.safe_dump(registry))
    for code, folder in tiny_adapters.items():
        shutil.copytree(folder, home / "adapters" / code / pair_name("xlm_roberta", "chatml_llama"))
    write_pairs(home / "data" / "km" / "train.jsonl.gz", (Pair(s.english, s.foreign) for s in SAMPLES))
    return home


@pytest.mark.parametrize("name", FEW)
def test_benchmark(name: str, home: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "benchmarks.md", tmp_path)
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--docs", tmp_path, *FEW[name]],
        env={**os.environ, "LLINK_HOME": str(home)}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "benchmarks.md").read_text()
    [section] = re.findall(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, re.DOTALL)
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert len(table) >= 4
    assert all(line in run.stdout for line in table)
    assert f"![{name}](benchmarks/{name}.png)" in section
    assert (tmp_path / "benchmarks" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    if name == "gpu":
        assert [line.split(" | ")[0] for line in table[2:]] == [
            "| encoding",
            "| teacher states",
            "| stage A",
            "| stage B",
        ]
        assert all(line.split(" | ")[3] != "-" for line in table[2:])
        assert "Measured on" in section
    if name == "stress":
        assert "| answers that no adapter of the language gives | 0 |" in section


def test_encoding_needs_the_recipes_text(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "encode.py", "--data", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1
    assert re.fullmatch(r"This is measured on the text of the Khmer recipe. \[E210\] .*--data.*\n", run.stderr)


def test_every_benchmark_has_its_place() -> None:
    commands = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"common"}
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert commands == set(FEW) == set(re.findall(r"^<!-- (\w+) -->$", page, re.MULTILINE))
    assert all(f"python benchmarks/{name}.py" in page for name in commands)
