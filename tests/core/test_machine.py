"""Machines that refuse: no home, forbidden or full disks, closed streams, other locales, forks, two runs at once."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llink import Engine, LlinkError
from llink.home import sweep
from llink_khmer import SAMPLES

NOBODY = (
    "import pwd\ndef unknown(uid):\n    raise KeyError(f'getpwuid(): uid not found: {uid}')\npwd.getpwuid = unknown\n"
)
"""A ``sitecustomize`` that takes the password file away."""


def environment(**env: str | None) -> dict[str, str]:
    whole = {**{k: v for k, v in os.environ.items() if not k.startswith("LLINK_")}, "COLUMNS": "200", **env}
    return {key: value for key, value in whole.items() if value is not None}


def llink(*args: str | Path, shell: str = "", prepare: Callable[[], None] | None = None, **env: str | None) -> Any:
    """The command in a process of its own; ``shell`` is what a shell puts behind it, such as ``<&-``."""
    command = [sys.executable, "-m", "llink", *map(str, args)]
    if shell:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    return subprocess.run(
        command, env=environment(**env), capture_output=True, encoding="utf-8", timeout=300, preexec_fn=prepare
    )


def refused(done: Any, code: str) -> None:
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert f"[{code}]" in done.stderr
    assert "[bug]" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def unprivileged() -> None:
    """Take from root what lets it pass over permissions; before exec."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                os._exit(99)


