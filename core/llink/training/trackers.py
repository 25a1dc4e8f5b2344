"""Experiment trackers (TensorBoard, Weights & Biases, trackio …), through accelerate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink.errors import LlinkError, unknown_name

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = {
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet_ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""What accelerate can log to -> the package to install, which is imported by the same name."""
PROJECT = "llink"


def check(names: Sequence[str]) -> None:
    """E420 for a tracker that accelerate does not know, or that is not installed. torch is not imported."""
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("E420", "tracker", name, TRACKERS)
        if find_spec(TRACKERS[name]) is None:
            raise LlinkError("E420", f"The tracker '{name}' is not installed.", f"Run: pip install {TRACKERS[name]}")


def options(names: Sequence[str], out: Path) -> dict[str, Any]:
    """What ``Accelerator`` is made with to log to these trackers; files go into ``out/trackers``."""
    check(names)
    return {"log_with": list(names), "project_dir": out / "trackers"} if names else {}


def start(accelerator: Accelerator, out: Path, settings: Mapping[str, Any]) -> None:
    """Open a run named as the run folder in each tracker's project ``llink``; E420 where one cannot.

    Args:
        settings: the recipe, nested as it is.
    """
    name = out.resolve().name
    own = {"wandb": {"name": name, "dir": str(out)}, "trackio": {"name": name}, "swanlab": {"experiment_name": name}}
    try:
        accelerator.init_trackers(PROJECT, config=flat(settings), init_kwargs=own)
    except Exception as error:  # of as many kinds as there are trackers
        names = ", ".join(str(tracker) for tracker in accelerator.log_with)
        raise LlinkError(
            "E420",
            f"A tracker ({names}) cannot start: {' '.join(str(error).split())[:200]}.",
            "Correct that (a login, an address), or leave --track out.",
        ) from error


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as ``section.key`` -> number or text; trackers know no others."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[above + key] = value if isinstance(value, bool | int | float) else str(value)
    return found
