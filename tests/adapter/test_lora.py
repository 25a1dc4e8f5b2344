"""LoRA through hooks: what PEFT computes, row by row, on a decoder that stays as it is."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from variants import rehash

from llink import Engine, LlinkError
from llink.adapter.files import LORA
from llink.adapter.lora import Lora, LoraSwitch
from llink.interfaces import Decoder
from llink.store.models import load_decoder
from llink_khmer import SAMPLES

KHMER = [s.foreign for s in SAMPLES]


@pytest.fixture
def decoder(decoder_folder: str) -> Decoder:
    return load_decoder(decoder_folder, dtype="float32")


def ids(rows: int) -> Tensor:
    return torch.arange(4, 4 + 12 * rows).view(rows, 12)


@torch.inference_mode()
def logits(decoder: Decoder, rows: int = 1) -> Tensor:
    return decoder.model(ids(rows)).logits


def test_the_same_as_peft(decoder: Decoder, decoder_folder: str, tiny_adapters: dict[str, Path]) -> None:
    reference = load_decoder(decoder_folder, dtype="float32").model
    peft = PeftModel.from_pretrained(reference, str(tiny_adapters["km"]), adapter_name="km").eval()
    peft.load_adapter(str(tiny_adapters["am"]), adapter_name="am")
    switch = LoraSwitch(decoder)
    for code in ("km", "am"):
        peft.set_adapter(code)
        with switch.using(Lora.load(tiny_adapters[code], decoder)), torch.inference_mode():
            torch.testing.assert_close(logits(decoder, 3), peft(ids(3)).logits, atol=1e-5, rtol=1e-4)


def test_there_and_back_bit_for_bit(decoder: Decoder, tiny_adapters: dict[str, Path]) -> None:
    bare, weights = logits(decoder), {k: v.clone() for k, v in decoder.model.state_dict().items()}
    modules = [name for name, _ in decoder.model.named_modules()]
    switch = LoraSwitch(decoder)
    km, am = (Lora.load(tiny_adapters[code], decoder) for code in ("km", "am"))
    seen = {}
    for _ in range(2):
        for name, chosen in (("km", km), ("am", am), ("bare", None)):
            with switch.using(chosen):
                assert torch.equal(logits(decoder), seen.setdefault(name, logits(decoder)))
        assert torch.equal(logits(decoder), bare)
    assert torch.equal(seen["bare"], bare)
    assert len({hash(tuple(t.flatten().tolist())) for t in seen.values()}) == 3
    assert [name for name, _ in decoder.model.named_modules()] == modules
    assert all(torch.equal(v, weights[k]) for k, v in decoder.model.state_dict().items())


def test_rows_are_read_with_their_own(decoder: Decoder, tiny_adapters: dict[str, Path]) -> None:
    bare = logits(decoder, 5)
    switch = LoraSwitch(decoder)
    km, am = (Lora.load(tiny_adapters[code], decoder) for code in ("km", "am"))
    rows = [am, None, km, am, None]
    with switch.using(rows):
        mixed = logits(decoder, 5)
    alone = []
    for lora in rows:
        with switch.using(lora):
            alone.append(logits(decoder, 5))
    for row in range(5):
        torch.testing.assert_close(mixed[row], alone[row][row], atol=1e-5, rtol=1e-4)
    assert torch.equal(mixed[1], bare[1])
    assert torch.equal(mixed[4], bare[4])
    assert (mixed[2] - bare[2]).abs().max() > 1e-2


def test_a_lora_that_overflows_stays_in_its_row(decoder: Decoder, tiny_adapters: dict[str, Path]) -> None:
    bare = logits(decoder, 2)
    km = Lora.load(tiny_adapters["km"], decoder)
    huge = Lora({name: (a * 1e38, b * 1e38) for name, (a, b) in km.weights.items()})
    switch = LoraSwitch(decoder)
    with switch.using([huge, None]):
        mixed = logits(decoder, 2)
    assert not mixed[0].isfinite().all()
    assert torch.equal(mixed[1], bare[1])


def smaller(folder: Path) -> None:
    """Another rank and fewer projections, consistently."""
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {k: v for k, v in load_file(folder / LORA).items() if "q_proj" in k or "down_proj" in k}
    cut = {k: v[:2] if "lora_A" in k else v[:, :2] for k, v in tensors.items()}
    save_file({k: v.contiguous() for k, v in cut.items()}, folder / LORA)
    rehash(folder, "km")


def test_adapters_of_different_rank_in_one_batch(
    decoder: Decoder, tiny_adapters: dict[str, Path], tmp_path: Path, decoder_folder: str
) -> None:
    folder = Path(shutil.copytree(tiny_adapters["am"], tmp_path / "small"))
    smaller(folder)
    peft = PeftModel.from_pretrained(load_decoder(decoder_folder, dtype="float32").model, str(folder)).eval()
    km, small = Lora.load(tiny_adapters["km"], decoder), Lora.load(folder, decoder)
    assert small.bytes < km.bytes
    with torch.inference_mode(), LoraSwitch(decoder).using([km, small]):
        torch.testing.assert_close(logits(decoder, 2)[1], peft(ids(2)).logits[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("damage", ["missing", "extra", "rank", "nan"])
def test_a_bad_lora_is_refused_before_anything_is_swapped(
    encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32")
    engine.add("km", tiny_adapters["km"])
    before, resident = engine.generate(KHMER[:2], "km", max_new_tokens=5), engine.resident("km")
    folder = Path(shutil.copytree(tiny_adapters["am"], tmp_path / "bad"))
    tensors = load_file(folder / LORA)
    key = sorted(tensors)[5]
    if damage == "missing":
        del tensors[key]
    elif damage == "extra":
        tensors[key.replace("layers.0", "layers.9").replace("layers.1", "layers.9")] = tensors[key].clone()
    elif damage == "rank":
        tensors = {k: (v[:2] if "lora_A" in k else v[:, :2]).contiguous() for k, v in tensors.items()}
    else:
        tensors[key].view(-1)[3] = float("nan")
    save_file(tensors, folder / LORA)
    rehash(folder, "km")
    for change in (engine.replace, engine.add):
        with pytest.raises(LlinkError, match=r"\[E310\]"):
            change("km", folder)
    assert engine.resident("km") is resident
    assert engine.generate(KHMER[:2], "km", max_new_tokens=5) == before


def test_a_file_written_over_does_not_reach_a_resident_adapter(
    encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_adapters["km"], tmp_path / "adapter"))
    engine = Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="bfloat16")
    engine.add("km", folder)
    before = engine.generate(KHMER[:2], "km", max_new_tokens=5)
    for path in folder.glob("*.safetensors"):
        size = path.stat().st_size
        with path.open("r+b") as file:  # in place, so that a memory map would see it
            file.write(b"\x55" * size)
    assert engine.generate(KHMER[2:4], "km", max_new_tokens=5)
    assert engine.generate(KHMER[:2], "km", max_new_tokens=5) == before


def test_close_and_garbage_collection_take_the_hooks_off(
    decoder: Decoder, encoder_folder: str, tiny_adapter: Path
) -> None:
    hooks = lambda: sum(len(m._forward_hooks) for m in decoder.model.modules())  # noqa: E731
    bare = hooks()
    closed, dropped = Engine(decoder, encoder_folder, device="cpu"), Engine(decoder, encoder_folder, device="cpu")
    assert hooks() == bare + 2 * 21
    dropped.add("km", tiny_adapter)
    bridge = weakref.ref(dropped.resident("km").bridge)
    closed.close()
    assert hooks() == bare + 21
    with pytest.raises(LlinkError, match=r"\[E513\].*closed"):
        closed.generate("Hello", language=None)
    with pytest.raises(LlinkError, match=r"\[E513\].*closed"):
        closed.add("km", tiny_adapter)
    del dropped
    gc.collect()
    assert hooks() == bare
    assert bridge() is None


def test_compiled(encoder_folder: str, decoder_folder: str, tiny_adapters: dict[str, Path]) -> None:
    """A backend that traces the graph and generates no code, which would take a minute."""
    torch._dynamo.reset()
    engines = [
        Engine.load(encoder_folder, decoder_folder, device="cpu", dtype="float32", compile=compile)
        for compile in (False, "eager")
    ]
    texts = [KHMER[0], "ሰላም " + KHMER[1], "What is rice?"]
    for engine in engines:
        for code in ("km", "am"):
            engine.add(code, tiny_adapters[code])
    plain, compiled = (
        [e.generate(texts, language=["km", "am", None], max_new_tokens=4) for _ in "12"] for e in engines
    )
    assert compiled == plain
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs
    engines[1].add("my", tiny_adapters["my"])
    for code, text in (("am", texts[1]), ("km", texts[0])):
        plain, compiled = (e.generate([text] * 3, language=[code, None, code], max_new_tokens=4) for e in engines)
        assert compiled == plain
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # no graph is made anew for an adapter
