"""What a stage minimises: losses by name, each weighted in the recipe, each given the inputs it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llink import plugins
from llink.errors import LlinkError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from llink.recipe import Recipe

_SLOTS = {"slots", "targets", "vocabulary", "wanted", "student", "teacher", "groups", "temperature"}
_DECODED = _SLOTS | {"right", "zero", "logits", "teacher_logits", "labels", "own"}
INPUTS: dict[str, set[str]] = {
    "stage_a": {"student", "teacher", "groups", "temperature", "queue", "queue_groups", "hardest"},
    "warm_start": _SLOTS,
    "stage_b": _DECODED,
    "stage_c": _DECODED,
}
"""What each stage can give to a loss; docs/plugins.md says what they are."""
OF_PART = {"logits", "teacher_logits", "labels", "own"}
"""What is too large to be passed between the parts of a batch. A loss that asks for any of it sees its part alone."""


def check_losses(recipe: Recipe) -> None:
    """Refuse names of losses that no plugin brings for the stage, before any model is loaded.

    Raises:
        LlinkError: E219.
    """
    for stage in INPUTS:
        # Stage C is stage B gone on: a loss for the one is a loss for the other.
        section = "stage_b" if stage == "stage_c" else stage
        known = [name for name, term in plugins.losses().items() if section in term.stages]
        for name in getattr(recipe, stage).losses:
            if name in known:
                continue
            if name in plugins.losses():
                others = ", ".join(plugins.losses()[name].stages)
                raise LlinkError(
                    "E219", f"Loss '{name}' is not for {stage} but for {others}.", f"Available: {', '.join(known)}."
                )
            raise unknown_name("E219", f"loss in {stage}.losses:", name, known)


def check_parts(recipe: Recipe) -> None:
    """Refuse a projector or slot injector that no plugin brings, before any model is loaded.

    Raises:
        LlinkError: E203 projector, E204 slot injector, E408 its options.
    """
    plugins.projector(recipe.projector.kind)
    plugins.check_options(plugins.injector(recipe.injector.kind), recipe.injector.options)


class Objective:
    """The losses of one stage that weigh more than 0.

    Args:
        stage: section of the recipe.
        weights: by name of the loss.

    Attributes:
        of_batch, of_part: names of the losses that see the whole batch, and of those that see one part of it.

    Raises:
        LlinkError: E408 when a loss cannot be made, or asks for an input that the stage does not have.
    """

    def __init__(self, stage: str, weights: Mapping[str, float]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.losses: dict[str, Callable[..., Tensor]] = {}
        self._asks: dict[str, dict[str, bool]] = {}
        for name in self.weights:
            try:
                self.losses[name] = loss = plugins.losses()[name].make()
                asks = _asks(loss)
            except Exception as error:
                raise LlinkError(
                    "E408",
                    f"Loss '{name}' cannot be made: {type(error).__name__}: {' '.join(str(error).split())}.",
                    f"Correct its plugin, or switch it off with --set {stage}.losses.{name}=0.",
                ) from error
            missing = [ask for ask, needed in asks.items() if needed and ask not in INPUTS[stage]]
            if missing:
                raise LlinkError(
                    "E408",
                    f"Loss '{name}' asks for '{missing[0]}', which {stage} does not have.",
                    f"Available: {', '.join(sorted(INPUTS[stage]))}.",
                )
            self._asks[name] = asks
        self.of_part = [name for name, asks in self._asks.items() if OF_PART & set(asks)]
        self.of_batch = [name for name in self._asks if name not in self.of_part]

    def asks(self, name: str, without: Sequence[str] = ()) -> bool:
        """Whether any of the losses takes this input, of those that can do ``without`` others."""
        return any(
            name in asks for asks in self._asks.values() if not any(asks.get(missing, False) for missing in without)
        )

    def __call__(
        self,
        later: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
        names: Sequence[str] | None = None,
        /,
        **inputs: Any,
    ) -> tuple[Any, dict[str, Tensor]]:
        """The weighted sum (0 where there is no loss) and each loss by name.

        Args:
            names: of the losses to compute; None for all.
            inputs: what the losses of this step may ask for.
            later: how to make further inputs, once, and only if a loss asks for them. A loss that needs an input
                which is in neither sits this step out.
        """
        values: dict[str, Tensor] = {}
        for name in self.losses if names is None else names:
            loss, asks = self.losses[name], self._asks[name]
            if any(needed and ask not in inputs and ask not in later for ask, needed in asks.items()):
                continue
            inputs |= {ask: later[ask]() for ask in asks if ask in later and ask not in inputs}
            values[name] = loss(**{ask: inputs[ask] for ask in asks if ask in inputs})
        return sum(self.weights[name] * value for name, value in values.items()), values


def _asks(loss: Callable[..., Any]) -> dict[str, bool]:
    """The parameters of a loss, and whether it cannot do without."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default is inspect.Parameter.empty for p in parameters if p.kind in named}
