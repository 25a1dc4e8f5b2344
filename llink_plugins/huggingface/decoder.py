"""Generic Hugging Face decoder: a frozen causal language model, its chat template and embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llink.errors import LlinkError
from llink.interfaces import ATTENTION_AND_MLP, Decoder
from llink_plugins.huggingface.tokens import load_tokenizer, plain_ids


class HuggingFaceDecoder(Decoder):
    """Any ``AutoModelForCausalLM`` with a chat template.

    Args:
        path: local folder with ``config.json``, safetensors weights and tokenizer files.
        name: id in the registry.
        fingerprint: sha256 of the weights.
        device, dtype: where and how the weights are held.
        attn_implementation: passed on to transformers.

    Raises:
        LlinkError: E304 when the model has no chat template, E305 when it has none of the known
            attention and MLP projections.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        fingerprint: str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        attn_implementation: str | None = None,
        **_: Any,
    ) -> None:
        from transformers import AutoModelForCausalLM

        self.name, self.fingerprint = name, fingerprint
        self.tokenizer = load_tokenizer(path)
        if not self.tokenizer.chat_template:
            raise LlinkError(
                "E304", f"Decoder '{name}' has no chat template.", "LLINK needs an instruction-tuned model."
            )
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, attn_implementation=attn_implementation
        )
        self.model.eval().requires_grad_(False).to(device)
        self.model.get_output_embeddings().register_forward_pre_hook(_in_one_piece)
        self.hidden_size = int(self.model.config.hidden_size)
        present = {module.rsplit(".", 1)[-1] for module, _ in self.model.named_modules()}
        self.lora_targets = tuple(t for t in ATTENTION_AND_MLP if t in present)
        if not self.lora_targets:
            raise LlinkError("E305", f"Decoder '{name}' has none of the projections {', '.join(ATTENTION_AND_MLP)}.")
        # The closing token is read off the template itself, so that it is right for every family.
        self.end_of_turn = self._end_of_turn()
        eos = self.model.generation_config.eos_token_id
        self.stop_ids = tuple(sorted({self.end_of_turn, *([eos] if isinstance(eos, int) else eos or [])}))

    def _end_of_turn(self) -> int:
        mark = "\ue000"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
        after = self.tokenizer.apply_chat_template(turns, tokenize=False).split(mark)[-1]
        ids = self.tokenizer(after, add_special_tokens=False).input_ids
        specials = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return next((i for i in ids if i in specials), self.tokenizer.eos_token_id)

    def tokenize(self, text: str) -> list[int]:
        return plain_ids(self.tokenizer, text)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int | str]:
        # Contents are rendered as private-use marks, so that the template's own text can be told apart.
        marks = [chr(0xE000 + i) for i in range(len(messages))]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": m["role"], "content": mark} for m, mark in zip(messages, marks, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
        parts: list[int | str] = []
        for piece in re.split(f"([{marks[0]}-{marks[-1]}])", rendered):
            if piece and piece in marks:
                parts.append(messages[marks.index(piece)]["content"])
            elif piece:
                parts += self.tokenizer(piece, add_special_tokens=False).input_ids
        return parts

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def embedding_matrix(self) -> Tensor:
        return self.model.get_input_embeddings().weight


def _in_one_piece(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last positions ``[B, L, D]`` of longer rows as a tensor of their own.

    Of a view torch would make a product a row, and on a CPU a copy of the whole output matrix for each.
    """
    return (args[0].contiguous(), *args[1:])
