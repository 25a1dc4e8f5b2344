"""Two processes against one with twice the batch: the same loss, and what they take in time and memory.

Runs `llink train` in one process, and `accelerate launch` with the config `cpu` in two, each for a few steps of stages A and B.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, figure, report

from llink.cli.names import accelerate_configs

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], repeats=1)
    parser.add_argument("--code", default="km", help="language")
    parser.add_argument("--recipe", default="cpu", help="recipe of the language, or a file")
    parser.add_argument("--data", type=Path, help="folder of the data  [default: as llink train has it]")
    parser.add_argument("--pairs", type=int, default=2000, help="training pairs")
    parser.add_argument("--examples", type=int, default=160, help="training examples of stage B")
    parser.add_argument("--batch", type=int, default=4, help="of stage B, in each of the two processes")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the frozen models")
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    options = parser.parse_args()
    two = ["--config_file", str(accelerate_configs()["cpu"]), "--num_processes", "2", "-m", "llink"]
    ways = {
        "1 process, batch 2b": ([sys.executable, "-m", "llink"], 2),
        "2 processes, batch b": ([*LAUNCH, *two], 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            way: train(options, command, times, Path(folder) / str(number))
            for number, (way, (command, times)) in enumerate(ways.items())
        }
    one, both = runs.values()
    rows = [
        [
            way,
            f"{run['loss']:.4f}",
            f"{run['speed']:.2f}",
            f"{run['speed'] / one['speed']:.2f}x",
            f"{run['bytes'] / 1e6:,.0f}",
            f"{run['bytes'] / one['bytes']:.2f}x",
        ]
        for way, run in runs.items()
    ]
    apart = max(abs(a - b) for a, b in zip(one["curve"], both["curve"], strict=True))
    fig, axes = figure("Stage B: loss of one process and of two")
    for way, run in runs.items():
        axes.plot(run["steps"], run["curve"], label=way, linestyle="-" if run is one else "--", marker=".")
    axes.set_xlabel("step")
    axes.set_ylabel("nats a token")
    axes.legend()
    header = ["way", "last loss of stage B", "examples/s", "ratio", "memory of rank 0, MB", "ratio"]
    notes = [
        f"The loss curves of stage B are at most {apart:.1g} nats a token apart. Stage B has {options.examples} examples, "
        f"b = {options.batch}; dropout is off, the frozen models are in {options.dtype}. Each process has {options.threads} thread(s) and holds the frozen models whole."
    ]
    report("ddp", options.docs, fig, header, rows, notes)


def train(options: Any, command: list[str], times: int, out: Path) -> dict[str, Any]:
    """Stages A and B by ``command``, batches ``times`` as large; loss curve, speed and memory of its run folder."""
    settings = {
        "device": "cpu",
        "dtype": options.dtype,
        "data.max_pairs": options.pairs,
        "data.english": [],
        "projector.dropout": 0,
        "stage_a.epochs": 1,
        "stage_a.batch": 64 * times,
        "warm_start.epochs": 0,
        "stage_b.lora.dropout": 0,
        "stage_b.examples": options.examples,
        "stage_b.batch": options.batch * times,
        "stage_b.distilled": 0,
        "dev_examples": 0,
        "data.dev": {},
        "expect": {},
        # The log then has a row of each stage's first and last step, and every 20th.
        "checkpoint_every": 10**6,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    data = ["--data", str(options.data)] if options.data else []
    subprocess.run(
        [
            *command,
            "train",
            options.code,
            "--stage",
            "all",
            "--recipe",
            options.recipe,
            *data,
            *sets,
            "--out",
            str(out),
            "--no-install",
        ],
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row for row in log if row["stage"] == "b" and "loss" in row]
    taken = json.loads((out / "time_and_memory.json").read_text(encoding="utf-8"))
    return {
        "steps": [row["step"] for row in found],
        "curve": [row["loss"] for row in found],
        "loss": found[-1]["loss"],
        "speed": taken["examples_per_second"]["stage_b"],
        "bytes": taken["process_bytes"],
    }


if __name__ == "__main__":
    main()
