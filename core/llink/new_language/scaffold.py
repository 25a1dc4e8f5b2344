"""The package of a new language: planned, filled from templates, written in one step, registered, removed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import yaml

from llink import __version__
from llink.errors import LlinkError
from llink.home import ensure_folder, home, write_error
from llink.interfaces import Language

if TYPE_CHECKING:
    from llink.new_language.prepare import Prepared

TEMPLATE = ".tmpl"
LISTED_SOURCES = 12
"""Sources of text that the plugin names, those with most pairs; the card names all."""
LINE = 100
"""Characters of a sample that stands on one line."""


@dataclass(frozen=True)
class Place:
    """Where the package of a language goes.

    Attributes:
        folder: what is written in one step: the package in a checkout, a whole project around it elsewhere.
        root: the folder that the package is imported from.
        package: its name.
        registry: the registry file that names it.
        in_checkout: whether it becomes part of LLINK's own source tree.
    """

    folder: Path
    root: Path
    package: str
    registry: Path
    in_checkout: bool

    @property
    def entry(self) -> dict[str, str]:
        """Its entry in the registry; a checkout's ``languages/`` is a source root already."""
        return {"package": self.package} | ({} if self.in_checkout else {"path": str(self.root)})


@dataclass(frozen=True)
class Models:
    """The models of the recipes; empty for the default ones."""

    encoder: str = ""
    decoder: str = ""


def place(name: str, code: str, into: Path | None = None) -> Place:
    """Where the language goes: into the checkout that one is in, else ``into`` or the current folder."""
    from llink.store.registry import packaged_registry, user_registry

    slug = slugged(name) or code.replace("-", "_")
    package = f"llink_{slug}"
    tree = packaged_registry().parent
    if into is None and in_checkout():
        return Place(tree / "languages" / package, tree / "languages", package, packaged_registry(), True)
    root = ((into or Path()) / package.replace("_", "-")).absolute()
    return Place(root, root, package, user_registry(), False)


def in_checkout() -> bool:
    """Whether the current folder is in the source tree that this LLINK is imported from."""
    from llink.store.registry import packaged_registry

    tree = packaged_registry().parent
    return (tree / "languages").is_dir() and Path.cwd().resolve().is_relative_to(tree.resolve())


