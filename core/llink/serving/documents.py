"""Documents that keep their structure: the texts of subtitles, HTML and Markdown, and the document with others in their place.

Well-kept libraries parse them (the extra ``documents``). Code, addresses, times and markup stay as they are, and so does a
text that nothing is put in place of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llink.errors import LlinkError


@dataclass(frozen=True)
class Document:
    """Texts in order, and what makes the document anew of as many."""

    texts: list[str]
    render: Callable[[Sequence[str]], str]


def parse(content: str, path: Path) -> Document:
    """The document of a file that ``is_document``.

    Raises:
        LlinkError: E541 where it is damaged, or its library is not installed.
    """
    library, make = _FORMATS[path.suffix.lower()]
    if find_spec(library) is None:
        raise LlinkError("E541", f"{path} needs the package {library}.", 'Run: pip install "llink[documents]"')
    return make(content, path)


def is_document(path: Path) -> bool:
    """Whether a file is read as a document, by its suffix."""
    return path.suffix.lower() in _FORMATS


_WRAPPED = re.compile(r"((?:<[^<>]+>|\{[^{}]+\})*)(.*?)((?:</[^<>]+>)*)", re.DOTALL)


def _subtitles(content: str, path: Path) -> Document:
    """One text a cue, or one a speaker where each line begins with a dash; markup around a text stays around it."""
    import srt

    try:
        cues = list(srt.parse(content))
    except srt.SRTParseError as error:
        raise LlinkError("E541", f"{path} is no SubRip file: {error}", "Check it in a subtitle editor.") from error
    if content.strip() and not cues:
        raise LlinkError("E541", f"{path} is no SubRip file: it has no cue.", "Check it in a subtitle editor.")
    parts: list[tuple[int, str, str, str]] = []
    for number, cue in enumerate(cues):
        lines = cue.content.split("\n")
        speakers = len(lines) > 1 and all(re.match(r"\s*[-–—]", line) for line in lines)
        for text in lines if speakers else [" ".join(lines)]:
            match = re.fullmatch(r"(\s*[-–—]\s*)?(.*)", text, re.DOTALL)
            dash, rest = (match[1] or "", match[2]) if match and speakers else ("", text)
            wrapped = _WRAPPED.fullmatch(rest)
            before, inner, after = wrapped.groups() if wrapped else ("", rest, "")
            parts.append((number, dash + before, inner, after))

    def render(texts: Sequence[str]) -> str:
        made: list[list[str]] = [[] for _ in cues]
        for (number, before, inner, after), text in zip(parts, texts, strict=True):
            made[number].append(f"{before}{' '.join(text.split()) if text != inner else inner}{after}")
        for cue, lines, own in zip(cues, made, _by_cue(parts, len(cues)), strict=True):
            if lines != own:  # one that nothing was changed in keeps its line breaks
                cue.content = "\n".join(lines)
        return str(srt.compose(cues, reindex=False))

    return Document([inner for _, _, inner, _ in parts], render)


def _by_cue(parts: Sequence[tuple[int, str, str, str]], count: int) -> list[list[str]]:
    own: list[list[str]] = [[] for _ in range(count)]
    for number, before, inner, after in parts:
        own[number].append(f"{before}{inner}{after}")
    return own


_NOT_TEXT = frozenset({"code", "kbd", "pre", "samp", "script", "style", "var"})
_SHOWN = ("alt", "aria-label", "placeholder", "title")


def _html(content: str, path: Path) -> Document:
    """One text a text node, and those attributes that a reader sees."""
    from bs4 import BeautifulSoup, Doctype, NavigableString
    from bs4.dammit import EntitySubstitution
    from bs4.formatter import HTMLFormatter

    class AsWritten(HTMLFormatter):
        def attributes(self, tag: Any) -> Any:
            return tag.attrs.items()  # not sorted

    soup: Any = BeautifulSoup(content, "html.parser")
    nodes = [
        node
        for node in soup.find_all(string=True)
        if type(node) is NavigableString and node.strip() and not _NOT_TEXT & {parent.name for parent in node.parents}
    ]
    shown = [(tag, name) for tag in soup.find_all(True) for name in _SHOWN if str(tag.get(name) or "").strip()]
    # A line break in a text node is white space.
    texts = [" ".join(node.split()) for node in nodes] + [str(tag[name]) for tag, name in shown]

    def render(outputs: Sequence[str]) -> str:
        for node, text, output in zip(nodes, texts, outputs, strict=False):
            if output != text:
                start, end = re.match(r"\s*", node)[0], re.search(r"\s*$", node)[0]  # type: ignore[index]
                node.replace_with(NavigableString(f"{start}{output}{end}"))
        for (tag, name), output in zip(shown, outputs[len(nodes) :], strict=True):
            tag[name] = output
        for kind in soup.find_all(string=lambda node: isinstance(node, Doctype)):
            if isinstance(kind.next_sibling, NavigableString) and kind.next_sibling.startswith("\n"):
                kind.next_sibling.replace_with(NavigableString(kind.next_sibling[1:]))  # it writes one of its own
        form = AsWritten(EntitySubstitution.substitute_xml, void_element_close_prefix="")
        return str(soup.decode(formatter=form))

    return Document(texts, render)


_FRONT = re.compile(r"---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)
_SPECIAL = re.compile(r"([\\`*_\[\]<>|])")


def _markdown(content: str, path: Path) -> Document:
    """One text a run of words without markup; all else stays to the letter."""
    from markdown_it import MarkdownIt

    content = content.replace("\r\n", "\n")
    front = _FRONT.match(content)
    starts = [0]
    for line in content.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    first = content[: front.end()].count("\n") if front else 0
    spans: list[tuple[int, int]] = []
    cursor = starts[first]
    for token in MarkdownIt("commonmark").enable("table").parse(content[cursor:]):
        if token.type != "inline" or token.map is None:
            continue
        cursor = max(cursor, starts[first + token.map[0]])
        end_of_block, joined = starts[first + token.map[1]], False
        for child in token.children or ():
            found = content.find(child.content, cursor, end_of_block) if child.content else -1
            if child.type == "text" and found >= 0:
                end = found + len(child.content)
                if joined and spans:
                    spans[-1] = (spans[-1][0], end)
                else:
                    spans.append((found, end))
                joined = True
            elif child.type != "softbreak":
                joined = False
            cursor = found + len(child.content) if found >= 0 else cursor
    spans = [_stripped(content, *span) for span in spans]
    # A break within a run comes with the marks of its block, such as "> ".
    texts = [re.sub(r"\s*\n[ \t>]*", " ", content[start:end]) for start, end in spans]

    def render(outputs: Sequence[str]) -> str:
        made, done = "", 0
        for (start, end), text, output in zip(spans, texts, outputs, strict=True):
            same = output == text
            made += content[done:start] + (
                content[start:end] if same else _SPECIAL.sub(r"\\\1", " ".join(output.split()))
            )
            done = end
        return made + content[done:]

    return Document(texts, render)


def _stripped(content: str, start: int, end: int) -> tuple[int, int]:
    text = content[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


_FORMATS: dict[str, tuple[str, Callable[[str, Path], Document]]] = {
    ".srt": ("srt", _subtitles),
    ".htm": ("bs4", _html),
    ".html": ("bs4", _html),
    ".md": ("markdown_it", _markdown),
    ".markdown": ("markdown_it", _markdown),
}
