"""Generic Hugging Face encoder: token states of one layer, mean over the text's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llink.errors import LlinkError, unknown_name
from llink.interfaces import Encoded, Encoder
from llink.progress import no_report
from llink.store.models import WITH_POOLER
from llink_plugins.huggingface.tokens import load_tokenizer, plain_ids


class HuggingFaceEncoder(Encoder):
    """Any ``AutoModel`` read at one layer.

    Args:
        path: local folder with ``config.json``, safetensors weights and tokenizer files.
        name: id in the registry.
        fingerprint: sha256 of the weights.
        layer: which hidden state the token states are; 0 is what the first layer gets, None the last.
        pooled_layer: which one the sentence vector is made of, where it is another. Layers that neither needs are
            dropped where the stack of layers is found under one of the usual names.
        max_tokens: longer text is cut off here.
        prefix: what the model expects before every text, such as ``query: ``; it is attended to and not pooled.
        pooling: ``mean`` of the text's own tokens, or ``first``, the state of the token that stands in front (CLS).
        device, dtype: where and how the weights are held.

    Raises:
        LlinkError: E303 when the model has fewer layers than ``layer``, E306 for another ``pooling``.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        fingerprint: str,
        layer: int | None = None,
        pooled_layer: int | None = None,
        max_tokens: int = 256,
        prefix: str = "",
        pooling: str = "mean",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        **_: Any,
    ) -> None:
        from transformers import AutoConfig, AutoModel

        if pooling not in ("mean", "first"):
            raise unknown_name("E306", "pooling", str(pooling), ("mean", "first"))
        self.name, self.fingerprint, self.max_tokens = name, fingerprint, max_tokens
        self.prefix, self.pooling = prefix, pooling
        self.tokenizer = load_tokenizer(path)
        kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        # A pooler that the checkpoint lacks would be made at random, and reported.
        extra = {"add_pooling_layer": False} if kind in WITH_POOLER else {}
        with no_report():  # a pooler that the checkpoint has is left out
            self.model: Any = AutoModel.from_pretrained(path, dtype=dtype, local_files_only=True, **extra)
        if self.model.config.is_encoder_decoder:
            self.model = self.model.get_encoder()
        self.hidden_size = int(self.model.config.hidden_size)
        depth = int(self.model.config.num_hidden_layers)
        self.layer = depth if layer is None else layer
        self.pooled_layer = self.layer if pooled_layer is None else pooled_layer
        for wanted in (self.layer, self.pooled_layer):
            if not 0 <= wanted <= depth:
                raise LlinkError("E303", f"Encoder '{name}' has {depth} layers; layer {wanted} does not exist.")
        last = max(self.layer, self.pooled_layer)
        dropped = self._keep_layers(last, depth)
        self._read_all = not dropped or self.layer != self.pooled_layer
        self.model.eval().requires_grad_(False).to(device)
        self.signature = f"{fingerprint}|layer={self.layer}|{pooling}|max={max_tokens}"
        self.signature += f"|prefix={prefix}" if prefix else ""
        self.signature += f"|pooled={self.pooled_layer}" if self.pooled_layer != self.layer else ""

    def _keep_layers(self, layer: int, depth: int) -> bool:
        """Drop the layers above ``layer``, and the final norm that belongs after the last one; False if not found."""
        if layer == depth:
            return True
        for owner in (self.model, getattr(self.model, "encoder", None)):
            for attribute in ("layers", "layer", "block"):
                stack = getattr(owner, attribute, None)
                if isinstance(stack, nn.ModuleList):
                    setattr(owner, attribute, stack[:layer])
                    self.model.config.num_hidden_layers = layer
                    for norm in ("norm", "final_norm", "final_layer_norm"):
                        if isinstance(getattr(owner, norm, None), nn.Module):
                            setattr(owner, norm, nn.Identity())
                    return True
        return False

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The tokens that the model expects before a text (BOS, CLS, then the prefix) and after it (EOS)."""
        inner = self.tokenizer("a", add_special_tokens=False).input_ids
        outer = self.tokenizer("a").input_ids
        front = next(i for i in range(len(outer)) if outer[i : i + len(inner)] == inner)
        return outer[:front] + plain_ids(self.tokenizer, self.prefix), outer[front + len(inner) :]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [plain_ids(self.tokenizer, text) for text in texts]

    def known_share(self, text: str) -> float:
        characters, unknown = len("".join(text.split())), self.tokenizer.unk_token_id
        if not characters or unknown is None or not self.tokenizer.is_fast:
            return 1.0
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [text[a:b] for i, (a, b) in zip(tokens.input_ids, tokens.offset_mapping, strict=True) if i == unknown]
        return 1 - len("".join("".join(spans).split())) / characters

    @torch.inference_mode()
    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> Encoded:
        device = next(self.model.parameters()).device
        rows = [list(row[: self.max_tokens]) for row in tokens]
        front, back = self._frame
        width = max(map(len, rows)) + len(front) + len(back)
        pad = self.tokenizer.pad_token_id or 0
        input_ids = torch.full((len(rows), width), pad, dtype=torch.long)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        own = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids = front + row + back
            input_ids[i, : len(ids)] = torch.tensor(ids)
            attention[i, : len(ids)] = 1
            own[i, len(front) : len(front) + len(row)] = True
        states, top = self._states(input_ids.to(device), attention.to(device))
        encoded = _own_tokens(states, own.to(device))
        if self.pooling == "first":
            return replace(encoded, pooled=top[:, 0])
        return encoded if top is states else replace(encoded, pooled=_own_tokens(top, own.to(device)).pooled)

    def _states(self, input_ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states ``[B, T, H]`` of the layer that is read and of the one that is pooled, special tokens still in."""
        extra = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        out = self.model(input_ids=input_ids, attention_mask=attention, output_hidden_states=self._read_all, **extra)
        if not self._read_all:
            return out.last_hidden_state, out.last_hidden_state
        states, top = out.hidden_states[self.layer], out.hidden_states[self.pooled_layer]
        return states, states if self.layer == self.pooled_layer else top


def _own_tokens(states: Tensor, own: Tensor) -> Encoded:
    """Left-align each text's own token states and take their mean."""
    lengths = own.sum(1)
    width = max(int(lengths.max()), 1)
    out = states.new_zeros(states.shape[0], width, states.shape[2])
    mask = torch.arange(width, device=states.device)[None] < lengths[:, None]
    out[mask] = states[own]
    pooled = out.float().sum(1) / lengths.clamp(min=1)[:, None]
    return Encoded(out, mask, pooled.to(states.dtype))