def slugged(name: str) -> str:
    """A name as part of a Python name: ``haitian_creole``; empty where nothing of it is ASCII."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if unicodedata.category(c) != "Mn")
    words = re.findall(r"[A-Za-z0-9]+", re.sub(r"['’ʻʼ`]", "", plain))
    # A letter that ASCII lacks would leave a stump of the name.
    return "_".join(words).lower() if all(c.isascii() for c in plain if c.isalpha() and c not in "ʻʼ") else ""


def check_free(code: str, code3: str) -> None:
    """Refuse a language that is there already; E222 says what brings it."""
    from llink.plugins import language_origin, languages
    from llink.store.registry import registered_languages

    for entry in languages().values():
        if {entry.code, entry.code3} & {code, code3}:
            raise LlinkError(
                "E222",
                f"{entry.name} ({entry.code}) is there already: {entry.package} ({language_origin(entry.code)}).",
                f"`llink inspect {entry.code}` tells of it; `llink remove-language {entry.code}` takes it out.",
            )
    registered = registered_languages()
    for known in {code, code3} & registered.keys():
        entry_, layer = registered[known]
        raise LlinkError(
            "E222",
            f"{layer.path} names {entry_.package} for '{known}', which cannot be loaded.",
            f"`llink remove-language {known}` takes the entry out.",
        )


def check_place(where: Place, code: str) -> bool:
    """Whether the package is there already, finished but not registered, as after a kill.

    Raises:
        LlinkError: E221 when something else is in the way.
    """
    if os.path.lexists(where.folder):
        if brings(where.root / where.package, code):
            return True
        raise LlinkError("E221", f"{where.folder} exists.", "Give another --name or --into, or move it away first.")
    if importlib.util.find_spec(where.package) is not None:
        raise LlinkError("E221", f"There is a Python package '{where.package}' already.", "Give another --name.")
    return False


def brings(package: Path, code: str) -> bool:
    """Whether the source of a package makes a Language of that code; it is read, not run."""
    try:
        tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError):
        return False
    nodes = list(ast.walk(tree))
    hook = any(isinstance(node, ast.FunctionDef) and node.name == "llink_languages" for node in nodes)
    words = [word for node in nodes if isinstance(node, ast.Call) for word in node.keywords if word.arg == "code"]
    return hook and any(isinstance(word.value, ast.Constant) and word.value.value == code for word in words)


def render(
    language: Language, where: Place, direction: str, prepared: Prepared | None, models: Models
) -> dict[str, str]:
    """The files of the package, path -> text; outside a checkout those of a whole project."""
    folders = {"language": where.package if not where.in_checkout else ""}
    if not where.in_checkout:
        folders["project"] = ""
    values = _values(language, where, direction, prepared, models)
    rendered = {}
    for kind, target in folders.items():
        root = Path(str(files("llink") / "new_language" / "templates" / kind))
        for path in sorted(root.rglob(f"*{TEMPLATE}")):
            name = path.relative_to(root).as_posix().removesuffix(TEMPLATE)
            name = {"gitignore": ".gitignore", "tests/test_language.py": f"tests/test_{values['slug']}.py"}.get(
                name, name
            )
            text = Template(path.read_text(encoding="utf-8")).substitute(values)
            rendered[f"{target}/{name}".lstrip("/")] = text
    return rendered


def write(where: Place, texts: dict[str, str]) -> None:
    """Write the package in one step: whoever finds the folder finds all of it.

    Raises:
        LlinkError: E221 when the folder appeared meanwhile, E112 or E113 when it cannot be written.
    """
    draft = where.folder.with_name(f".{where.folder.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
        for name, text in texts.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if os.path.lexists(where.folder):
            raise LlinkError("E221", f"{where.folder} exists.", "Give another --name or --into, or move it away first.")
        os.rename(draft, where.folder)
    except OSError as error:
        raise write_error(where.folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def register(code: str, where: Place) -> None:
    """Name the package in the registry; E102, E106, E107, E112 as ``llink.store.registry.edit``."""
    from llink.store.registry import edit

    with edit(where.registry) as registry:
        registry.setdefault("languages", {})[code] = where.entry


def reload() -> None:
    """Forget which plugins there are, so that the next question finds the new one."""
    from llink import plugins

    for known in (plugins.manager, plugins.languages):
        known.cache_clear()
    importlib.invalidate_caches()


@contextmanager
def alone(code: str) -> Iterator[None]:
    """Keep other processes from adding the same language at the same time; E221 when one is at it."""
    from filelock import FileLock, Timeout

    locks = ensure_folder(home() / "locks")
    try:
        with FileLock(locks / f"language-{code}.lock", timeout=10):
            yield
    except Timeout:
        raise LlinkError("E221", f"Another process is adding '{code}'.", "Run again when it has ended.") from None


def project_folder(package: Path) -> Path:
    """What ``llink add-language`` made around a package: its project, or the package alone."""
    project = package.parent
    try:
        ours = f'= "{package.name}"' in (project / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        ours = False
    return project if ours and project.name == package.name.replace("_", "-") else package


def delete(folder: Path) -> None:
    """Delete a language's folder; it is out of the way at once, before the files go. E112 when it cannot be."""
    try:
        gone = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(folder, gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise write_error(folder, error) from error


def _values(
    language: Language, where: Place, direction: str, prepared: Prepared | None, models: Models
) -> dict[str, str]:
    """What the templates ask for."""
    rows = [*prepared.train, *prepared.dev] if prepared else []
    counts = Counter((pair.source, pair.licence) for pair in rows)
    chosen = "".join(
        f"{role}:\n  name: {json.dumps(name, ensure_ascii=False)}\n"
        for role, name in (("encoder", models.encoder), ("decoder", models.decoder))
        if name
    )
    title = f"{language.name} ({language.endonym})" if language.endonym else language.name
    example = language.samples[0].foreign if language.samples else "…"
    return {
        "about_samples": _about_samples(language, prepared),
        # Started from an adapter that there is: only for the pair of models that it was trained for.
        "base": "cpu" if chosen else "transfer",
        "start": ", from scratch" if chosen else ", started from an adapter of another language",
        "from_scratch": "init_from: null\n" if chosen else "",
        "code": language.code,
        "code3": language.code3,
        "data": _data_table(prepared, counts, language.code),
        "dev": _dev_sets(prepared, language.code),
        "digits": language.digits,
        "direction": {"rtl": "right to left"}.get(direction, "left to right"),
        "ends": " ".join(language.sentence_ends) or "line breaks only",
        "example": example.replace('"', '\\"'),
        "fields": _fields(language),
        "files": _files(prepared, language.code),
        # Who sorts imports tells a package of one's own from LLINK; in the checkout both are one's own.
        "gap": "" if where.in_checkout else "\n",
        "language": language.code if isinstance(yaml.safe_load(language.code), str) else f'"{language.code}"',
        "models": chosen,
        "name": language.name,
        "package": where.package,
        "project": where.package.replace("_", "-"),
        "samples": _samples(language),
        "scripts": ", ".join(s.capitalize() for s in language.scripts),
        "slug": where.package.removeprefix("llink_"),
        "source_import": ", Source" if language.sources else "",
        "title": title,
        "version": __version__,
    }


def _dev_sets(prepared: Prepared | None, code: str) -> str:
    """The recipes' ``data.dev``."""
    sets = prepared.dev_files if prepared else {"dev": "dev.jsonl.gz"}
    return "".join(f"\n    {name}: {code}/{file}" for name, file in sets.items()) or " {}"


def _files(prepared: Prepared | None, code: str) -> str:
    """The data files that the recipes need, in words."""
    devs = prepared.dev_files.values() if prepared else ["dev.jsonl.gz"]
    *others, last = [f"{code}/{file}" for file in ("train.jsonl.gz", *devs)]
    return f"{', '.join(others)} and {last}" if others else last


def _text(value: str) -> str:
    """A Python string literal."""
    return json.dumps(value, ensure_ascii=False)


def _fields(language: Language) -> str:
    """The arguments of ``Language(…)``, one a line."""
    scripts = ", ".join(map(_text, language.scripts))
    fields = {
        "code": _text(language.code),
        "code3": _text(language.code3),
        "name": _text(language.name),
        "endonym": _text(language.endonym) if language.endonym else "",
        "scripts": f"({scripts},)" if len(language.scripts) == 1 else f"({scripts})",
        "package": "__name__",
        "sentence_ends": _text(language.sentence_ends),
        "digits": "" if language.digits == Language.digits else _text(language.digits),
        "samples": "SAMPLES",
        "sources": _sources(language),
    }
    return "\n".join(f"    {key}={value}," for key, value in fields.items() if value)


def _sources(language: Language) -> str:
    texts = [f"Source({_text(s.name)}, {_text(s.where)}, {_text(s.licence)})" for s in language.sources]
    if len(texts) < 2:
        return f"({texts[0]},)" if texts else ""
    return "(\n" + "".join(f"        {text},\n" for text in texts) + "    )"


def _samples(language: Language) -> str:
    if not language.samples:
        return ": tuple[Sample, ...] = ()"
    rows = []
    for sample in language.samples:
        foreign, english = _text(sample.foreign), _text(sample.english)
        wide = sum(unicodedata.east_asian_width(c) in "WF" for c in foreign)
        short = len(foreign) + len(english) + wide <= LINE
        rows.append(
            f"Sample({foreign}, {english})," if short else f"Sample(\n        {foreign},\n        {english},\n    ),"
        )
    return " = (\n" + "".join(f"    {row}\n" for row in rows) + ")"


def _about_samples(language: Language, prepared: Prepared | None) -> str:
    if not language.samples or prepared is None:
        return f"{language.name} sentences with their English: none yet, such as Sample(foreign, english)."
    texts = {sample.foreign for sample in language.samples}
    origins = sorted({f"{p.source} ({p.licence})" for p in prepared.train if p.foreign in texts})
    shown = ", ".join(origins[:3]) + (" and others" if len(origins) > 3 else "")
    return _one_line(f"{language.name} sentences with their English, out of the training data: {shown}.")


def _one_line(text: str) -> str:
    """Text that stands in a docstring or a table: nothing in it may end that."""
    return " ".join(text.replace("\\", "/").replace('"', "'").replace("|", "/").split())


def _data_table(prepared: Prepared | None, counts: Counter[tuple[str, str]], code: str) -> str:
    if prepared is None:
        return f"None yet. `llink data harvest {code}` collects the translations of free software."
    rows = "".join(
        f"| {_one_line(source)} | {_one_line(licence)} | {n} |\n" for (source, licence), n in counts.most_common()
    )
    return (
        f"{len(prepared.train)} pairs to train on and {len(prepared.dev)} held out, without an English sentence in common.\n\n"
        f"| source | licence | pairs |\n|---|---|---|\n{rows}"
    ).rstrip()
