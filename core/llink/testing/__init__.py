"""Pytest fixtures for plugin authors: a tiny pair of models, and a LLINK_HOME where it is the default pair.

``pytest_plugins = ["llink.testing"]`` in a ``conftest.py`` brings them. All is real, only small: the models are
of true architectures, the commands that a test runs are LLINK's own, and a training run takes seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llink.interfaces import Sample

if TYPE_CHECKING:
    from llink.store.registry import Role

ENGLISH = (
    "Answer in English. Translate to English. Summarize the text in one sentence. List the key points of the text.",
    "system user assistant You are a helpful assistant.",
)
"""What every prompt says; a tokenizer of the kit knows these words too."""


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """What the tiny tokenizers are trained on: the samples of all installed languages. Override it at will."""
    from llink.plugins import languages

    return [text for entry in languages().values() for s in entry.samples for text in (s.english, s.foreign)]


@pytest.fixture(scope="session")
def tiny_encoder(tiny_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny XLM-R: 3 layers, hidden size 32, random weights."""
    from llink.testing.tiny import xlm_roberta

    return xlm_roberta(tmp_path_factory.mktemp("tiny") / "tiny-encoder", [*tiny_texts, *ENGLISH])


@pytest.fixture(scope="session")
def tiny_decoder(tiny_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny SmolLM2: 3 layers, hidden size 32, a chat template, random weights."""
    from llink.testing.tiny import chatml_llama

    return chatml_llama(tmp_path_factory.mktemp("tiny") / "tiny-decoder", [*tiny_texts, *ENGLISH])


@pytest.fixture
def tmp_registry(tiny_encoder: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``LLINK_HOME`` of the test's own with the tiny pair in its store, as ``tiny-encoder`` and ``tiny-decoder``.

    Its ``registry.yaml`` makes them the default pair, each with the backend that claims its architecture. Returns
    that file, so that a test can say more in it.
    """
    import yaml

    home = tmp_path / "home"
    monkeypatch.setenv("LLINK_HOME", str(home))
    for variable in ("LLINK_REGISTRY", "LLINK_DATA"):
        monkeypatch.delenv(variable, raising=False)
    models = {
        "tiny-encoder": _stored("tiny-encoder", tiny_encoder, "encoder", home),
        "tiny-decoder": _stored("tiny-decoder", tiny_decoder, "decoder", home),
    }
    registry = home / "registry.yaml"
    default = {"encoder": "tiny-encoder", "decoder": "tiny-decoder"}
    registry.write_text(yaml.safe_dump({"version": 2, "default": default, "models": models}), encoding="utf-8")
    return registry


def _stored(name: str, folder: Path, role: Role, home: Path) -> dict[str, Any]:
    """Put a model into the store as if fetched; returns its registry entry, with the backend that claims it."""
    from llink.store import RECORD, ensure
    from llink.store.fetch import weight_hashes
    from llink.store.registry import ModelEntry

    model = ensure(str(folder), role)
    source = {"hub": {"repo": f"llink-testing/{name}", "sha256": weight_hashes(folder)}}
    entry = {"role": role, "backend": model.backend, "licence": "CC0-1.0", "source": source}
    place = home / "models" / name
    shutil.copytree(folder, place)
    record = {
        "source": ModelEntry.model_validate(entry).source.model_dump(mode="json", exclude_none=True),
        "fingerprint": model.fingerprint,
        "files": {file.name: file.stat().st_size for file in folder.iterdir()},
    }
    (place / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return entry


def tiny_recipe(
    language: str, encoder: str = "tiny-encoder", decoder: str = "tiny-decoder", **changes: Any
) -> dict[str, Any]:
    """A recipe of a run of seconds, as YAML would give it, on what ``write_samples`` writes.

    Args:
        language: code.
        encoder, decoder: ids of the registry or folders.
        changes: keys of the recipe that replace these.
    """
    return {
        "name": "tiny",
        "language": language,
        # Not the backend's own layer: whoever loads the adapter must read that from its manifest.
        "encoder": {"name": encoder, "options": {"layer": 2}},
        "decoder": {"name": decoder},
        "device": "cpu",
        "dtype": "float32",
        "data": {
            "train": ["train.jsonl"],
            "dev": {"dev": "dev.jsonl"},
            "english": ["english.txt"],
            "max_english": 10,
            "min_words": 2,
        },
        "projector": {"hidden": 64},
        "stage_a": {"epochs": 2, "batch": 8, "queue": 16, "hardest": 4},
        "injector": {"kind": "resampler", "slots": 4, "options": {"width": 32, "depth": 1, "heads": 2}},
        "warm_start": {"epochs": 1, "batch": 8},
        "stage_b": {"examples": 32, "batch": 4, "distilled": 4, "lora": {"r": 4, "alpha": 8}, "lr_lora": 1e-3},
        "checkpoint_every": 2,
        "dev_examples": 4,
        **changes,
    }


def write_samples(samples: Sequence[Sample], folder: Path, dev: int = 2) -> None:
    """``train.jsonl``, ``dev.jsonl`` (the last ``dev`` samples) and ``english.txt``; three samples are the least."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_pairs(samples[:-dev], folder / "train.jsonl")
    _write_pairs(samples[-dev:], folder / "dev.jsonl")
    (folder / "english.txt").write_text("The market opens early in the morning.\nThe dog likes to eat rice.\n")


def check_injector(kind: str, slots: int = 6, **options: Any) -> None:
    """Assert what LLINK asks of a slot injector, on small sizes: encoder 24, decoder 32, K = ``slots``.

    Shapes for every k from 1 to K; slots that depend on the text, and on nothing beside or behind it in a batch; the
    norm of embedding rows; a gradient for every weight; the same slots from an adapter, which keeps bfloat16.

    Args:
        kind: by name, as in a recipe.
        options: ``injector.options``.
    """
    import torch

    from llink.adapter.bridge import Bridge
    from llink.adapter.files import kept, rebuilt
    from llink.recipe import InjectorChoice, ProjectorChoice

    close, norm, lengths = torch.testing.assert_close, 0.7, (11, 11, 4, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        choice = InjectorChoice(kind=kind, slots=slots, options=options)
        bridge = Bridge(24, 32, ProjectorChoice(hidden=16), choice, norm).eval()
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        pooled, states = torch.randn(len(lengths), 24), torch.randn(len(lengths), max(lengths), 24)
        noise = torch.randn(len(lengths), 5, 24) * 9
        bridge.injector.fit_input(states[mask])
    assert bridge.slots == slots, f"slots of {kind} is {bridge.slots}, of {slots} asked for"
    for count in range(1, slots + 1):
        made = bridge(pooled, states, mask, count)
        assert made.shape == (len(lengths), count, 32), f"{count} slots of {kind} are {tuple(made.shape)}"
        found = float(made.detach().norm(dim=-1).mean())
        assert abs(found / norm - 1) < 0.25, f"slots of {kind} have norm {found:.2f}, embedding rows {norm}"
        assert not torch.allclose(made[0], made[1], atol=1e-2), f"slots of {kind} are the same for another text"
        behind = torch.cat([states.where(mask[..., None], 9), noise], dim=1)
        padded = bridge(pooled, behind, torch.nn.functional.pad(mask, (0, 5)), count)
        close(padded, made, atol=1e-4, rtol=1e-4, msg=lambda m: f"{kind} reads what is behind a text: {m}")
        for row, length in enumerate(lengths):
            alone = bridge(pooled[row, None], states[row, None, :length], mask[row, None, :length], count)
            close(alone[0], made[row], atol=1e-4, rtol=1e-4, msg=lambda m: f"{kind} reads its neighbours: {m}")
    (made * torch.linspace(-1, 1, 32)).sum().backward()
    without = [name for name, weight in bridge.injector.named_parameters() if weight.grad is None]
    assert not without, f"{kind} does not use {', '.join(without)}"
    again = rebuilt(bridge.config, {name: t.float() for name, t in kept(bridge).items()}).eval()
    close(
        again(pooled, states, mask, slots), made, atol=0.05 * norm, rtol=0, msg=lambda m: f"{kind}, from bfloat16: {m}"
    )


def _write_pairs(samples: Iterable[Sample], path: Path) -> None:
    from llink.data.pairs import Pair, write_pairs

    write_pairs(path, (Pair(s.english, s.foreign, "samples", "CC0-1.0") for s in samples))
