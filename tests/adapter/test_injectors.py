"""Slot injectors and projectors as plugins: LLINK's own, those of others, and what happens without the plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llink import LlinkError, plugins
from llink.adapter.files import MANIFEST, load_bridge, read_manifest
from llink.adapter.injectors.linear import LinearInjector, stretches
from llink.interfaces import InjectorKind
from llink.plugins import injectors, projectors
from llink.recipe import validate
from llink.testing import check_injector
from llink.training.run import train

OPTIONS: dict[str, dict[str, int]] = {"resampler": {"width": 32, "depth": 1, "heads": 2}}


@pytest.mark.parametrize("kind", injectors())
def test_own_injectors_keep_the_contract(kind: str) -> None:
    check_injector(kind, **OPTIONS.get(kind, {}))


class Careless(LinearInjector):
    """Sums all states that it gets, and does not look at the mask."""

    def forward(self, projected: Any, states: Any, mask: Any, slots: int | None = None) -> Any:
        return self.norm_out(self.read(states.sum(1, keepdim=True)) + torch.zeros(1, slots or 1, 1))


class Loud(LinearInjector):
    """Its slots are far longer than an embedding."""

    def forward(self, projected: Any, states: Any, mask: Any, slots: int | None = None) -> Any:
        return 3 * super().forward(projected, states, mask, slots)


class Idle(LinearInjector):
    """Has a weight that nothing depends on."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.spare = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("made", "says"), [(Careless, "reads what is behind a text"), (Loud, "have norm 2.10"), (Idle, "not use spare")]
)
def test_the_check_finds_what_is_wrong(made: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(injectors(), "odd", InjectorKind("odd", made))
    with pytest.raises(AssertionError, match=says):
        check_injector("odd")


def test_stretches_are_means_of_equal_parts() -> None:
    mask = torch.tensor([[True] * 5, [False, True, True, True, False], [True] + [False] * 4])
    weights = stretches(mask, 2)
    torch.testing.assert_close(weights[0], torch.tensor([[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]]))
    third = 1 / 3
    torch.testing.assert_close(weights[1], torch.tensor([[0, 2 * third, third, 0, 0], [0, 0, third, 2 * third, 0]]))
    torch.testing.assert_close(weights[2], torch.tensor([[1.0, 0, 0, 0, 0]] * 2))
    for count in (1, 3, 5, 8, 13):
        torch.testing.assert_close(stretches(mask, count).sum(-1), torch.ones(3, count))
    assert torch.equal(stretches(mask[:1], 5)[0], torch.eye(5))  # a slot a token


def test_listing_them_does_not_import_torch() -> None:
    code = "import sys; from llink import plugins as p; p.injectors(); p.projectors(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


def test_they_are_listed_with_what_brings_them() -> None:
    brings = {plugin.name: plugin.brings for plugin in plugins.info()}
    assert brings["injectors"]["llink_injectors"] == ("pooled", "resampler", "linear")
    assert brings["projectors"] == {"llink_projectors": ("mlp",)}
    assert all(kind.what for kind in (*injectors().values(), *projectors().values()))


def tried(raw: dict[str, Any], folder: Path, out: Path, **injector: Any) -> Path:
    return train(validate({**raw, "injector": {"slots": 4, **injector}}, "tiny"), stage="all", data=folder, out=out)


def test_training_refuses_unknown_ones_first(raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LlinkError, match=r"\[E204\].*'linaer'.*Did you mean 'linear'\?"):
        tried(raw_recipe, pairs_folder, tmp_path / "run", kind="linaer")
    with pytest.raises(LlinkError, match=r"\[E203\].*Did you mean 'mlp'\?"):
        tried({**raw_recipe, "projector": {"kind": "mpl"}}, pairs_folder, tmp_path / "run", kind="linear")
    assert not (tmp_path / "run").exists()


def test_options_that_do_not_fit(
    raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = InjectorKind("strict", lambda *, encoder_size, decoder_size, slots, slot_norm: None)
    monkeypatch.setitem(injectors(), "strict", strict)
    with pytest.raises(LlinkError, match=r"\[E408\].*slot injector 'strict' cannot be made.*'width'"):
        tried(raw_recipe, pairs_folder, tmp_path / "run", kind="strict", options={"width": 3})


def test_trained_and_loaded_and_missed(
    raw_recipe: dict[str, Any], pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An injector without a scale of its own, from a recipe to an adapter and back, and without its plugin."""
    adapter = tried(raw_recipe, pairs_folder, tmp_path / "run", kind="linear")
    manifest = read_manifest(adapter)
    assert "packages" not in manifest.bridge
    bridge = load_bridge(adapter, manifest)
    assert isinstance(bridge.injector, LinearInjector)
    assert bool((bridge.injector.state_std != 1).any())

    [*others] = (kind for name, kind in injectors().items() if name != "linear")
    monkeypatch.setattr(plugins, "injectors", lambda: {kind.name: kind for kind in others})
    with pytest.raises(LlinkError, match=r"\[E204\] Adapter .*'linear'.* Install the plugin that brings it\."):
        load_bridge(adapter, manifest)
    raw = json.loads((adapter / MANIFEST).read_text())
    raw["bridge"]["packages"] = ["llink-straight"]
    (adapter / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(LlinkError, match=r"\[E204\].* pip install llink-straight\. .*pooled, resampler"):
        load_bridge(adapter, read_manifest(adapter))
