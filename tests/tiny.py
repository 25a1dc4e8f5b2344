"""Small random checkpoints of the true classes, each with a real tokenizer trained in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from llink.quiet import no_bars
from llink_khmer import SAMPLES

LAYERS = 3
CORPUS = [text for sample in SAMPLES for text in (sample.english, sample.foreign)] + [
    "Answer in English. Translate to English. Summarize the text in one sentence. List the key points of the text.",
    "system user assistant You are a helpful assistant.",
]

# As SmolLM2's own: a system message of its own where the chat brings none.
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
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


def xlm_roberta(folder: Path) -> Path:
    """An ``XLMRobertaModel`` with a Unigram tokenizer: <s> text </s>, padding id 1."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=400, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), specials, strict=True))
    size = _save_tokenizer(folder, tokenizer, **names, cls_token="<s>", sep_token="</s>")
    config = XLMRobertaConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return _save_model(folder, XLMRobertaModel, config)


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
    size = _save_tokenizer(folder, tokenizer, **names)
    config = Gemma3TextConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=1,
        head_dim=8, intermediate_size=64, sliding_window=8, max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return _save_model(folder, Gemma3ForCausalLM, config)


def chatml_llama(folder: Path, seed: int = 7) -> Path:
    """A ``LlamaForCausalLM`` like SmolLM2-Instruct; another seed is another decoder of the same shape."""
    size = _chatml_tokenizer(folder)
    return _save_model(folder, LlamaForCausalLM, LlamaConfig(**_decoder_sizes(size, 1, 2)), seed)


def llama3(folder: Path) -> Path:
    """A ``LlamaForCausalLM`` like Llama-3.2-Instruct, the paper's decoder."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    size = _save_tokenizer(
        folder, tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", chat_template=LLAMA3
    )
    return _save_model(folder, LlamaForCausalLM, LlamaConfig(**_decoder_sizes(size, 0, [1, 4])))


def qwen2(folder: Path) -> Path:
    """A ``Qwen2ForCausalLM``, which no backend claims."""
    size = _chatml_tokenizer(folder)
    return _save_model(folder, Qwen2ForCausalLM, Qwen2Config(**_decoder_sizes(size, 1, 2)))


def _chatml_tokenizer(folder: Path) -> int:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<foreign_emb>"]
    return _save_tokenizer(
        folder, _byte_level(specials), bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", chat_template=CHATML,
    )  # fmt: skip


def _byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _decoder_sizes(vocabulary: int, bos: int, eos: int | list[int]) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 1024,
        "tie_word_embeddings": True, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None,
    }  # fmt: skip


def _save_tokenizer(folder: Path, tokenizer: Tokenizer, **names: str) -> int:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    return len(fast)


def _save_model(folder: Path, kind: Any, config: Any, seed: int = 7) -> Path:
    torch.manual_seed(seed)
    model = kind(config)
    for parameter in model.parameters():
        # The usual 0.02 would leave a model this small all but linear; every part shall show in the output.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    with no_bars():
        model.save_pretrained(folder)
    return folder
