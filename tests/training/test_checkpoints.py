"""Checkpoints: all of the state, or an error with a code; whatever kills the process that writes one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llink import LlinkError
from llink.training.checkpoints import Checkpoint


def checkpoint_of(value: float) -> tuple[Checkpoint, nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, value)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Checkpoint({"layer": layer}, {"one": optimizer}, {"queue": torch.full((1,), value)}), layer, optimizer


def test_it_brings_everything_back(tmp_path: Path) -> None:
    saved, layer, optimizer = checkpoint_of(3)
    saved.save(tmp_path / "c", 7)
    loaded, fresh, its_optimizer = checkpoint_of(4)
    assert loaded.load(tmp_path / "c") == 7
    assert torch.equal(fresh.weight, layer.weight)
    assert loaded.tensors["queue"].item() == 3
    for mine, other in zip(optimizer.state.values(), its_optimizer.state.values(), strict=True):
        assert all(torch.equal(mine[k], other[k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert loaded.load(tmp_path / "none") == 0


# Processes that write one checkpoint after another, each number in it its step, and are killed in the midst of it.
VICTIMS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from llink.training.checkpoints import Checkpoint

torch.set_num_threads(1)  # a forked child must not wait for the threads that its parent had
path, pick, cut = Path(sys.argv[1]), random.Random(7), 0
layer = nn.Linear(1000, 1000)

def checkpoint():
    return Checkpoint({"layer": layer}, {}, {"step": torch.zeros(200_000)})

new = path.with_name(f".{path.name}.new")

def until(true):
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        pass

def written():
    return path.stat().st_ino if path.exists() else 0

for victim in range(100):
    new.unlink(missing_ok=True)
    before, child = written(), os.fork()
    if not child:
        step = checkpoint().load(path)
        while True:
            step += 1
            nn.init.constant_(layer.weight, step)
            Checkpoint({"layer": layer}, {}, {"step": torch.full((200_000,), float(step))}).save(path, step)
    # Once it has written one whole, it is killed when the next is seen to be on its way, a moment sooner or later.
    until(lambda: written() != before)
    until(new.exists)
    time.sleep(0.002 * pick.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    cut += new.exists()
    found = checkpoint()
    step = found.load(path)
    assert (layer.weight == step).all() or not step
    assert (found.tensors["step"] == step).all()
    if cut == 5:
        break
print(cut, step)
"""


def test_a_kill_never_leaves_a_half(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", VICTIMS, str(tmp_path / "c")], capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    cut, step = map(int, done.stdout.split())
    assert cut == 5  # or none was hit while it wrote
    assert step >= 5
    assert load_file(tmp_path / "c")["module/layer/weight"].unique().tolist() == [step]


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint_of(3)[0].save(tmp_path / "c", 7)
    whole = (tmp_path / "c").read_bytes()
    for spoilt in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        (tmp_path / "c").write_bytes(spoilt)
        with pytest.raises(LlinkError, match=r"\[E403\]"):
            checkpoint_of(4)[0].load(tmp_path / "c")


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint_of(3)[0].save(tmp_path / "c", 7)
    for other in (Checkpoint({"layer": nn.Linear(3, 3)}, {}), Checkpoint({"name": nn.Linear(2, 2)}, {})):
        with pytest.raises(LlinkError, match=r"\[E403\]"):
            other.load(tmp_path / "c")


def test_checkpoint_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LlinkError, match=r"\[E406\].*--resume"):
        checkpoint_of(3)[0].save(tmp_path / "file" / "c", 7)
