"""Files of texts on the command line, each test named after its case: one answer a line, whatever a line is like."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from variants import variant

from llink import Engine
from llink.adapter.files import pair_name
from llink.cli import main
from llink.testing import _stored
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]
MIXED = [
    KHMER[0], "", "\u200b", "Dear Sir,", "2024-05-01", "— — —", "012  345 678", KHMER[1], "👍", "https://example.org",
]  # fmt: skip
UNREAD = {1: "blank", 2: "blank", 3: "Latin letters", 4: "no letters", 5: "no letters", 6: "no letters",
          8: "no letters", 9: "address"}  # fmt: skip
SHORT = ("--max-new-tokens", "4")
TWO = "គាត់បាត់ខ្លួន។ មនុស្សទាំងអស់កំពុងស្វែងរកគាត់។"


@pytest.fixture(scope="module")
def home(
    encoder_folder: str, decoder_folder: str, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A ``LLINK_HOME`` whose default pair is the tiny one, with its Khmer adapter."""
    home, names = tmp_path_factory.mktemp("lines") / "home", (Path(encoder_folder).name, Path(decoder_folder).name)
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
    """In float32, in which a batch says what each text says alone."""
    monkeypatch.setenv("LLINK_HOME", str(home))
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)


@pytest.fixture(scope="module")
def answers(home: Path) -> dict[str, str]:
    """What the engine says of each text alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLINK_HOME", str(home))
        engine = Engine.load(device="cpu", dtype="float32")
        return {text: " ".join(engine.generate(text, "km", max_new_tokens=4).split()) for text in [*KHMER, TWO]}


def llink(*arguments: str | Path, status: int = 0, stdin: bytes = b"") -> Result:
    done = CliRunner().invoke(main, list(map(str, arguments)), input=stdin)
    assert done.exit_code == status, (done.output, done.exception)
    return done


def written(folder: Path, lines: list[str]) -> Path:
    path = folder / "texts.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("language", [(), ("--language", "km")])
def test_mixed_lines(tmp_path: Path, answers: dict[str, str], language: tuple[str, ...]) -> None:
    file = written(tmp_path, MIXED)
    done = llink("translate", "--file", file, *language, *SHORT, status=3)
    expected = [text if i in UNREAD else answers[text] for i, text in enumerate(MIXED)]
    assert done.stdout == "".join(f"{line}\n" for line in expected)
    assert done.stderr == (
        "llink: Texts that came through unread: 4 (Latin letters); 5, 6, 7, 9 (no letters); 10 (address).\n"
    )
    rows = [json.loads(row) for row in llink("translate", "--file", file, "--json", *language, *SHORT, status=3).stdout.splitlines()]  # fmt: skip
    assert {i: row["note"] for i, row in enumerate(rows) if row["note"]} == UNREAD
    assert [row["text"] for row in rows] == MIXED
    assert [row["language"] for row in rows] == [None if i in UNREAD else "km" for i in range(len(MIXED))]
    assert not any(row["error"] for row in rows)


def test_blank_lines_alone_are_no_notice(tmp_path: Path, answers: dict[str, str]) -> None:
    done = llink("translate", "--file", written(tmp_path, ["", KHMER[0], "\u200b"]), *SHORT)
    assert done.stdout == f"\n{answers[KHMER[0]]}\n\u200b\n"
    assert done.stderr == ""


@pytest.mark.parametrize("text", ["Dear Sir,", "123", "...", "👍"])
def test_one_text_that_needs_no_reading(text: str) -> None:
    done = llink("translate", text, status=3)
    assert done.stdout == f"{text}\n"
    assert done.stderr.startswith("llink: The text came through unread (")
    assert llink("generate", text, "--instruction", "What is it?", status=3).stdout == f"{text}\n"


def test_short_sentences(answers: dict[str, str], tmp_path: Path) -> None:
    done = llink("translate", "--file", written(tmp_path, [TWO, KHMER[0]]), *SHORT)
    assert done.stdout == f"{answers[TWO]}\n{answers[KHMER[0]]}\n"


def test_one_line_too_long_among_short_ones(answers: dict[str, str], tmp_path: Path) -> None:
    for long in ("ភាសា ខ្មែរ " * 400, "ក" * 30_000, "ក" * 300_000):
        file = written(tmp_path, [KHMER[0], long, KHMER[1], "ສະບາຍດີ", KHMER[2]])
        done = llink("translate", "--file", file, *SHORT, status=1)
        assert done.stdout == f"{answers[KHMER[0]]}\n\n{answers[KHMER[1]]}\n\n{answers[KHMER[2]]}\n"
        second, fourth = done.stderr.splitlines()
        assert second.startswith("llink: [E511] Line 2: ")
        assert fourth.startswith("llink: [E503] Line 4: ")
    rows = llink("translate", "--file", file, "--json", *SHORT, status=1).stdout.splitlines()
    assert [json.loads(row)["error"] is None for row in rows] == [True, False, True, False, True]


def test_a_line_in_a_language_without_an_adapter(answers: dict[str, str], tmp_path: Path) -> None:
    file = written(tmp_path, [KHMER[0], "မင်္ဂလာပါ", KHMER[1]])
    done = llink("translate", "--file", file, *SHORT, status=1)
    assert done.stdout == f"{answers[KHMER[0]]}\n\n{answers[KHMER[1]]}\n"
    assert done.stderr.startswith("llink: [E301] Line 2: ")


def test_one_text_that_is_refused_is_one_error() -> None:
    for arguments in (("ສະບາຍດີ",), ("ສະບາຍດີ", "--json")):
        done = llink("translate", *arguments, status=1)
        assert done.stdout == ""
        assert done.stderr.startswith("llink: [E503] No installed language")


@pytest.mark.parametrize("place", [0, 1])
def test_a_line_that_is_not_utf8(answers: dict[str, str], place: int) -> None:
    lines = [text.encode() for text in KHMER[:3]]
    lines[place] = b"na\xefve"
    done = llink("translate", *SHORT, stdin=b"\xef\xbb\xbf" + b"\r\n".join(lines), status=1)
    expected = [answers[text] for text in KHMER[:3]]
    expected[place] = ""
    assert done.stdout.splitlines() == expected
    assert done.stderr.startswith(f"llink: [E508] Line {place + 1}: Not UTF-8 (byte 2)")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_text_of_other_widths_is_read(encoding: str) -> None:
    done = llink("translate", *SHORT, stdin=f"Hello\n{KHMER[0]}\n".encode(encoding), status=3)
    assert done.stdout == llink("translate", *SHORT, stdin=f"Hello\n{KHMER[0]}\n".encode(), status=3).stdout
    assert done.stdout.startswith("Hello\n")


def test_lone_surrogate_in_an_instruction() -> None:
    done = llink("generate", KHMER[0], "--instruction", "What is it?\udcff", "--json", *SHORT)
    assert json.loads(done.stdout)["instruction"] == "What is it?\udcff"


def process(*arguments: str | Path, **pipes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "llink", "translate", *SHORT, *map(str, arguments)], **pipes)


def test_the_first_answer_comes_before_the_last_line_is_read() -> None:
    running = process(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    for text in KHMER[:2]:
        running.stdin.write(f"{text}\n".encode())
        running.stdin.flush()
        assert running.stdout.readline().strip()
    running.stdin.close()
    assert running.stdout.read() == b""
    assert running.wait(60) == 0


def test_kill_in_the_middle_and_resume(tmp_path: Path) -> None:
    lines = [*KHMER, "2024-05-01", *KHMER, "ສະບາຍດີ", *KHMER]
    file, out = written(tmp_path, lines), tmp_path / "answers.jsonl"
    running = process("--json", "--out", out, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdin is not None
    running.stdin.write("".join(f"{line}\n" for line in lines[:40]).encode())  # and then it waits for more
    running.stdin.flush()
    until = time.monotonic() + 120
    while not out.exists() or out.read_bytes().count(b"\n") < 40:
        assert time.monotonic() < until
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    before = out.read_bytes()
    with out.open("ab") as half:
        half.write(b'{"text": "half of an ans')  # what a kill within a write leaves
    again = ("translate", "--file", file, "--json", "--out", out, "--resume", *SHORT)
    done = llink(*again, status=1)
    assert done.stdout == ""
    assert done.stderr.count("Line 62: ") == 1  # counted from the beginning of the file
    assert out.read_bytes().startswith(before)
    rows = [json.loads(row) for row in out.read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == lines
    assert [bool(row["output"]) for row in rows] == [line != "ສະບາຍດີ" for line in lines]
    before = out.read_bytes()
    llink(*again, status=1)  # there is nothing left to do
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{out.name}.llink.json", out.name, "texts.txt"]


def test_resume_refuses_what_would_not_fit(tmp_path: Path) -> None:
    file, out = written(tmp_path, ["2024-05-01", "123"]), tmp_path / "answers.txt"
    arguments = ("translate", "--file", file, "--out", out)
    assert llink(*arguments, status=3).stdout == ""
    assert out.read_text() == "2024-05-01\n123\n"
    assert "[E218]" in llink(*arguments, status=1).stderr
    assert "another json" in llink(*arguments, "--json", "--resume", status=1).stderr
    file.write_text("2024-05-01\n124\n")
    assert "[E540]" in llink(*arguments, "--resume", status=1).stderr
    file.write_text("2024-05-01\n")
    assert "other texts" in llink(*arguments, "--resume", status=1).stderr
    file.write_text("2024-05-01\n123\n456\n")  # more of them
    llink(*arguments, "--resume", status=3)
    assert out.read_text() == "2024-05-01\n123\n456\n"
    (tmp_path / ".answers.txt.llink.json").unlink()
    assert "[E540]" in llink(*arguments, "--resume", status=1).stderr
    assert out.read_text() == "2024-05-01\n123\n456\n"
    llink("translate", "123", "--resume", status=2)


@pytest.mark.skipif(os.name == "nt", reason="a FIFO keeps the first run waiting")
def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    fifo, out = tmp_path / "fifo", tmp_path / "answers.txt"
    os.mkfifo(fifo)
    running = process("--file", fifo, "--out", out)
    with fifo.open("w") as lines:
        lines.write("123\n")
        lines.flush()
        until = time.monotonic() + 120
        while not out.exists() or not out.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        done = llink("translate", "123", "--out", out, "--resume", status=1)
        assert "[E540] Another run writes" in done.stderr
    assert running.wait(60) == 3
    assert out.read_text() == "123\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_is_flat(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom llink.cli import main\n"
        "try:\n    main(sys.argv[1:], 'llink')\n"
        "except SystemExit as end:\n    assert end.code == 3\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(peak[0].split()[1], file=sys.stderr)"
    )
    peaks = []
    for count in (100, 30_000):
        (tmp_path / "texts.txt").write_text(("0123456789" * 200 + "\n") * count)
        arguments = [sys.executable, "-c", code, "translate", "--file", str(tmp_path / "texts.txt")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.count("\n") == count
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 20_000, peaks  # kB, of a file of 60 MB


def test_a_document_keeps_its_structure(answers: dict[str, str], tmp_path: Path) -> None:
    page, out = tmp_path / "page.md", tmp_path / "page.en.md"
    page.write_text(f"# {KHMER[0]}\n\n- {KHMER[1]}\n- `code`\n", encoding="utf-8")
    llink("translate", "--file", page, "--out", out, *SHORT)
    made = out.read_text("utf-8").replace("\\", "")
    assert made == f"# {answers[KHMER[0]]}\n\n- {answers[KHMER[1]]}\n- `code`\n"


def test_the_shared_adapter_reads_a_language_without_its_own_and_is_said_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny encoder has no tokens for Arabic letters: that line alone is refused."""
    shutil.copytree(home, tmp_path / "home")
    adapters = tmp_path / "home" / "adapters"
    [own] = (adapters / "km").iterdir()
    variant(own, adapters / "mul" / own.name, "mul", 3)
    shutil.rmtree(adapters / "km")
    monkeypatch.setenv("LLINK_HOME", str(tmp_path / "home"))
    file = written(tmp_path, [KHMER[0], "أحب تعلم اللغة الإنجليزية.", "Dear Sir,", KHMER[1]])
    done = llink("translate", "--file", file, "--json", *SHORT, status=1)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["adapter"] for row in rows] == ["mul", None, None, "mul"]
    assert [row["language"] for row in rows] == ["km", None, None, "km"]
    assert [bool(row["output"]) for row in rows] == [True, False, True, True]
    assert "[E509]" in rows[1]["error"]
    assert rows[2]["note"] == "Latin letters"
    assert done.stderr.count("shared adapter (mul)") == 1
    asked = llink("translate", KHMER[0], "--language", "mul", *SHORT)
    assert "shared adapter" not in asked.stderr
