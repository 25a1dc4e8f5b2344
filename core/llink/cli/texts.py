"""Texts in, one line each out: what ``llink translate`` and ``llink generate`` share."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llink.adapter.prompt import BATCH
from llink.cli.lines import count, in_chunks, lines_of, read_whole
from llink.cli.options import adapter_option
from llink.cli.out import opened
from llink.errors import LlinkError
from llink.serving.documents import is_document

if TYPE_CHECKING:
    from llink.serving.answers import Answer
    from llink.serving.engine import Engine

AUTO = "auto"
SIZES = (BATCH, 2 * BATCH)
"""Texts of the first chunks, so that the first answers come soon; then four batches at once, which are sorted by length."""
UNREAD = 3
"""Exit status where texts came through unread and none was refused."""
SHOWN = 5
"""Lines that a notice names of each kind."""
Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("text", required=False),
    click.option(
        "--file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read texts from a UTF-8 file, one a line; - is stdin. Of an .srt, .html or .md file the texts, and write "
        "the document with the answers in their place.",
    ),
    click.option(
        "--language",
        default=AUTO,
        show_default=True,
        metavar="CODE[@NAME]",
        help="Language of the texts, with @NAME another of its adapters; auto finds it by script.",
    ),
    adapter_option,
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with a note or an error."),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the answers to a file, each batch as it is done.  [default: stdout]",
    ),
    click.option("--resume", is_flag=True, help="Go on with the --out file of a run that was killed."),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        metavar="N",
        help="Decoder tokens an output may have.",
    ),
    click.option("--no-loop-guard", "loops", is_flag=True, help="Let an output repeat itself."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:1, mps.",
    ),
    click.option(
        "--server",
        envvar="LLINK_SERVER",
        metavar="URL",
        help="Ask a server that `llink serve` runs; nothing is loaded here.  [default: $LLINK_SERVER]",
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
    out: Path | None,
    resume: bool,
    max_new_tokens: int,
    loops: bool,
    device: str,
    server: str | None,
    *,
    task: str | None = None,
    instruction: str | None = None,
) -> None:
    """Read the texts as they come, run the engine over them in batches, and write the answers as they come.

    The command ends with status 1 where texts were refused, and else with ``UNREAD`` where some came through unread.

    Raises:
        LlinkError: E501 unknown task, E201 unknown language, E505 no text, E508 unreadable file, E301 unknown adapter,
            E218/E540 for ``out``, E554 for ``server``, those of the engine, and what is wrong with a single TEXT.
    """
    from llink.adapter.prompt import instruction_for
    from llink.cli.names import selected
    from llink.store.registry import load_registry

    if resume and out is None:
        raise click.UsageError("--resume needs --out.")
    # What the user typed is checked before any model is loaded.
    instruction_for(task, instruction)
    if server and (adapter or device != AUTO):
        raise click.UsageError("--adapter and --device are the server's own; --language CODE@NAME names an adapter.")
    if language != AUTO and not server:
        default = load_registry().default
        language = str(selected(language, adapter, default.encoder, default.decoder)[0])
    asked = {"task": task} | ({} if instruction is None else {"instruction": instruction})
    options: dict[str, Any] = {**asked, "max_new_tokens": max_new_tokens, "loop_guard": not loops}
    settings = {**options, "language": language, "adapter": adapter, "json": as_json}
    ask, tally = answering(server, device, adapter), Tally(language)
    if text is None and file is not None and is_document(file):
        if as_json or resume:
            raise click.UsageError("--json and --resume are for texts one a line.")
        whole_document(file, out, lambda texts: tally.take(ask(texts, language, **options), "Text"))
        tally.end()
        return
    lines = lines_of(text, file)
    with opened(out, resume, settings) as target:
        target.skip(map(str, islice(lines, target.done)))
        tally.counts |= target.counts
        shown = out is None and sys.stdout.isatty()
        with bar(None if shown else count(file), target.done, shown or text is not None) as advance:
            for chunk in in_chunks(lines, chain(SIZES, repeat(4 * BATCH))):
                answers = ask(chunk, language, **options)
                if text is not None and len(chunk) == 1 and answers[0].error:
                    raise answers[0].error
                tally.take(answers)
                rows = [as_row(answer, asked) if as_json else as_line(answer) for answer in answers]
                target.write(list(map(str, chunk)), rows, tally.counts)
                advance(len(chunk))
    tally.end()


def whole_document(file: Path, out: Path | None, answer: Callable[[Sequence[str]], list[Answer]]) -> None:
    """Write a document with answers in the place of its texts; a text that was refused stays.

    Raises:
        LlinkError: E218 where ``out`` exists, E508 unreadable file, E541 damaged document.
    """
    from llink.home import atomic_write
    from llink.serving.documents import parse

    if out is not None and out.exists():
        raise LlinkError("E218", f"{out} exists.", "Give another --out, or delete it.")
    document = parse(read_whole(file), file)
    outputs: list[str] = []
    with bar(len(document.texts), 0, out is None and sys.stdout.isatty()) as advance:
        for start in range(0, len(document.texts), 4 * BATCH):
            answers = answer(document.texts[start : start + 4 * BATCH])
            outputs += [answer.text if answer.error else answer.output for answer in answers]
            advance(len(answers))
    made = document.render(outputs)
    if out is None:
        click.echo(made, nl=False)
    else:
        atomic_write(out, made)


def answering(server: str | None, device: str, adapter: str | None) -> Callable[..., list[Answer]]:
    """What answers texts: a server, or an engine of this process."""
    if server:
        from llink.serving.remote import Server

        return Server(server).answer_all
    from llink.serving.answers import answer_all

    return partial(answer_all, _Loader(device, adapter))


class _Loader:
    """Loads the engine when the first text is to be read, and the adapter that was named with each new language."""

    def __init__(self, device: str, adapter: str | None) -> None:
        self.device, self.adapter = device, adapter
        self.engine: Engine | None = None
        self.languages: set[str] = set()

    def __call__(self, languages: Sequence[str]) -> Engine:
        from llink import plugins
        from llink.cli.names import adapter_path
        from llink.serving.engine import Engine

        if self.engine is None:
            self.engine = Engine.load(device=self.device)
        for code in sorted(set(languages) - self.languages):
            if self.adapter:
                self.engine.add(code, adapter_path(self.adapter, plugins.select(code).language))
            self.languages.add(code)
        return self.engine


class Tally:
    """Counts answers, tells refused lines on stderr at once and the unread ones at the end."""

    def __init__(self, language: str = AUTO) -> None:
        self.language, self.shared = language, 0
        self.counts = {"lines": 0, "unread": 0, "refused": 0}
        self.notes: dict[str, list[int]] = {}  # the first of each kind
        self.kinds = Counter[str]()

    def take(self, answers: list[Answer], what: str = "Line") -> list[Answer]:
        """Count the answers to the next lines, and give them back."""
        from llink.adapter.shared import SHARED
        from llink.language.unread import BLANK

        for answer in answers:
            self.counts["lines"] += 1
            self.shared += answer.adapter == SHARED != self.language
            if answer.error:
                self.counts["refused"] += 1
                named = LlinkError(
                    answer.error.code, f"{what} {self.counts['lines']}: {answer.error.message}", answer.error.hint
                )
                click.echo(f"llink: {' '.join(str(named).split())}", err=True)
            elif answer.note and answer.note != BLANK:
                self.counts["unread"] += 1
                self.kinds[answer.note] += 1
                if self.kinds[answer.note] <= SHOWN:
                    self.notes.setdefault(answer.note, []).append(self.counts["lines"])
        return answers

    def tell(self) -> None:
        """One line about those that the shared adapter read, and one about those that came through unread."""
        if self.shared:
            texts = "The text was" if self.counts["lines"] == 1 else f"{self.shared:,} texts were"
            click.echo(
                f"llink: {texts} read through the shared adapter (mul), for want of one for the language.", err=True
            )
        if not self.notes:
            return
        if self.counts["lines"] == 1:
            click.echo(f"llink: The text came through unread ({next(iter(self.notes))}).", err=True)
            return
        kinds = []
        for note, numbers in self.notes.items():
            more = f" and {self.kinds[note] - SHOWN:,} more" if self.kinds[note] > SHOWN else ""
            kinds.append(f"{', '.join(map(str, numbers))}{more} ({note})")
        click.echo(f"llink: Texts that came through unread: {'; '.join(kinds)}.", err=True)

    def end(self) -> None:
        """Tell, and leave the command with the status that is due; blank lines do not count."""
        self.tell()
        if status := 1 if self.counts["refused"] else UNREAD if self.counts["unread"] else 0:
            click.get_current_context().exit(status)


def as_row(answer: Answer, asked: dict[str, Any]) -> str:
    """An answer as one JSON object."""
    row = {"text": answer.text, "language": answer.language, "adapter": answer.adapter, **asked}
    row |= {"output": answer.output, "note": answer.note}
    return json.dumps({**row, "error": answer.error and str(answer.error)}, ensure_ascii=False)


def as_line(answer: Answer) -> str:
    """An answer on one line; a text that came through unread as it was."""
    return answer.output if answer.note else " ".join(answer.output.split())


def bar(total: int | None, done: int, hidden: bool) -> Any:
    """A progress bar over the texts."""
    from llink.progress import track

    if hidden:
        return nullcontext(lambda _: None)
    return track("Texts", total=total, unit="text", done=done)
