"""JSON and YAML that may be anyone's: bounded in bytes, in depth and in numbers before anything is made of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 18
"""Of a YAML file; the largest that ships has 7 kB."""
MAX_JSON = 1 << 23
"""Of a JSON file."""
MAX_DEPTH = 32
MAX_VALUES = 20_000
"""An alias of YAML counts as often as it is used: a few lines of them can stand for billions of values."""
LFS = b"version https://git-lfs.github.com/spec/"
"""What a Git LFS pointer begins with (git-lfs, docs/spec.md); it stands where Git was told not to fetch the file itself."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
LFS_HINT = "Run `git lfs install` and `git lfs pull` in its repository, or download the file itself."


class Unfit(ValueError):
    """What is wrong with a file or a value, in words that go on after its name."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer in place of what it is called; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(LFS)) == LFS
    except OSError:
        return False


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """All of a UTF-8 file, with or without a BOM.

    Raises:
        Unfit: it cannot be read, is larger than ``most`` bytes, no UTF-8, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise Unfit(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if data.startswith(LFS):
        raise Unfit("is a Git LFS pointer, not the file itself", LFS_HINT)
    if len(data) > most:
        raise Unfit(f"is larger than {most / 1e6:.1f} MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unfit(f"is not UTF-8 (byte {error.start})") from None


def read_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Unfit: as ``read_text``, ``parse_json`` and ``plain``; or it is no object.
    """
    value = parse_json(read_text(path, most))
    if not isinstance(value, dict):
        raise Unfit("is not a JSON object")
    plain(value, MAX_JSON)
    return value


def parse_json(text: str | bytes) -> Any:
    """What JSON text stands for: of one line, or of bytes that have a bound already.

    Raises:
        Unfit: it is no JSON, or nested deeper than Python can follow, or a number has more than 4,300 digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise Unfit("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise Unfit(f"is not valid JSON: {error}") from None
    except ValueError as error:
        raise Unfit(f"cannot be read: {error}") from None


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; raises ``Unfit`` as ``read_text`` and ``parse_yaml``."""
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """What YAML text stands for: mappings, lists, text, numbers, true, false and null.

    Raises:
        Unfit: it is no YAML, or as ``plain``.
    """
    try:
        depth = 0
        # Without recursion, which in the C loader has no limit but the stack.
        for number, event in enumerate(yaml.parse(text, _Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise Unfit(f"is nested deeper than {MAX_DEPTH} levels")
            if number > MAX_VALUES:
                raise Unfit(f"holds more than {MAX_VALUES:,} values")
        value = yaml.load(text, _Loader)
    except Unfit:
        raise
    except RecursionError:
        raise Unfit(f"is nested deeper than {MAX_DEPTH} levels") from None
    except Exception as error:  # beside YAMLError, whatever `2024-13-45` and `!!int x` do to its constructors
        raise Unfit("is not valid YAML: " + " ".join(str(error).split())) from error
    plain(value)
    return value


def plain(value: Any, most: int = MAX_VALUES) -> None:
    """Refuse what no file of settings holds, by the dotted key that it stands at.

    Raises:
        Unfit: numbers that are not finite or have more than 64 bits, text that is not Unicode or has a NUL, other
            kinds of values, more than ``MAX_DEPTH`` levels or ``most`` values.
    """
    left: list[tuple[str, Any, int]] = [("", value, 0)]
    seen = 0
    while left:
        where, item, depth = left.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise Unfit(f"is nested deeper than {MAX_DEPTH} levels")
        if seen > most:
            raise Unfit(f"holds more than {most:,} values")
        at = f"{where[:100]}: " if where else ""
        if isinstance(item, str):
            if "\0" in item or any("\ud800" <= c <= "\udfff" for c in item):
                raise Unfit(f"{at}holds a character that is not text")
        elif isinstance(item, int):
            if item.bit_length() > 63:
                raise Unfit(f"{at}a number of {item.bit_length()} bits, and 63 is the limit")
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise Unfit(f"{at}{item} is not a finite number")
        elif isinstance(item, dict):
            for key, below in item.items():
                name = f"{where}.{key}" if where else str(key)
                if isinstance(key, str):
                    left.append((name, key, depth + 1))
                left.append((name, below, depth + 1))
        elif isinstance(item, list | tuple):
            left += [(where, below, depth + 1) for below in item]
        elif item is not None:
            raise Unfit(f"{at}this is read as a {type(item).__name__}; write it in quotes")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's, with an end to what `<<` brings together and to how long a number is."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise Unfit(f"holds more than {MAX_VALUES:,} values")

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag in NUMBERS and len(node.value) > 100:
            raise Unfit(f"a number of {len(node.value)} characters")
        return super().construct_scalar(node)
