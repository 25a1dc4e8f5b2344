"""The feature cache: each text is encoded once and found again, however many write, are killed, or lose a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from llink import LlinkError
from llink.adapter.projectors.mlp import MLPProjector
from llink.features import cache as features
from llink.features import index
from llink.features.cache import FeatureCache, MatchedMeans
from llink.interfaces import Encoded, Encoder
from llink.recipe import StageA
from llink.store.models import load_encoder
from llink.training.stage_a import AlignmentData, train_stage_a
from llink_khmer import SAMPLES


class Counting(Encoder):
    """A real encoder that notes what it is asked."""

    def __init__(self, inner: Encoder) -> None:
        self.inner, self.seen = inner, []
        self.signature, self.max_tokens, self.hidden_size = inner.signature, inner.max_tokens, inner.hidden_size

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.inner.tokenize(texts)

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.seen += texts
        return super().encode(texts)

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        return self.inner.encode_tokens(tokens)


@pytest.fixture
def encoder(encoder_folder: str) -> Counting:
    return Counting(load_encoder(encoder_folder, dtype="float32", max_tokens=12))


KHMER = [s.foreign for s in SAMPLES[:8]]


def test_cache_encodes_a_text_once(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    assert cache.ensure([*KHMER, *KHMER[:3]]) == 8
    assert sorted(encoder.seen) == sorted(KHMER)
    assert cache.ensure(KHMER) == 0
    assert FeatureCache(tmp_path, encoder).ensure([*KHMER, "new"]) == 1
    assert encoder.seen[8:] == ["new"]
    assert KHMER[0] in cache
    assert "never" not in cache
    # What comes out is what the encoder said, in bfloat16.
    out = encoder.inner.encode(KHMER[2:5])
    states, mask = cache.states(KHMER[2:5])
    assert torch.equal(mask, out.mask)
    torch.testing.assert_close(states, out.states, atol=0.02, rtol=0.02)
    torch.testing.assert_close(cache.pooled(KHMER[2:5]), out.pooled, atol=0.02, rtol=0.02)
    assert [cache.length(text) for text in KHMER[2:5]] == out.mask.sum(1).tolist()
    assert not states[~mask].any()


def test_cache_is_of_one_signature(encoder: Counting, encoder_folder: str, tmp_path: Path) -> None:
    FeatureCache(tmp_path, encoder).ensure(KHMER)
    other = Counting(load_encoder(encoder_folder, dtype="float32", max_tokens=12, layer=1))
    assert FeatureCache(tmp_path, other).ensure(KHMER) == 8
    assert len(list(tmp_path.iterdir())) == 2


def test_long_text_is_cut(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    long = " ".join(KHMER)
    cache.ensure([long, "ទឹក"])
    assert encoder.count_tokens([long])[0] > 12
    assert cache.length(long) == 12
    states, mask = cache.states([long, "ទឹក"])
    assert states.shape == (2, 12, 32)
    assert mask[0].all()
    assert not mask[1].all()


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "no keys"])
def test_damaged_shard_is_made_anew(encoder: Counting, tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path, encoder)
    cache.ensure(KHMER[:4])
    [first] = cache.folder.iterdir()
    cache.ensure(KHMER[4:])
    from safetensors.torch import save_file

    whole = first.read_bytes()
    first.unlink()
    if damage == "no keys":
        save_file({"x": torch.zeros(1)}, first)
    else:
        first.write_bytes({"cut": whole[:-10], "empty": b"", "garbage": b"\xff" * 200}[damage])
    again = FeatureCache(tmp_path, encoder)
    assert again.ensure(KHMER) == 4
    assert first.read_bytes() == whole


def test_unwritable_cache(encoder: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LlinkError, match=r"\[E112\].*LLINK_HOME"):
        FeatureCache(tmp_path / "file", encoder)


# At scale, with shards and segments of a few texts in place of thousands.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in SMALL:
        monkeypatch.setattr(sys.modules[module], name, size)


SMALL = [
    (features.__name__, "SHARD", 4),
    (features.__name__, "WINDOW", 256),
    (features.__name__, "OPEN_SHARDS", 3),
    (features.__name__, "GATHER", 16),
    (index.__name__, "FRESH", 2),
    (index.__name__, "BLOCK", 8),
]
MANY = [f"{n} {text}" for n in range(25) for text in KHMER]


def rows_on_disk(folder: Path) -> list[bytes]:
    """The key of every row of every shard."""
    return [row.numpy().tobytes() for path in folder.glob("*.safetensors") for row in load_file(path)["keys"]]


@pytest.mark.usefixtures("small")
def test_many_shards_are_found_through_few_segments(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    assert cache.ensure(iter([*MANY, *MANY])) == 200
    assert sorted(encoder.seen) == sorted(MANY)
    assert len(list(cache.folder.glob("*.safetensors"))) == 50
    assert 1 <= len(list(cache.folder.glob("*.index"))) <= 6
    assert not [
        path for path in cache.folder.iterdir() if path.suffix in (".tmp", ".lock") and "index" not in path.name
    ]
    again = FeatureCache(tmp_path, encoder)
    assert all(text in again for text in MANY)
    assert "never" not in again
    assert again.ensure(MANY) == 0
    out = encoder.inner.encode(MANY)
    torch.testing.assert_close(again.pooled(MANY), out.pooled, atol=0.02, rtol=0.02)
    torch.testing.assert_close(again.states(MANY)[0], out.states, atol=0.02, rtol=0.02)
    assert again.lengths(MANY) == out.mask.sum(1).tolist()
    with pytest.raises(KeyError, match="never"):
        again.pooled([*MANY, "never"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "gone"])
def test_damaged_segment_is_made_anew(encoder: Counting, tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path, encoder)
    cache.ensure(MANY)
    for path in cache.folder.glob("*.index"):
        whole = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes({"garbage": b"\xff" * 100, "empty": b"", "cut": whole[:-10]}[damage])
    again = FeatureCache(tmp_path, encoder)
    assert again.ensure(MANY) == 0
    assert torch.equal(again.pooled(MANY), cache.pooled(MANY))
    assert list(again.folder.glob("*.index"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_shard_is_made_anew_though_indexed(encoder: Counting, tmp_path: Path, damage: str) -> None:
    cache = FeatureCache(tmp_path, encoder)
    cache.ensure(MANY)
    before = cache.pooled(MANY)
    for path in sorted(cache.folder.glob("*.safetensors"))[:3]:
        whole = path.read_bytes()
        path.unlink()
        if damage == "cut":
            path.write_bytes(whole[:-10])
    again = FeatureCache(tmp_path, encoder)
    assert again.ensure(MANY) == 12
    assert torch.equal(again.pooled(MANY), before)


@pytest.mark.usefixtures("small")
def test_shard_lost_during_a_run(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    cache.ensure(MANY)
    lost = FeatureCache(tmp_path, encoder)
    for path in lost.folder.glob("*.safetensors"):
        path.unlink()
        path.write_bytes(b"nothing")
    with pytest.raises(LlinkError, match=r"\[E116\].*Run again"):
        lost.pooled(MANY)
    assert FeatureCache(tmp_path, encoder).ensure(MANY) == 200


def test_cache_of_an_earlier_version_is_read(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    # It had its texts in another order, and no index.
    out = encoder.inner.encode(KHMER)
    keys = torch.tensor([list(index.text_key(text)) for text in KHMER], dtype=torch.uint8)
    offsets = torch.tensor([0, *out.mask.sum(1).tolist()]).cumsum(0)
    tensors = {
        "keys": keys,
        "offsets": offsets,
        "pooled": out.pooled.bfloat16(),
        "states": out.states[out.mask].bfloat16(),
    }
    save_file(tensors, cache.folder / "0123456789abcdef.safetensors")
    assert cache.ensure(KHMER) == 0
    assert torch.equal(cache.pooled(KHMER), out.pooled.bfloat16().float())
    assert torch.equal(cache.states(KHMER)[0], out.states.bfloat16().float())


@pytest.mark.usefixtures("small")
def test_ranks_share_the_texts_out(encoder: Counting, tmp_path: Path) -> None:
    FeatureCache(tmp_path, encoder).ensure(MANY[:40])
    done = []
    caches = [FeatureCache(tmp_path, encoder) for _ in range(3)]
    for rank, cache in enumerate(caches):  # each looks when those before it have written
        encoder.seen.clear()
        assert cache.ensure(MANY, rank=rank, world=3) == len(encoder.seen)
        done.append(list(encoder.seen))
    assert sorted(text for share in done for text in share) == sorted(MANY[40:])
    assert all(30 < len(share) < 80 for share in done)
    encoder.seen.clear()
    assert [cache.ensure(MANY, rank=rank, world=3) for rank, cache in enumerate(caches)] == [0, 0, 0]
    assert all(torch.equal(cache.pooled(MANY), caches[0].pooled(MANY)) for cache in caches)


def test_the_only_process_of_an_accelerator_encodes_all(encoder: Counting, tmp_path: Path) -> None:
    assert FeatureCache(tmp_path, encoder).ensure(KHMER, accelerator=Accelerator(cpu=True)) == 8


# A process that fills a cache; it may kill itself, as the kernel would, in the middle of a shard.
FILLER = """
import json, os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from llink.store.models import load_encoder
from llink.features.cache import FeatureCache

