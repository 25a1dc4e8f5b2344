"""A file of many lines, one `llink translate` killed in the middle and gone on with: its memory, and what became of each line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from common import arguments, figure, report, samples

from llink import plugins
from llink.adapter.files import pair_name
from llink.home import read_json
from llink.recipe import validate
from llink.testing import ENGLISH, _stored, tiny_recipe, write_samples
from llink.testing.tiny import chatml_llama, xlm_roberta

ODD = ("", "Dear Sir,", "2024-05-{}", "https://example.org/{}", "— — —", "👍 {}", "{} km/h", "\u200b", "...")
"""What comes through unread; of each ten lines nine."""


def text(number: int, sentences: list[str]) -> str:
    """The line of a number; no two that are read are alike."""
    tens, one = divmod(number, 10)
    return ODD[one - 1].format(number) if one else f"{sentences[tens % len(sentences)]} {number}"


def tiny_home(folder: Path) -> Path:
    """A ``LLINK_HOME`` whose default pair is that of the tests, with a Khmer adapter that is trained here in seconds."""
    from llink.training.run import train

    home, khmer = folder / "home", plugins.language("km")
    words = [*ENGLISH, *(side for sample in khmer.samples for side in (sample.foreign, sample.english))]
    models = {
        "tiny-encoder": xlm_roberta(folder / "tiny-encoder", words),
        "tiny-decoder": chatml_llama(folder / "tiny-decoder", words),
    }
    os.environ["LLINK_HOME"] = str(home)
    write_samples(khmer.samples, folder / "data")
    recipe = validate(tiny_recipe("km", *map(str, models.values())), "tiny")
    train(recipe, stage="all", data=folder / "data", out=folder / "run")
    shutil.copytree(folder / "run" / "adapter", home / "adapters" / "km" / pair_name(*models))
    entries = {name: _stored(name, place, name.removeprefix("tiny-"), home) for name, place in models.items()}
    default = {"encoder": "tiny-encoder", "decoder": "tiny-decoder"}
    (home / "registry.yaml").write_text(yaml.safe_dump({"version": 2, "default": default, "models": entries}))
    return home


def watched(command: list[str], record: Path, until: int, memory: list[tuple[int, float]]) -> tuple[int | None, float]:
    """Run a command, its memory in MB by the lines that its record has; killed where that are ``until``.

    Returns its exit status, None where it was killed, and the seconds that it ran.
    """
    began = time.perf_counter()
    page = os.sysconf("SC_PAGE_SIZE")
    with tempfile.TemporaryFile() as told:
        running = subprocess.Popen(command, stderr=told)
        while running.poll() is None:
            done = int(read_json(record).get("lines", 0))
            pages = Path(f"/proc/{running.pid}/statm").read_text().split()
            if len(pages) > 1 and int(pages[1]):
                memory.append((done, int(pages[1]) * page / 1e6))
            if done >= until:
                running.send_signal(signal.SIGKILL)
                running.wait()
            time.sleep(0.3)
        told.seek(0)
        if running.returncode not in (0, 3, -signal.SIGKILL):
            sys.exit(told.read().decode("utf-8", "replace"))
    return None if running.returncode == -signal.SIGKILL else running.returncode, time.perf_counter() - began


def mean(memory: list[tuple[int, float]], low: float, high: float) -> str:
    """MB between two numbers of lines."""
    here = [mb for done, mb in memory if low <= done <= high]
    return f"{sum(here) / len(here):,.0f}" if here else "-"


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--lines", type=int, default=100_000, help="of the file")
    parser.add_argument("--tokens", type=int, default=4, help="of each answer")
    parser.add_argument("--tiny", action="store_true", help="on the tiny pair of the tests, made and trained here")
    options = parser.parse_args()
    count = options.lines
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.tiny:
            tiny_home(folder)
        file, out = folder / "texts.txt", folder / "answers.jsonl"
        record, sentences = folder / ".answers.jsonl.llink.json", samples("km")
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{text(number, sentences)}\n" for number in range(count))
        command = [
            sys.executable,
            "-m",
            "llink",
            "translate",
            "--file",
            str(file),
            "--out",
            str(out),
            "--json",
            "--language",
            "km",
            "--max-new-tokens",
            str(options.tokens),
        ]
        first: list[tuple[int, float]] = []
        second: list[tuple[int, float]] = []
        status, took = watched(command, record, count // 2, first)
        killed, written = int(read_json(record)["lines"]), out.read_bytes().count(b"\n")
        if status is not None:
            sys.exit(f"It ended before it was killed, with status {status}: give more --lines.")
        status, more = watched([*command, "--resume"], record, count + 1, second)
        wrong = rows = 0
        with out.open(encoding="utf-8") as answers:
            for number, row in enumerate(answers):
                rows += 1
                wrong += number >= count or json.loads(row)["text"] != text(number, sentences)
    settled = min(count // 10, killed // 2)
    table = [
        ["lines of the file, a tenth of them to be read", f"{count:,}"],
        ["kill -9 when so many were on the disk", f"{killed:,} ({written - killed:,} more without a record)"],
        ["lines in the end", f"{rows:,}"],
        ["lines lost or repeated, or of another text", abs(rows - count) + wrong],
        [
            "memory of the first run, MB: up to a tenth, to the kill",
            f"{mean(first, 1, settled)}, {mean(first, settled, count)}",
        ],
        [
            "memory of the second, MB: up to six tenths, from nine on",
            f"{mean(second, killed + 1, 0.6 * count)}, {mean(second, 0.9 * count, count)}",
        ],
        ["the most, MB", f"{max(mb for _, mb in first + second):,.0f}"],
        ["lines a second, starts included", f"{count / (took + more):,.0f}"],
    ]
    fig, axes = figure("Memory of a long file")
    for memory, label in ((first, "killed in the middle"), (second, "gone on with")):
        axes.plot([done for done, _ in memory], [mb for _, mb in memory], label=label)
    axes.set(xlabel="lines done", ylabel="MB of the process", ylim=(0, None))
    axes.legend(frameon=False)
    where = f"Measured on {os.cpu_count()} CPU cores, on the tiny pair of the tests." if options.tiny else None
    notes = [
        f"`--json`, answers of {options.tokens} tokens at most; blank lines, dates, addresses and the like come through unread."
    ]
    report("lines", options.docs, fig, ["", ""], table, notes, where)


if __name__ == "__main__":
    main()
