"""Tiny checkpoints beyond those of ``llink.testing``: more architectures, for the tests of the backends."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llink.testing import ENGLISH, tiny
from llink.testing.tiny import LAYERS, byte_level, chatml_tokenizer, decoder_sizes, save_model, save_tokenizer
from llink_khmer import SAMPLES

CORPUS = [text for sample in SAMPLES for text in (sample.english, sample.foreign)] + [*ENGLISH]
# As Llama 3.2's: BOS in the template, content trimmed, a preamble in the system turn.
LLAMA3 = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role'] == 'system' %}{{- 'Cutting Knowledge Date: December 2023\n\n' }}{%- endif %}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


def gemma3(folder: Path) -> Path:
    """A ``Gemma3ForCausalLM`` with a byte-fallback BPE tokenizer: <bos> text, sliding and full attention."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # Every byte is a token, as in Gemma: no text is unknown.
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        [f"▁{word}" for text in CORPUS for word in text.split()],
        trainers.BpeTrainer(vocab_size=500, special_tokens=specials + every_byte, show_progress=False),
    )
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    # Added tokens that are not marked special, as Gemma has them.
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("[multimodal]", "<unused0>", "<h1>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token", "mask_token"), specials, strict=False))
    size = save_tokenizer(folder, tokenizer, **names)
    config = Gemma3TextConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=64,
        sliding_window=8,
        max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return save_model(folder, Gemma3ForCausalLM, config)


def xlm_roberta(folder: Path) -> Path:
    """The kit's encoder with a tokenizer for Khmer."""
    return tiny.xlm_roberta(folder, CORPUS)


def chatml_llama(folder: Path, seed: int = 7) -> Path:
    """The kit's decoder with a tokenizer for Khmer; another seed is another decoder of the same shape."""
    return tiny.chatml_llama(folder, CORPUS, seed)


def llama3(folder: Path) -> Path:
    """A ``LlamaForCausalLM`` like Llama-3.2-Instruct, the paper's decoder."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level(specials, CORPUS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    size = save_tokenizer(
        folder, tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", chat_template=LLAMA3
    )
    return save_model(folder, LlamaForCausalLM, LlamaConfig(**decoder_sizes(size, 0, [1, 4])))


def qwen2(folder: Path) -> Path:
    """A ``Qwen2ForCausalLM`` like Qwen2.5-Instruct."""
    size = chatml_tokenizer(folder, CORPUS)
    return save_model(folder, Qwen2ForCausalLM, Qwen2Config(**decoder_sizes(size, 1, 2)))
