"""Texts in, one line each out: what ``llink translate`` and ``llink generate`` share."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from llink.cli.options import adapter_option
from llink.errors import LlinkError

BATCH = 16
AUTO = "auto"
Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("text", required=False),
    click.option(
        "--file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read texts from a UTF-8 file, one a line; - is stdin.",
    ),
    click.option(
        "--language",
        default=AUTO,
        show_default=True,
        metavar="CODE[@NAME]",
        help="Language of the texts, with @NAME another of its adapters; auto finds it by script.",
    ),
    adapter_option,
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        metavar="N",
        help="Decoder tokens an output may have.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:1, mps.",
    ),
)


def text_options(command: Command) -> Command:
    """Put the TEXT argument and the shared options on a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def run(
    text: str | None,
    file: Path | None,
    language: str,
    adapter: str | None,
    as_json: bool,
    max_new_tokens: int,
    device: str,
    *,
    task: str | None = None,
    instruction: str | None = None,
) -> None:
    """Read the texts, run the engine over them in batches, print as the answers come.

    Raises:
        LlinkError: E501 unknown task, E201 unknown language, E505 no text, E508 unreadable file,
            E301 unknown adapter, and those of the engine.
    """
    from llink import plugins
    from llink.cli.names import adapter_path, selected
    from llink.prompt import instruction_for
    from llink.registry import load_registry

    # What the user typed is checked before any model is loaded.
    instruction_for(task, instruction)
    if language != AUTO:
        default = load_registry().default
        language = str(selected(language, adapter, default.encoder, default.decoder)[0])
    texts = read_texts(text, file)
    codes = languages_of(texts, language)

    from llink.engine import Engine

    engine = Engine.load(device=device)
    for code in sorted({code for code, text in zip(codes, texts, strict=True) if text.strip()}):
        engine.add(code, adapter_path(adapter, plugins.select(code).language) if adapter else None)
    with bar(len(texts)) as advance:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            full = [text for text in batch if text.strip()]
            outputs = iter(
                engine.generate(
                    full, language=language, task=task, instruction=instruction, max_new_tokens=max_new_tokens
                )
                if full
                else []
            )
            for text, code in zip(batch, codes[start : start + BATCH], strict=True):
                output = next(outputs) if text.strip() else ""
                if as_json:
                    row = {"text": text, "language": code or None, "task": task}
                    row |= {} if instruction is None else {"instruction": instruction}
                    click.echo(json.dumps({**row, "output": output}, ensure_ascii=False))
                else:
                    click.echo(" ".join(output.split()))
            advance(len(batch))


def read_texts(text: str | None, file: Path | None) -> list[str]:
    """The texts, one a line, from the argument, the file or stdin; blank lines stay.

    Raises:
        LlinkError: E505 when there is no text, E508 when the file cannot be read, or is neither UTF-8 nor, as its bytes say, UTF-16
            or UTF-32.
    """
    if text is not None and file is not None:
        raise click.UsageError("Give TEXT or --file, not both.")
    if text is None:
        text = read(file)
    lines = re.split(r"\r\n|\r|\n", text)
    if not lines[-1]:
        lines.pop()
    if not any(map(str.strip, lines)):
        raise LlinkError("E505", "There is no text.", "Give it as an argument, with --file FILE, or on stdin.")
    return lines


def read(file: Path | None) -> str:
    """All of a file, or of stdin unless that is a terminal."""
    from llink.data.encoding import decoded

    from_stdin = file is None or str(file) == "-"
    if file is None and sys.stdin.isatty():
        return ""
    name = "stdin" if from_stdin else str(file)
    try:
        data = sys.stdin.buffer.read() if file is None or from_stdin else file.read_bytes()
        return decoded(data)
    except UnicodeDecodeError as error:
        raise LlinkError(
            "E508", f"{name} is not {error.encoding.upper()} (byte {error.start}).", "Convert it, with iconv for one."
        ) from None
    except OSError as error:
        raise LlinkError("E508", f"{name} cannot be read: {error.strerror}.") from None


def languages_of(texts: Sequence[str], language: str) -> list[str]:
    """The language code of each text, empty for a blank one; an error names the line."""
    from llink import plugins
    from llink.script import check_script, detect

    codes = []
    for number, text in enumerate(texts, 1):
        try:
            if not text.strip():
                codes.append("")
            elif language == AUTO:
                codes.append(detect(text, plugins.languages()).code)
            else:
                check_script(text, plugins.select(language).language)
                codes.append(language)
        except LlinkError as error:
            where = f"Line {number}: " if len(texts) > 1 else ""
            raise LlinkError(error.code, where + error.message, error.hint) from None
    return codes


def bar(count: int) -> Any:
    """A progress bar over many texts; where the answers go to the screen, they are the progress."""
    from llink.progress import track

    if count <= BATCH or sys.stdout.isatty():
        return nullcontext(lambda _: None)
    return track("Texts", total=count, unit="text")
