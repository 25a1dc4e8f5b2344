"""Recipes: the pydantic schema of stage A and stage B, read from YAML, unknown keys refused."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from llink import __version__
from llink.bounded import Unfit, parse_yaml, plain, read_yaml
from llink.errors import LlinkError, unknown_name

VERSION = 1
MAX_RANK = 4096
"""Of a LoRA, and so is ``MAX_ALPHA``: weights times ``alpha / r``, which beyond that no number format of a decoder holds."""
MAX_ALPHA = 65536
MANY = 10**9
"""Of pairs, examples or steps: a number beyond that is a slip of the hand."""
MODEL_OPTIONS: dict[str, TypeAdapter[Any]] = {
    "layer": TypeAdapter(Annotated[int | None, Field(strict=True, ge=-1, le=1000)]),
    "pooled_layer": TypeAdapter(Annotated[int | None, Field(strict=True, ge=-1, le=1000)]),
    "prefix": TypeAdapter(Annotated[str, Field(strict=True, max_length=200)]),
    "pooling": TypeAdapter(Literal["mean", "first"]),
    "max_tokens": TypeAdapter(Annotated[int, Field(strict=True, ge=1, le=1 << 20)]),
    "attn_implementation": TypeAdapter(Annotated[str | None, Field(strict=True)]),
}
"""Options of the backends that LLINK brings, and what they may be."""
GIVEN = ("device", "dtype", "fingerprint", "name", "path")
"""What every backend is given by LLINK itself."""
SIZES = ("decoder_size", "encoder_size", "slot_norm", "slots")
"""The same of slot injectors."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelChoice(_Section):
    """A registry name or local folder, and options for its backend (``layer``, ``max_tokens`` …)."""

    name: str = Field(min_length=1, max_length=4096)
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _usable(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            if key in GIVEN:
                raise ValueError(f"'{key}' is not an option: LLINK gives it to the backend itself")
            if key in MODEL_OPTIONS:
                try:
                    MODEL_OPTIONS[key].validate_python(value)
                except ValidationError as error:
                    raise ValueError(f"{key}: {error.errors()[0]['msg']}") from None
        return options


class Data(_Section):
    """Where text comes from. Paths are relative to the ``--data`` folder; ``hub:repo[:config[:split]]`` is streamed."""

    train: list[str]
    dev: dict[str, str] = {}
    """Name -> file; ``file#source`` takes one source's rows of it. Their English strings are never trained on."""
    hold_out: list[str] = []
    """More files of pairs, or patterns such as ``*/dev_*.jsonl.gz``, whose English is never trained on: the dev sets of
    other languages, where sentences were translated into several."""
    english: list[str] = []
    """General English text: more input for the projector and the slots. One sentence a line, or JSONL with ``text``,
    ``source`` and ``licence``."""
    english_licence: str = "unknown"
    """Of the files that do not say it row by row."""
    max_english: int = Field(0, ge=0, le=MANY)
    instructions: list[str] = []
    """Files of `llink data instruct`: stage B's tasks, in place of ``stage_b.distilled``."""
    min_words: int = Field(4, ge=1, le=10_000)
    """English words a pair must have at least."""
    max_chars: int = Field(256, ge=1, le=1_000_000)
    """Foreign characters a pair may have at most (paper: 256)."""
    max_pairs: int | None = Field(None, ge=2, le=MANY)
    sample: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Share of a source's pairs that is used, by name; 1 where it is not named."""
    repeat: dict[str, Annotated[int, Field(ge=1, le=1000)]] = {}
    """How often a source's pairs are seen in an epoch, by name; once where it is not named."""
    match_means: bool = False
    """Whether English inputs are moved to the foreign texts' mean, see ``llink.features.cache.MatchedMeans``."""
    columns: dict[str, str] = {}
    """Names of the ``english`` and ``foreign`` fields in a hub data set, dots for nesting."""


class Teacher(_Section):
    """What the projector aims at: a decoder layer, a position, and whether the common mean is removed."""

    layer: int = Field(0, ge=-1, le=1000)
    """0 is the input embeddings, -1 the last layer."""
    position: Literal["mean", "reserved"] = "mean"
    centre: bool = True


class ProjectorChoice(_Section):
    kind: str = "mlp"
    hidden: int = Field(2560, ge=1, le=65536)
    dropout: float = Field(0.1, ge=0, lt=1)


Temperature = Annotated[float, Field(gt=0, le=100)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class _Weighted(_Section):
    """A stage with ``losses``: weight by name, 0 for off; what a recipe says is laid over the defaults."""

    alone: ClassVar[bool] = True
    """Whether these losses are all that the stage minimises."""
    losses: dict[str, Weight] = {}

    @field_validator("losses")
    @classmethod
    def _over_defaults(cls, losses: dict[str, float]) -> dict[str, float]:
        whole = {**cls.model_fields["losses"].default, **losses}
        if cls.alone and not any(whole.values()):
            raise ValueError("one loss at least must weigh more than 0")
        return whole


class StageA(_Weighted):
    """Alignment. Defaults are the paper's where it states them."""

    epochs: float = Field(25, gt=0, le=1e6)
    batch: int = Field(128, ge=2, le=1 << 20)
    """Of one process. ``batch x accumulation x processes`` rows make a step, and are each other's negatives."""
    accumulation: int = Field(1, ge=1, le=1 << 16)
    lr: float = Field(1e-3, gt=0, le=1e30)
    min_lr: float = Field(1e-5, ge=0, le=1e30)
    warmup: float = Field(0.15, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0, le=1e30)
    clip: float = Field(1.0, gt=0, le=1e30)
    temperature: tuple[Temperature, Temperature] = (0.17, 0.08)
    queue: int = Field(32768, ge=0, le=1 << 24)
    hardest: int = Field(256, ge=0, le=1 << 24)
    losses: dict[str, Weight] = {"info_nce": 1.0, "direction": 0.05, "log_norm": 0.02}
    english_side: bool = True
    """Whether the English side of each pair is one more input with the same teacher."""
    start_share: float = Field(0.0, ge=0, lt=1)
    """How far what is kept goes back to the weights that training began with, for a projector that learns on."""


class Slots(_Section):
    """Adaptive K: a longer text gets more slots."""

    min: int = Field(4, ge=1, le=64)
    max: int = Field(32, ge=1, le=64)
    per_tokens: float = Field(8, ge=0.01, le=1e6)
    """Encoder tokens that a slot stands for."""
    nested: float = Field(0.2, ge=0, le=1)
    """Share of training steps with another number from ``min`` to ``max``, so that one adapter serves each of them."""

    @model_validator(mode="after")
    def _in_order(self) -> Slots:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}")
        return self


class InjectorChoice(_Section):
    kind: str = "pooled"
    slots: Annotated[
        Annotated[int, Field(ge=1, le=64), Tag("number")] | Annotated[Slots, Tag("adaptive")],
        Discriminator(lambda slots: "adaptive" if isinstance(slots, dict | Slots) else "number"),
    ] = 8
    """K for every text, or ``{min, max, per_tokens}``."""
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _usable(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in SIZES:
            if key in options:
                raise ValueError(f"'{key}' is not an option: LLINK gives it to the injector itself")
        return options

    @property
    def most(self) -> int:
        """K, the largest where it is adaptive."""
        return self.slots.max if isinstance(self.slots, Slots) else self.slots

    @property
    def least(self) -> int:
        """The fewest slots that a text can have."""
        return self.slots.min if isinstance(self.slots, Slots) else self.slots

    def count(self, tokens: int) -> int:
        """Slots of a text of so many encoder tokens."""
        if not isinstance(self.slots, Slots):
            return self.slots
        return max(self.slots.min, min(self.slots.max, math.ceil(tokens / self.slots.per_tokens)))


class WarmStart(_Weighted):
    """Pre-training of the injector without the decoder in the loop: slots imitate English input embeddings."""

    epochs: float = Field(0, ge=0, le=1e6)
    batch: int = Field(128, ge=2, le=1 << 20)
    lr: float = Field(1e-3, gt=0, le=1e30)
    losses: dict[str, Weight] = {"bag_of_words": 1.0, "cosine": 1.0}


class Lora(_Section):
    r: int = Field(16, ge=1, le=MAX_RANK)
    alpha: int = Field(16, ge=1, le=MAX_ALPHA)
    dropout: float = Field(0.05, ge=0, lt=1)


class Injection(_Weighted):
    """What stage B and stage C have in common. ``losses`` go beside the cross-entropy."""

    examples: int = Field(ge=0, le=MANY)
    """How many training examples are seen in all."""
    batch: int = Field(16, ge=1, le=1 << 20)
    """Of one process. ``batch x accumulation x processes`` examples make a step."""
    accumulation: int = Field(1, ge=1, le=1 << 16)
    lr_lora: float = Field(1e-4, gt=0, le=1e30)
    lr_injector: float = Field(3e-5, gt=0, le=1e30)
    lr_scale: float = Field(5e-4, gt=0, le=1e30)
    lr_projector: float = Field(0.0, ge=0, le=1e30)
    warmup: float = Field(0.15, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, le=1e30)
    clip: float = Field(1.0, gt=0, le=1e30)
    alone: ClassVar[bool] = False
    losses: dict[str, Weight] = {"cosine": 0.05, "info_nce": 1e-3, "bag_of_words": 0.1, "usage_contrast": 0.05}
    usage_every: int = Field(3, ge=1, le=MANY)
    """Steps from one to the next in which the loss without slots is computed, for losses that ask for it."""
    max_target_tokens: int = Field(64, ge=4, le=65536)
    english_share: float = Field(0.0, ge=0, le=1)
    """Share of examples whose input is English: the slots must carry general text too."""
    long_share: float = Field(0.0, ge=0, lt=1)
    """Share of examples that are a longer text: several pairs of one source, a passage of slots each."""
    passages: int = Field(6, ge=2, le=64)
    """How many passages a longer text has at most."""
    task_share: float = Field(0.1, ge=0, le=1)
    """Share of examples from tasks (summary, title, key points, questions): ``data.instructions``, else self-distilled."""
    distilled: int = Field(0, ge=0, le=MANY)
    """How many self-distilled examples are made, over all tasks, where ``data.instructions`` names no file."""


class StageB(Injection):
    """Injection: LoRA and injector learn, and the projector where ``lr_projector`` is above 0."""

    examples: int = Field(120_000, ge=0, le=MANY)
    """0 leaves injector and LoRA as they are: with ``init_from``, stage A alone makes an adapter."""
    lora: Lora = Lora()


class StageC(Injection):
    """Joint training after stage B, the projector unfrozen; off while ``examples`` is 0.

    What a recipe does not say here is as in its ``stage_b``, but for ``examples`` and ``lr_projector``.
    """

    examples: int = Field(0, ge=0, le=MANY)
    lr_projector: float = Field(1e-5, gt=0, le=1e30)


class Verbatim(_Section):
    """The verbatim channel: values that must not be paraphrased, as ordinary tokens behind the slots."""

    tokens: int = Field(0, ge=0, le=512)
    """How many tokens of values a text may bring; 0 is an adapter without the channel."""
    dropout: float = Field(0.2, ge=0, le=1)
    """Share of training examples that go without, so that the slots stay in use."""
    swap: float = Field(0.5, ge=0, le=1)
    """Share of the others in which values become others of their kind, in the channel and in the target alike."""
    share: float = Field(0.0, ge=0, lt=1)
    """Share of examples with a value that stands in their target, where the text has fewer: they are taken more often."""


EXPECTED = re.compile(r"(>=|<=|>|<|==)\s*(-?\d+(?:\.\d+)?)")
"""A threshold in ``expect``."""


class Recipe(_Section):
    """One run of stage A, stage B and, where it is on, stage C for one language and one pair of models."""

    version: Literal[1] = 1
    name: str = Field(min_length=1, max_length=200)
    language: str
    encoder: ModelChoice
    decoder: ModelChoice
    init_from: str | None = None
    """A language (or CODE@NAME) whose adapter for the same pair, or an adapter folder, that training starts from; for a
    baseline the folder of an earlier one."""
    seed: int = Field(17, ge=0, lt=1 << 32)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    data: Data
    teacher: Teacher = Teacher()
    projector: ProjectorChoice = ProjectorChoice()
    stage_a: StageA = StageA()
    injector: InjectorChoice = InjectorChoice()
    warm_start: WarmStart = WarmStart()
    stage_b: StageB = StageB()
    stage_c: StageC = StageC()
    verbatim: Verbatim = Verbatim()
    checkpoint_every: int = Field(200, ge=1, le=MANY)
    """Steps between checkpoints, and between dev losses in stages B and C."""
    dev_examples: int = Field(48, ge=0, le=MANY)
    """How many pairs of each dev set the losses during stage B are measured on."""
    expect: dict[str, str] = {}
    """What `llink eval --check` asks: ``retrieval.r1`` (every dev set) or ``retrieval.DEV.r1`` -> ``>=0.6``."""

    @model_validator(mode="before")
    @classmethod
    def _stage_c_after_b(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        b, c = raw.get("stage_b", {}), raw.get("stage_c", {})
        if not isinstance(b, dict) or not isinstance(c, dict):
            return raw
        own = ("examples", "lr_projector", "lora")
        return {**raw, "stage_c": _laid_over({k: v for k, v in b.items() if k not in own}, c)}

    @field_validator("expect")
    @classmethod
    def _thresholds(cls, expect: dict[str, str]) -> dict[str, str]:
        for key, wanted in expect.items():
            if "." not in key or not EXPECTED.fullmatch(wanted):
                raise ValueError(f"'{key}: {wanted}' is not like 'retrieval.r1: \">=0.6\"'")
        return expect


_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def recipe_files(package: str) -> dict[str, Path]:
    """The recipes that a language's package ships, by name."""
    from llink.interfaces import package_folder

    return {p.stem: p for p in sorted(package_folder(package, "recipes").glob("*.yaml"))}


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, lay it over the one it extends and ``key.sub=value`` overrides over both, validate.

    Raises:
        LlinkError: E202 when the file is no YAML mapping, a key is unknown or a value is out of bounds, E208 when
            what it extends is not there.
    """
    raw = _resolve(path, ())
    for item in overrides:
        _override(raw, item)
    return validate(raw, str(path))


def _resolve(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping of a recipe file with all that it ``extends`` under it; ``below`` are the files that led here."""
    try:
        raw = read_yaml(path)
    except Unfit as error:
        raise LlinkError("E202", f"Recipe {path}: {error}.", error.hint) from error
    if not isinstance(raw, dict):
        raise LlinkError("E202", f"Recipe {path} is not a mapping of keys to values.")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    package, _, name = str(base).partition("/")
    known = recipe_files(package) if _PACKAGE.fullmatch(package) else {}
    if name not in known:
        raise unknown_name("E208", f"recipe that {path} extends:", str(base), [f"{package}/{n}" for n in known])
    if known[name] in below:
        raise LlinkError("E208", f"Recipe {path} extends itself through '{base}'.", "Take one `extends` out.")
    return _laid_over(_resolve(known[name], (*below, path)), raw)


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``: sections are merged key by key, lists and values replaced."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def validate(raw: dict[str, Any], origin: str) -> Recipe:
    """A recipe from a mapping; E202 names the first bad key and what would have been right."""
    try:
        plain(raw)
    except Unfit as error:
        raise LlinkError("E202", f"Recipe {origin}: {error}.") from error
    version = raw.get("version")
    if type(version) is int and version > VERSION:
        raise LlinkError(
            "E202", f"Recipe {origin}: version {version} is of a later LLINK than {__version__}, which reads {VERSION}.",
            "pip install -U llink.",
        )  # fmt: skip
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            raise unknown_name("E202", f"key in recipe {origin}:", ".".join(where), _keys_beside(where)) from None
        raise LlinkError("E202", f"Recipe {origin}: {'.'.join(where)}: {first['msg']}.") from None


def _override(raw: dict[str, Any], item: str) -> None:
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise LlinkError("E202", f"'{item}' is not key=value.", "Example: --set stage_b.batch=8")
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise LlinkError("E202", f"'{parent}' in '{key}' is a value, not a section.")
    try:
        section[last] = parse_yaml(value)
    except Unfit as error:
        what = "is no YAML value" if "valid YAML" in str(error) else f"in {key}: {error}"
        raise LlinkError("E202", f"'{value[:100]}' in '{item[:100]}' {what}.") from None
    # YAML 1.1 reads 1e-4 as a string; a number is meant.
    if isinstance(section[last], str):
        with suppress(ValueError):
            number = float(section[last])
            section[last] = number if math.isfinite(number) else section[last]


def _keys_beside(where: list[str]) -> list[str]:
    """The dotted keys that are allowed where an unknown one was found."""
    model: Any = Recipe
    for part in where[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [".".join([*where[:-1], name]) for name in model.model_fields]