def small_files() -> None:
    """No file may grow beyond 3000 bytes: what a full disk does, without one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_no_home_and_no_user(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    bare: dict[str, str | None] = {"HOME": None, "PYTHONPATH": str(tmp_path), "LLINK_HOME": None}
    refused(llink("languages", **bare), "E112")
    refused(llink("languages", **{**bare, "LLINK_HOME": "~/llink"}), "E112")
    doctor = llink("doctor", **bare)
    assert doctor.returncode == 1
    assert "[E112] There is no home folder" in doctor.stdout
    done = llink("languages", **{**bare, "LLINK_HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_forbidden_home(mode: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=mode)
    try:
        for args in (["languages"], ["models"], ["recipes", "ls"]):
            done = llink(*args, prepare=unprivileged, LLINK_HOME=str(home))
            assert done.returncode == 0, done.stderr
        doctor = llink("doctor", prepare=unprivileged, LLINK_HOME=str(home))
        assert doctor.returncode == 1
        assert "[E112]" in doctor.stdout
        refused(llink("translate", SAMPLES[0].foreign, prepare=unprivileged, LLINK_HOME=str(home)), "E112")
        refused(llink("eval", "km", prepare=unprivileged, LLINK_HOME=str(home)), "E112")
    finally:
        home.chmod(0o700)


@pytest.mark.parametrize("args", ["languages", "--help", "translate --help", "recipes cat km/cpu", "models"])
def test_full_stdout(args: str, tmp_path: Path) -> None:
    done = llink(*args.split(), shell="> /dev/full", LLINK_HOME=str(tmp_path))
    refused(done, "E113")
    assert done.stderr.count("\n") == 1


def test_closed_streams(tmp_path: Path) -> None:
    refused(llink("translate", shell="<&-", LLINK_HOME=str(tmp_path)), "E505")
    assert llink("languages", shell="<&- >&-", LLINK_HOME=str(tmp_path)).returncode == 0
    assert llink("languages", shell=">&- 2>&-", LLINK_HOME=str(tmp_path)).returncode == 0


def test_full_disk_half_way_through_a_copy(tmp_path: Path) -> None:
    target = tmp_path / "own.yaml"
    refused(
        llink(
            "recipes",
            "cp",
            "llink_plugins.smollm2/cpu",
            target,
            prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        ),
        "E113",
    )
    assert not target.exists()
    assert llink("recipes", "cp", "llink_plugins.smollm2/cpu", target).returncode == 0


def test_full_disk_half_way_through_a_split(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"english": f"This is sentence {n} of them, {os.urandom(20).hex()}", "foreign": f"ខ្ញុំ {n}"} for n in range(400)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = ["data", "split", pairs, "--dev", "20", "--out", tmp_path / "out"]
    refused(llink(*split, prepare=small_files), "E113")
    assert [path.name for path in (tmp_path / "out").glob("*")] == []
    assert llink(*split).returncode == 0


def test_full_disk_half_way_through_the_feature_cache(encoder_folder: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom llink.store.models import load_encoder\n"
        "from llink.features.cache import FeatureCache\n"
        f"cache = FeatureCache(Path({str(tmp_path)!r}), load_encoder({encoder_folder!r}))\n"
        "from llink import LlinkError\n"
        "try:\n    cache.ensure(['one and two ' * 9] * 1 + [str(n) for n in range(99)])\n"
        "except LlinkError as error:\n    print(error.code)\n"
    )
    run = [sys.executable, "-c", code]
    full = subprocess.run(run, capture_output=True, text=True, env=environment(), timeout=300, preexec_fn=small_files)
    assert full.stdout == "E113\n", full.stderr
    [folder] = tmp_path.iterdir()
    assert not [path for path in folder.iterdir() if path.name.endswith((".tmp", ".safetensors"))]
    again = subprocess.run(run, capture_output=True, text=True, env=environment(), timeout=300)
    assert (again.returncode, again.stdout) == (0, ""), again.stderr


def test_a_locale_that_knows_ascii_alone(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LLINK_HOME": str(tmp_path)}
    done = llink("languages", "ភាសាខ្មែរ", **ascii_only)
    assert done.returncode == 0, done.stderr
    assert "km, khm" in done.stdout
    assert llink("recipes", "cat", "km/cpu", **ascii_only).returncode == 0


def test_a_deleted_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f'cd {gone} && rmdir {gone} && "$@"', "sh", sys.executable, "-m", "llink", "languages"],
        capture_output=True,
        text=True,
        env=environment(LLINK_HOME=str(tmp_path)),
        timeout=100,
    )
    assert "[bug]" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def engine(encoder_folder: str, decoder_folder: str, tiny_adapter: Path) -> Engine:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapter)
    return engine


def test_fork_soon_after_a_request(engine: Engine) -> None:
    text = SAMPLES[0].foreign
    wanted = engine.generate(text, max_new_tokens=3)
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if engine.generate(text, max_new_tokens=3) == wanted else 2
        finally:
            os._exit(status)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert engine.generate(text, max_new_tokens=3) == wanted


def test_half_a_character(engine: Engine) -> None:
    assert isinstance(engine.generate(SAMPLES[0].foreign, instruction="Why \udce1?", max_new_tokens=2), str)
    assert isinstance(engine.chat([{"role": "user", "content": "Why \ud83d?"}], max_new_tokens=2), str)
    assert len(engine.rank(SAMPLES[0].foreign, ["one \udce1", "two"])) == 2


def test_timeouts(engine: Engine) -> None:
    assert isinstance(engine.generate(SAMPLES[0].foreign, max_new_tokens=2, timeout=float("inf")), str)
    assert isinstance(engine.generate(SAMPLES[0].foreign, max_new_tokens=2, timeout=1e300), str)
    for timeout in (float("nan"), -1.0):
        with pytest.raises(LlinkError, match=r"\[E518\]"):
            engine.generate(SAMPLES[0].foreign, timeout=timeout)


@pytest.mark.parametrize("candidates", [["", " "], ["one", "\n"]])
def test_blank_candidates(engine: Engine, candidates: list[str]) -> None:
    with pytest.raises(LlinkError, match=r"\[E510\] Texts are empty"):
        engine.rank(SAMPLES[0].foreign, candidates)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    from llink.training.run_folder import hold, let_go

    (tmp_path / "checkpoints").mkdir()
    hold(tmp_path)
    code = f"from pathlib import Path\nfrom llink.training.run_folder import hold\nhold(Path({str(tmp_path)!r}))\n"

    def other() -> Any:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=300
        )

    assert "[E404] Another process is training" in other().stderr
    let_go(tmp_path)
    assert other().returncode == 0


def test_drafts_of_killed_runs_are_swept(tmp_path: Path) -> None:
    from llink.home import atomic_write, ensure_folder

    old = [
        ".train.jsonl.0123456789abcdef0123456789abcdef.tmp",
        ".adapter.new-77",
        ".adapter.old-77",
        ".x.safetensors-7",
    ]
    for name in old:
        (tmp_path / name).mkdir() if "adapter" in name else (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    new = tmp_path / ".other.new-78"
    new.mkdir()
    for name in ("adapter", "train.jsonl", ".hidden"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    ensure_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".other.new-78", "adapter", "train.jsonl"]
    assert sweep(tmp_path, 0) == [new]
    (tmp_path / ".only.old-79").mkdir()
    sweep(tmp_path, 0)
    assert (tmp_path / "only").is_dir()
    atomic_write(tmp_path / "x", "y")
    assert sweep(tmp_path, 0) == []


def test_a_bug_says_what_to_report(tmp_path: Path) -> None:
    package, info = tmp_path / "plug_lao.py", tmp_path / "llink_lao-1.0.dist-info"
    info.mkdir()
    package.write_text(
        "from llink.hookspecs import hookimpl\nfrom llink.interfaces import Language\n@hookimpl\ndef llink_languages():\n"
        "    return [Language(code='lo', code3='lao', name='Lao', scripts=(1,), package='plug_lao')]\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llink-lao\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llink]\nlao = plug_lao\n")
    done = llink("languages", PYTHONPATH=str(tmp_path), LLINK_HOME=str(tmp_path))
    assert done.returncode == 70
    assert "report" in done.stderr
    assert "`llink doctor`" in done.stderr
    assert done.stderr.count("\n") == 1
