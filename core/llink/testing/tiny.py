"""Small random checkpoints of true architectures, each with a real tokenizer trained in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from llink.progress import no_bars

LAYERS = 3
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


def xlm_roberta(folder: Path, texts: Sequence[str]) -> Path:
    """An ``XLMRobertaModel`` with a tokenizer of ``texts``."""
    size = unigram_tokenizer(folder, texts)
    config = XLMRobertaConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return save_model(folder, XLMRobertaModel, config)


def unigram_tokenizer(folder: Path, texts: Sequence[str]) -> int:
    """A tokenizer that knows each character of ``texts``, written to ``folder``; returns its size.

    <s> text </s>, padding id 1, everything strange is <unk>.
    """
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    # Room for every character, however many scripts the texts are in.
    size = max(400, 2 * len(set("".join(texts))))
    tokenizer.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), specials, strict=True))
    return save_tokenizer(folder, tokenizer, **names, cls_token="<s>", sep_token="</s>")


def chatml_llama(folder: Path, texts: Sequence[str], seed: int = 7) -> Path:
    """A ``LlamaForCausalLM`` like SmolLM2-Instruct; another seed is another decoder of the same shape."""
    size = chatml_tokenizer(folder, texts)
    return save_model(folder, LlamaForCausalLM, LlamaConfig(**decoder_sizes(size, 1, 2)), seed)


def chatml_tokenizer(folder: Path, texts: Sequence[str]) -> int:
    """SmolLM2's tokenizer in small, written to ``folder``; returns its size."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<foreign_emb>"]
    return save_tokenizer(
        folder, byte_level(specials, texts), bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", chat_template=CHATML,
    )  # fmt: skip


def byte_level(specials: list[str], texts: Sequence[str]) -> Tokenizer:
    """A byte-level BPE tokenizer: no text is unknown, and a strange script is all bytes."""
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
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def decoder_sizes(vocabulary: int, bos: int, eos: int | list[int]) -> dict[str, Any]:
    """The configuration of a decoder that is as small as can be."""
    return {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 1024,
        "tie_word_embeddings": True, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None,
    }  # fmt: skip


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **names: str) -> int:
    """Write ``tokenizer`` with its named tokens; returns its size."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    return len(fast)


def save_model(folder: Path, kind: Any, config: Any, seed: int = 7) -> Path:
    """A random model of the class ``kind``, written to ``folder``."""
    torch.manual_seed(seed)
    model = kind(config)
    for parameter in model.parameters():
        # The usual 0.02 would leave a model this small all but linear; every part shall show in the output.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    with no_bars():
        model.save_pretrained(folder)
    return folder