folder, root, fatal, ready, start, small = sys.argv[1:]
for module, name, size in json.loads(small):
    setattr(sys.modules[module], name, size)
encoder = load_encoder(folder, dtype="float32", max_tokens=12)
whole, calls = encoder.encode, 0

def encode(texts):
    global calls
    calls += 1
    if calls == int(fatal):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(texts)

encoder.encode = encode
texts = json.load(sys.stdin)
cache = FeatureCache(Path(root), encoder)
Path(ready).touch()
while start and not os.path.exists(start):
    time.sleep(0.001)
print(cache.ensure(texts))
"""


def filler(
    encoder_folder: str, root: Path, texts: list[str], fatal: int, ready: Path, start: str
) -> subprocess.Popen[str]:
    """Start ``FILLER``; it gets its texts at once."""
    arguments = [encoder_folder, str(root), str(fatal), str(ready), start, json.dumps(SMALL)]
    process = subprocess.Popen(
        [sys.executable, "-c", FILLER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    process.stdin.write(json.dumps(texts))
    process.stdin.close()
    return process


def test_kill_in_a_shard_loses_that_shard_alone(encoder: Counting, encoder_folder: str, tmp_path: Path) -> None:
    # A shard of 4 texts of at most 12 tokens is one batch.
    process = filler(encoder_folder, tmp_path / "root", MANY, 20, tmp_path / "ready", "")
    assert process.wait(120) == -signal.SIGKILL
    cache = FeatureCache(tmp_path / "root", encoder)
    assert len(rows_on_disk(cache.folder)) == 19 * 4
    assert cache.ensure(MANY) == 200 - 19 * 4
    assert len(set(encoder.seen)) == len(encoder.seen) == 200 - 19 * 4
    assert cache.pooled(MANY).isfinite().all()


def test_two_processes_at_once_encode_no_text_twice(encoder: Counting, encoder_folder: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    processes = [
        filler(encoder_folder, tmp_path / "root", texts, 0, tmp_path / f"ready{n}", str(start))
        for n, texts in enumerate((MANY, MANY[::-1]))
    ]
    while not all((tmp_path / f"ready{n}").exists() for n in range(2)):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    start.touch()
    encoded = []
    for process in processes:
        assert process.stdout
        encoded.append(int(process.stdout.read()))
        assert process.wait(120) == 0
    assert sum(encoded) == 200
    cache = FeatureCache(tmp_path / "root", encoder)
    assert sorted(rows_on_disk(cache.folder)) == sorted(map(index.text_key, MANY))
    assert cache.ensure(MANY) == 0
    assert not list(cache.folder.glob(".*.safetensors.*"))
    torch.testing.assert_close(cache.pooled(MANY), encoder.inner.encode(MANY).pooled, atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("small")
def test_text_that_two_runs_encoded_is_read_once(encoder: Counting, tmp_path: Path) -> None:
    ours, theirs = FeatureCache(tmp_path / "ours", encoder), FeatureCache(tmp_path / "theirs", encoder)
    ours.ensure(MANY[:40])
    theirs.ensure(MANY[20:60])
    for path in theirs.folder.glob("*.safetensors"):
        path.rename(ours.folder / path.name)
    assert ours.ensure(MANY[:60]) == 0
    ours.ensure(MANY)
    torch.testing.assert_close(ours.pooled(MANY), encoder.inner.encode(MANY).pooled, atol=0.02, rtol=0.02)


# Vectors that stay on disk.


@pytest.mark.usefixtures("small")
def test_vectors_are_the_pooled_ones(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    english = [s.english for s in SAMPLES[:20]]
    cache.ensure([*MANY, *english])
    means = MatchedMeans(cache, MANY, english)
    for source in (cache, means):
        vectors, whole = source.vectors([*MANY, *english]), source.pooled([*MANY, *english])
        assert vectors.shape == whole.shape
        assert torch.equal(vectors[:], whole)
        rows = torch.tensor([219, 3, 3, 100])
        assert torch.equal(vectors[rows], whole[rows])
        assert torch.equal(vectors[5:9], whole[5:9])
        torch.testing.assert_close(vectors.mean(), whole.mean(0))
        assert torch.equal(vectors.first(10).mean(), whole[:10].mean(0))
        assert torch.equal(vectors.sample(1000), whole)
        assert torch.equal(vectors.sample(50), whole[::5])


def test_stage_a_learns_the_same_from_disk(encoder: Counting, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoder)
    english = [f"{n} {s.english}" for n in range(25) for s in SAMPLES[:8]]
    cache.ensure([*MANY, *english])
    weights = []
    for inputs, teachers in (
        (cache.vectors(MANY), cache.vectors(english)),
        (cache.pooled(MANY), cache.pooled(english)),
    ):
        torch.manual_seed(0)
        projector = MLPProjector(encoder_size=32, decoder_size=32, hidden=64)
        data = AlignmentData(inputs, teachers, torch.arange(200))
        train_stage_a(projector, data, StageA(epochs=2, batch=16, queue=32), seed=3, accelerator=Accelerator(cpu=True))
        weights.append(projector.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
