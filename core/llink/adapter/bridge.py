"""The bridge of a language adapter: projector, slot injector and reserved rows as one module."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from llink import plugins
from llink.errors import LlinkError
from llink.interfaces import Decoder, Encoder
from llink.recipe import InjectorChoice, ProjectorChoice

Space = Literal["decoder", "encoder"]


class Bridge(nn.Module):
    """Encoder features -> K slots in the decoder's embedding space.

    Args:
        encoder_size: H. decoder_size: D.
        projector, injector: the recipe's choices.
        slot_norm: median norm of the decoder's embedding rows.
        space: where a foreign text finds its English, ``decoder`` or ``encoder``; see ``settle``.

    Raises:
        LlinkError: E203 or E204 for a projector or slot injector that no plugin brings, E408 for its options.
    """

    reserved: Tensor
    foreign_mean: Tensor
    """``[H]``, of the encoder's vectors of foreign texts; there is one, and an ``english_mean``, once a space is settled."""
    english_mean: Tensor

    def __init__(
        self,
        encoder_size: int,
        decoder_size: int,
        projector: ProjectorChoice,
        injector: InjectorChoice,
        slot_norm: float,
        space: Space = "decoder",
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "encoder_size": encoder_size,
            "decoder_size": decoder_size,
            "projector": projector.model_dump(),
            "injector": injector.model_dump(),
            "slot_norm": slot_norm,
        }
        mapped, widened = plugins.projector(projector.kind), plugins.injector(injector.kind)
        plugins.check_options(widened, injector.options)
        packages = {plugins.bringer("llink_projectors", mapped.name), plugins.bringer("llink_injectors", widened.name)}
        if packages := packages - {""}:
            self.config["packages"] = sorted(packages)
        self.projector = mapped.make(
            encoder_size=encoder_size,
            decoder_size=decoder_size,
            hidden=projector.hidden,
            dropout=projector.dropout,
        )
        self.injector = widened.make(
            encoder_size=encoder_size,
            decoder_size=decoder_size,
            slots=injector.most,
            slot_norm=slot_norm,
            **injector.options,
        )
        self.choice = injector
        self.register_buffer("reserved", torch.zeros(injector.most, decoder_size))
        if space == "encoder":
            self.settle(torch.zeros(encoder_size), torch.zeros(encoder_size))

    @classmethod
    def create(cls, encoder: Encoder, decoder: Decoder, projector: ProjectorChoice, injector: InjectorChoice) -> Bridge:
        """A fresh bridge; its reserved rows are the mean of the decoder's embedding rows, as for a new token.

        Raises:
            LlinkError: E203 or E204 for an unknown projector or slot injector, E408 for one that cannot be made.
        """
        rows = decoder.embedding_matrix().detach().float()
        norm = float(rows.norm(dim=1).median())
        try:
            bridge = cls(encoder.hidden_size, decoder.hidden_size, projector, injector, norm)
        except LlinkError:
            raise
        except Exception as error:
            raise LlinkError(
                "E408", f"Projector '{projector.kind}' or slot injector '{injector.kind}' cannot be made: "
                f"{type(error).__name__}: {' '.join(str(error).split())}.", "Correct its options, or its plugin.",
            ) from error  # fmt: skip
        bridge.reserved.copy_(rows.mean(0).expand_as(bridge.reserved))
        return bridge

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bridge:
        """A bridge of the stated sizes, weights not yet filled in."""
        return cls(
            config["encoder_size"],
            config["decoder_size"],
            ProjectorChoice(**config["projector"]),
            InjectorChoice(**config["injector"]),
            config["slot_norm"],
            config.get("space", "decoder"),
        )

    @property
    def space(self) -> Space:
        """Where retrieval is done: what ``aligned`` and ``english`` return is in it."""
        return self.config.get("space", "decoder")

    def settle(self, foreign_mean: Tensor, english_mean: Tensor) -> None:
        """From now on retrieval is done among the encoder's own vectors, each side less its mean ``[H]``.

        A sentence encoder already puts translations side by side, but for what tells the languages apart; a projector
        fitted to some thousands of pairs keeps less of that than the encoder learnt from millions.
        """
        self.config["space"] = "encoder"
        self.register_buffer("foreign_mean", foreign_mean.clone())
        self.register_buffer("english_mean", english_mean.clone())

    @property
    def slots(self) -> int:
        """K, the largest where it is adaptive."""
        return self.injector.slots

    def count(self, tokens: int) -> int:
        """k, the number of slots of a text of so many encoder tokens."""
        return self.choice.count(tokens)

    def forward(self, pooled: Tensor, states: Tensor, mask: Tensor, slots: int | None = None) -> Tensor:
        """zF ``[B, H]``, states ``[B, T, H]``, mask ``[B, T]`` -> slots ``[B, k, D]``.

        ``slots`` is k; None for as many as the longest of the texts gets.
        """
        return self.injector(self.projector(pooled), states, mask, slots or self.count(mask.shape[1]))

    def none(self, rows: int, slots: int) -> Tensor:
        """What stands in the slots where there is no text: reserved rows ``[B, k, D]``."""
        return self.reserved[:slots].expand(rows, -1, -1)

    def weights(self) -> dict[str, Tensor]:
        """The state that training goes on from: all but the means of the encoder's vectors, which are taken anew."""
        return {name: t for name, t in self.state_dict().items() if name not in ("foreign_mean", "english_mean")}

    def aligned(self, pooled: Tensor) -> Tensor:
        """zF ``[B, H]`` -> unit vectors for retrieval: ``[B, D]`` in the centred teacher space, or ``[B, H]`` in the encoder's."""
        vectors = self.projector(pooled) if self.space == "decoder" else pooled.float() - self.foreign_mean
        return nn.functional.normalize(vectors, dim=-1)

    def english(self, vectors: Tensor) -> Tensor:
        """What ``aligned`` is compared with: unit vectors of teacher states hE ``[B, D]``, or of the encoder's zF ``[B, H]``."""
        mean = self.projector.teacher_mean if self.space == "decoder" else self.english_mean
        return nn.functional.normalize(vectors.float() - mean, dim=-1)
