"""Sharing adapters: a hub (a local server that speaks its calls), folders and zips; what is not as promised is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hub_server import Hub
from safetensors.numpy import save_file

from llink.adapter.files import file_hash, read_manifest
from llink.adapter.sharing import Address, checks
from llink.adapter.sharing.hub import scrubbed
from llink.cli import main
from llink.store.registry import load_registry

SHIPPED = Path(__file__).parents[2] / "languages/llink_khmer/adapters/gemma3-270m--smollm2-135m-instruct"
PAIR = SHIPPED.name
TOKEN = "hf_secretsecretsecret"
REPO = "hub:org/khmer"


def llink(*args: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def make(folder: Path, seed: int = 1, **changes: Any) -> Path:
    """An adapter with the manifest of the shipped Khmer one and small weights of its own."""
    folder.mkdir(parents=True)
    for number, name in enumerate(("bridge.safetensors", "adapter_model.safetensors")):
        save_file({"w": np.random.default_rng(seed + number).normal(size=(4, 4)).astype(np.float32)}, folder / name)
    shutil.copyfile(SHIPPED / "adapter_config.json", folder / "adapter_config.json")
    manifest = json.loads((SHIPPED / "manifest.json").read_text("utf-8"))
    manifest["files"] = {name: file_hash(folder / name) for name in checks.WEIGHTS}
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}), "utf-8")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make(tmp_path / "made")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, this process logged in to it, and a language without adapters of its own in the way."""
    running = Hub(TOKEN)
    for name, value in {"HF_ENDPOINT": running.base, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # large files go the older way, LFS
    yield running
    running.close()


def push(adapter: Path, target: str | Path = REPO, *more: str) -> Result:
    return llink("push", "km", target, "--adapter", adapter, "--licence", "cc-by-4.0", *more)


def put(hub: Hub, adapter: Path, **changes: bytes | None) -> None:
    """An adapter on the hub, past `llink push`: with files changed, added or left out."""
    assert push(adapter).exit_code == 0
    repo = hub.repos["org/khmer"]
    files = {**repo.commits[repo.head], **{name.replace("__", "."): content for name, content in changes.items()}}
    repo.commits[repo.head] = {name: content for name, content in files.items() if content is not None}


def test_there_and_back(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    done = push(adapter)
    assert done.exit_code == 0, done.output
    commit = hub.repos["org/khmer"].head
    assert done.stdout.strip() == f"{REPO}@{commit}"
    assert set(hub.repos["org/khmer"].commits[commit]) == {*checks.SHARED, ".gitattributes"}, "one commit has all of it"
    pulled = llink("pull", REPO)
    assert pulled.exit_code == 0, pulled.output
    place = tmp_path / "home" / "adapters" / "km" / f"{PAIR}@khmer"
    assert pulled.stdout.strip() == str(place)
    assert "--language km@khmer" in pulled.stderr
    assert sorted(p.name for p in place.iterdir()) == sorted(checks.SHARED)
    for name in checks.PARTS:
        assert (place / name).read_bytes() == (adapter / name).read_bytes()
    pin = load_registry().adapters[f"km/{PAIR}@khmer"]
    assert (pin.source, pin.revision) == (REPO, commit)
    assert pin.sha256 == checks.hashes(adapter)
    assert f"{PAIR}@khmer" in llink("languages", "km").output


def test_the_card_is_one_that_the_library_reads(hub: Hub, adapter: Path) -> None:
    from huggingface_hub import ModelCard

    push(adapter)
    text = hub.repos["org/khmer"].commits[hub.repos["org/khmer"].head]["README.md"].decode()
    data = ModelCard(text).data
    assert (data.language, data.license, data.library_name) == (["km", "en"], "cc-by-4.0", "llink")
    assert data.base_model == ["HuggingFaceTB/SmolLM2-135M-Instruct", "google/gemma-3-270m"]
    assert {"llink", "llink-adapter"} <= set(data.tags)
    manifest = read_manifest(adapter)
    assert set(data.to_dict()["llink"]["sources"]) == set(manifest.data)
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in data.eval_results}
    measured = manifest.metrics["translate"]
    assert {dev: found[dev, "chrf"] for dev in measured} == {dev: round(v["chrf++"], 4) for dev, v in measured.items()}
    assert data.to_dict()["model-index"][0]["name"] == "khmer"
    assert "## Trained on" in text


def test_a_pull_stays_at_its_commit_until_it_is_told(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    push(adapter)
    first = hub.repos["org/khmer"].head
    assert llink("pull", REPO).exit_code == 0
    other = make(tmp_path / "other", seed=7)
    assert push(other).exit_code == 0
    place = tmp_path / "home" / "adapters" / "km" / f"{PAIR}@khmer"
    assert llink("pull", REPO).exit_code == 0
    assert file_hash(place / "bridge.safetensors") == file_hash(adapter / "bridge.safetensors")
    assert llink("pull", REPO, "--update").exit_code == 0
    assert file_hash(place / "bridge.safetensors") == file_hash(other / "bridge.safetensors")
    assert llink("pull", f"{REPO}@{first}", "--name", "old").exit_code == 0
    assert [entry.revision for entry in load_registry().adapters.values()] == [first], "an address is pinned once"


def test_a_commit_that_brings_other_files_than_when_it_was_pinned(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    put(hub, adapter)
    assert llink("pull", REPO).exit_code == 0
    other, repo = make(tmp_path / "other", seed=7), hub.repos["org/khmer"]
    repo.commits[repo.head] = {name: (other / name).read_bytes() for name in checks.PARTS} | {"README.md": b"x"}
    done = llink("pull", REPO)
    assert (done.exit_code, "[E322]" in done.output) == (1, True)
    kept = tmp_path / "home" / "adapters" / "km" / f"{PAIR}@khmer" / "bridge.safetensors"
    assert file_hash(kept) == file_hash(adapter / "bridge.safetensors"), "what was there stays"


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


BAD: dict[str, tuple[str, Callable[[Path], dict[str, bytes | None]]]] = {
    "tampered": ("E322", lambda a: {"bridge__safetensors": flipped((a / "bridge.safetensors").read_bytes())}),
    "truncated": ("E322", lambda a: {"bridge__safetensors": (a / "bridge.safetensors").read_bytes()[:-30]}),
    "header cut": ("E322", lambda a: {"adapter_model__safetensors": b"\x09"}),
    "file missing": ("E322", lambda a: {"adapter_model__safetensors": None}),
    "pickle beside": ("E323", lambda a: {"pytorch_model__bin": pickle.dumps([1])}),
    "pickle renamed": ("E323", lambda a: {"bridge__safetensors": pickle.dumps([1])}),
    "code beside": ("E323", lambda a: {"setup__py": b"print()"}),
    "nested": ("E323", lambda a: {"more/bridge__safetensors": b"x"}),
    "text too large": ("E324", lambda a: {"README__md": b"x" * (checks.MOST_OF_TEXT + 1)}),
    "manifest damaged": ("E310", lambda a: {"manifest__json": b"{}"}),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_repositories_are_refused(hub: Hub, adapter: Path, tmp_path: Path, how: str) -> None:
    code, changes = BAD[how]
    put(hub, adapter, **changes(adapter))
    done = llink("pull", REPO)
    assert (done.exit_code, f"[{code}]" in done.output) == (1, True), done.output
    assert not (tmp_path / "home" / "adapters").exists()
    assert load_registry().adapters == {}
    assert list((tmp_path / "home" / "sharing").iterdir()) == [], "nothing is left lying about"


def test_a_repository_too_large_is_refused_before_it_is_fetched(hub: Hub, adapter: Path) -> None:
    put(hub, adapter)
    hub.repos["org/khmer"].promise["bridge.safetensors"] = checks.MOST + 1
    hub.asked.clear()
    done = llink("pull", REPO)
    assert "[E324]" in done.output
    assert not any("/resolve/" in path for _, path, _ in hub.asked)


def test_a_file_that_is_shorter_than_promised(hub: Hub, adapter: Path) -> None:
    put(hub, adapter)
    hub.repos["org/khmer"].promise["manifest.json"] = 17
    assert "[E322]" in llink("pull", REPO).output


def test_a_repository_that_was_renamed(hub: Hub, adapter: Path) -> None:
    put(hub, adapter)
    hub.repos["org/khmer"].moved = "someone/else"
    done = llink("pull", REPO)
    assert "[E325]" in done.output
    assert "someone/else" in done.output


def test_private_and_gated_repositories(hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert push(adapter, REPO, "--private").exit_code == 0
    assert hub.repos["org/khmer"].private
    assert llink("pull", REPO).exit_code == 0
    assert llink("search").output.count("org/khmer") == 1
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    for path in ("private", "gated"):
        hub.repos["org/khmer"].private, hub.repos["org/khmer"].gated = path == "private", path == "gated"
        done = llink("pull", REPO, "--name", "again")
        assert (done.exit_code, "[E321]" in done.output) == (1, True), done.output
        assert "hf auth login" in done.output
    refused = push(adapter, "hub:org/other")
    assert (refused.exit_code, "[E321]" in refused.output) == (1, True)


def test_no_token_is_ever_shown(hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "another"
    monkeypatch.setenv("LLINK_DEBUG", "1")
    for done in (push(adapter), llink("pull", REPO), llink("search")):
        assert TOKEN not in done.output
    assert scrubbed(f"Bearer {TOKEN} and hf_abc") == "*** and ***"


def test_what_the_hub_does_not_have(hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, adapter)
    assert "[E321]" in llink("pull", "hub:org/nothing").output
    assert "no such revision" in llink("pull", f"{REPO}@nowhere").output.lower()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert "[E321]" in llink("pull", REPO).output


def test_search(hub: Hub, adapter: Path) -> None:
    put(hub, adapter)
    found = llink("search", "khm").output
    assert "hub:org/khmer" in found
    assert llink("search", "--language", "lo").output.strip() == "None found."
    assert llink("search", "burmese").output.strip() == "None found."


def test_offline_and_endpoint_from_the_environment(hub: Hub, adapter: Path, tmp_path: Path) -> None:
    """A process of its own: huggingface_hub reads these when it is imported."""
    put(hub, adapter)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "llink", "pull", REPO]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "[E321]" in done.stderr, "HF_HUB_OFFLINE" in done.stderr) == (1, True, True), done.stderr
    done = subprocess.run(line, env={**environment, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["shared", "shared.zip"])
def test_folders_and_zips(adapter: Path, tmp_path: Path, target: str) -> None:
    there = tmp_path / target
    assert push(adapter, there).stdout.strip() == str(there)
    first = there.read_bytes() if there.is_file() else b""
    assert push(adapter, there).exit_code == 0
    assert not first or there.read_bytes() == first, "the same adapter, the same bytes"
    done = llink("pull", there)
    assert done.exit_code == 0, done.output
    place = tmp_path / "home" / "adapters" / "km" / f"{PAIR}@shared"
    assert file_hash(place / "manifest.json") == file_hash(adapter / "manifest.json")
    assert load_registry().adapters[f"km/{PAIR}@shared"].source == str(there)


def test_the_plain_place_where_it_is_free(adapter: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", encoder="another")
    assert push(other, tmp_path / "x.zip").exit_code == 0
    assert llink("pull", tmp_path / "x.zip").exit_code == 0
    assert (tmp_path / "home" / "adapters" / "km" / "another--smollm2-135m-instruct" / "manifest.json").is_file()


ZIPS: dict[str, tuple[str, Callable[[dict[str, bytes]], list[tuple[str, bytes]]]]] = {
    "pickle": ("E323", lambda files: [*files.items(), ("model.pkl", b"x")]),
    "climbs out": ("E323", lambda files: [*files.items(), ("../evil", b"x")]),
    "twice": ("E323", lambda files: [*files.items(), ("manifest.json", b"{}")]),
    "missing": ("E322", lambda files: [(n, c) for n, c in files.items() if n != "bridge.safetensors"]),
    "tampered": ("E322", lambda files: [(n, flipped(c) if n == "bridge.safetensors" else c) for n, c in files.items()]),
    "bomb": (
        "E324",
        lambda files: [*((n, c) for n, c in files.items() if n != "README.md"), ("README.md", b"0" * (1 << 24))],
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", ZIPS)
def test_bad_zips_are_refused(adapter: Path, tmp_path: Path, how: str) -> None:
    code, members = ZIPS[how]
    files = {name: (adapter / name).read_bytes() for name in checks.PARTS} | {"README.md": b"x"}
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(files):
            archive.writestr(name, content)
    done = llink("pull", tmp_path / "bad.zip")
    assert (done.exit_code, f"[{code}]" in done.output) == (1, True), done.output


def test_a_zip_that_breaks_off_and_a_folder_with_a_link(adapter: Path, tmp_path: Path) -> None:
    push(adapter, tmp_path / "whole.zip")
    content = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(content[: len(content) // 2])
    middle = len(content) // 4
    (tmp_path / "bent.zip").write_bytes(
        content[:middle] + flipped(content[middle : middle + 1]) + content[middle + 1 :]
    )
    for name in ("half.zip", "bent.zip"):
        assert "[E322]" in llink("pull", tmp_path / name).output
    linked = Path(shutil.copytree(adapter, tmp_path / "linked"))
    (linked / "bridge.safetensors").unlink()
    (linked / "bridge.safetensors").symlink_to(adapter / "bridge.safetensors")
    assert "[E323]" in llink("pull", linked).output


def test_a_language_that_nothing_brings(adapter: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", language="lo")
    done = llink("pull", other)
    assert (done.exit_code, "[E201]" in done.output) == (1, True), done.output


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("push", "km", "hub:nope", "--licence", "mit"), "E320"),
        (("push", "km", "hub:org/x@main", "--licence", "mit"), "E320"),
        (("push", "km", "somewhere", "--licence", "as you like"), "E320"),
        (("push", "km", "somewhere"), "E223"),
        (("pull", "hub:org/../x"), "E320"),
        (("pull", "nowhere"), "E320"),
        (("pull", "nowhere.zip"), "E320"),
        (("pull", "nowhere.zip", "--name", "../x"), "E320"),
    ],
)
def test_what_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = llink(*args)
    assert (done.exit_code, f"[{code}]" in done.output) == (1, True), done.output


def test_a_damaged_adapter_is_not_pushed_and_a_strange_folder_not_filled(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "home work").mkdir()
    (tmp_path / "home work" / "letter.txt").write_text("Dear …")
    assert "[E320]" in push(adapter, tmp_path / "home work").output
    (adapter / "bridge.safetensors").write_bytes(flipped((adapter / "bridge.safetensors").read_bytes()))
    assert "[E322]" in push(adapter, tmp_path / "out").output
    assert not (tmp_path / "out").exists()


def test_the_servers_answers_are_what_the_librarys_types_say(hub: Hub, adapter: Path) -> None:
    """The contract: the shapes of this server, read by huggingface_hub's own classes, name by name."""
    from huggingface_hub import HfApi, ModelInfo

    put(hub, adapter)
    info = HfApi(endpoint=hub.base).model_info("org/khmer", files_metadata=True, revision="main")
    assert isinstance(info, ModelInfo)
    large = {file.rfilename: file.lfs for file in info.siblings if file.lfs}
    assert {name: lfs.sha256 for name, lfs in large.items()} == {
        name: file_hash(adapter / name) for name in ("bridge.safetensors", "adapter_model.safetensors")
    }
    assert all(file.size is not None for file in info.siblings)
    assert (info.id, info.sha, info.private, info.gated) == ("org/khmer", hub.repos["org/khmer"].head, False, False)
    [listed] = HfApi(endpoint=hub.base).list_models(
        filter=["llink"], expand=["tags", "downloads", "lastModified", "gated"]
    )
    assert (listed.id, listed.downloads, "llink" in listed.tags) == ("org/khmer", 3, True)
    assert listed.last_modified.year == 2026


def test_address() -> None:
    assert Address.read("hub:o/n@v1.0") == Address("o/n", "v1.0")
    assert str(Address.read("hub:o/n@v1.0")) == "hub:o/n@v1.0"
    assert str(Address.read("a/b.zip")) == "a/b.zip"
    assert Address.read("a/b.zip").is_zip
