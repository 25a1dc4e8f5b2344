"""YAML that people write by hand, changed without losing their comments, order and layout."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import yaml
from ruamel.yaml import YAML, RoundTripRepresenter, ScalarNode
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

TEXT = "tag:yaml.org,2002:str"
# Where ruamel keeps the comments of an entry: before it, after a sequence's item, after a mapping's value.
BEFORE, AFTER_ITEM, AFTER_VALUE = 1, 0, 2


def load(text: str) -> CommentedMap:
    """The mapping in ``text``; raises ``ruamel.yaml.error.YAMLError``, also for a key that stands there twice."""
    data: CommentedMap = _yaml().load(text)
    _tie_comments(data)
    return data


def dump(data: CommentedMap) -> str:
    """``data`` as text."""
    text = io.StringIO()
    _yaml().dump(data, text)
    return text.getvalue()


class _Representer(RoundTripRepresenter):
    reader = yaml.SafeLoader("")

    def represent_str(self, text: str) -> ScalarNode:
        # ruamel writes YAML 1.2, where ``no`` is text; for PyYAML, which keeps to 1.1, it is false.
        plain = self.reader.resolve(yaml.ScalarNode, text, (True, False)) == TEXT
        return self.represent_scalar(TEXT, text, style=None if plain else "'")


_Representer.add_representer(str, _Representer.represent_str)


def _yaml() -> YAML:
    form = YAML()
    form.Representer = _Representer
    form.preserve_quotes = True
    form.width = 4096  # no line is broken anew
    form.indent(mapping=2, sequence=4, offset=2)
    return form


def _tie_comments(data: CommentedMap) -> None:
    """Tie each comment between two entries to the one under it.

    ruamel ties it to the one above: it would go when that one is taken out, and stand before what is added there.
    """
    for (above, last), (below, key) in pairwise(list(_entries(data))):
        slots = above.ca.items.get(last)
        after = AFTER_VALUE if isinstance(above, CommentedMap) else AFTER_ITEM
        if not slots or not slots[after]:
            continue
        same_line, _, rest = slots[after].value.partition("\n")
        if rest:
            slots[after] = CommentToken(f"{same_line}\n", slots[after].start_mark) if same_line else None
            lines = [
                CommentToken(f"{line.strip()}\n", CommentMark(len(line) - len(line.lstrip())))
                for line in rest.splitlines()
            ]
            below.ca.items.setdefault(key, [None] * 4)[BEFORE] = lines


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each mapping or sequence with each of its keys, in the order of the file; what is in ``{}`` stays as it is."""
    for key, value in node.items() if isinstance(node, CommentedMap) else enumerate(node):
        yield node, key
        if hasattr(value, "fa") and not value.fa.flow_style():
            yield from _entries(value)
