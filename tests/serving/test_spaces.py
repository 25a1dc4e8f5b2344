"""Retrieval in the decoder's space or the encoder's: which is taken, and that rank, embed and suite agree on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from llink import Engine
from llink.adapter.files import load_bridge, read_manifest, save_adapter
from llink.recipe import Recipe
from llink.store.models import load_encoder
from llink.training.run import Run, train
from llink.training.stage_b import add_lora
from llink_khmer import SAMPLES

TEXTS = [sample.foreign for sample in SAMPLES[:6]]


def test_the_space_that_finds_more_is_taken(
    tiny_recipe: Recipe, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = train(tiny_recipe, stage="all", data=pairs_folder, out=tmp_path / "run")
    manifest = read_manifest(adapter)
    bridge, metrics = load_bridge(adapter, manifest), manifest.metrics
    taken, other = metrics["retrieval"]["dev"], metrics.get("retrieval through the projector", {}).get("dev")
    if bridge.space == "encoder":
        assert taken["r1"] + taken["back_r1"] > other["r1"] + other["back_r1"]
    else:
        assert other is None


def test_in_the_encoders_space_rank_and_embed_are_the_encoders(
    tiny_recipe: Recipe,
    tiny_adapter: Path,
    pairs_folder: Path,
    encoder_folder: str,
    decoder_folder: str,
    tmp_path: Path,
) -> None:
    run = Run.open(tiny_recipe, pairs_folder, tmp_path / "run", False)
    manifest = read_manifest(tiny_adapter)
    bridge = load_bridge(tiny_adapter, manifest)
    foreign, english = torch.randn(run.encoder.hidden_size) * 0.1, torch.randn(run.encoder.hidden_size) * 0.1
    bridge.settle(foreign, english)
    fields = manifest.model_dump(exclude={"bridge", "files", "slots"})
    settled = tmp_path / "settled"
    save_adapter(settled, bridge, add_lora(run.decoder, tiny_recipe.stage_b), fields)
    assert load_bridge(settled, read_manifest(settled)).space == "encoder"

    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", settled)
    encoder = load_encoder(encoder_folder, dtype="float32", **manifest.encoder_options)
    khmer = engine.resident("km").language
    mine = F.normalize(
        torch.stack([encoder.encode([khmer.normalise(text)]).pooled[0] for text in TEXTS]) - foreign, dim=-1
    )
    torch.testing.assert_close(engine.embed(TEXTS, "km"), mine, atol=1e-5, rtol=1e-4)
    candidates = [sample.english for sample in SAMPLES[:6]]
    theirs = F.normalize(torch.stack([encoder.encode([text]).pooled[0] for text in candidates]) - english, dim=-1)
    for text, vector in zip(TEXTS, mine, strict=True):
        likeness = theirs @ vector
        ranked = engine.rank(text, candidates, "km")
        assert {i: pytest.approx(score, abs=1e-4) for i, score in ranked} == dict(enumerate(likeness.tolist()))
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    engine.close()


def test_training_goes_on_from_a_settled_bridge(tiny_adapter: Path) -> None:
    bridge = load_bridge(tiny_adapter, read_manifest(tiny_adapter))
    before = set(bridge.weights())
    bridge.settle(torch.zeros(32), torch.zeros(32))
    assert set(bridge.weights()) == before
    assert set(bridge.state_dict()) - before == {"foreign_mean", "english_mean"}
