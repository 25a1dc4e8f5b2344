"""Packages of PyPI and Debian as sources of text: fetched as files and unpacked; nothing in them is built or run."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llink.errors import LlinkError
from llink.home import ensure_folder, home, write_error

# Names that neither pip nor apt can take for an option, or for a path.
NAMES = {
    "pypi": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9][A-Za-z0-9.!+_-]*)?"),
    "debian": re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9][A-Za-z0-9.+~:-]*)?"),
}
SUFFIXES = {"pypi": (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz"), "debian": (".deb",)}
MAX_FILE = 1 << 26
MAX_UNPACKED = 1 << 30
MAX_ARCHIVE = 1 << 34
"""Bytes of one file taken, of all files taken, and of all files that a stream of them may hold."""
UNKNOWN = "unknown"


def parse(spec: str) -> tuple[str, str]:
    """``pypi:NAME`` as (kind, name); the name may be the path of an archive.

    Raises:
        LlinkError: E215 when it is neither.
    """
    kind, _, name = spec.partition(":")
    if kind in NAMES and (NAMES[kind].fullmatch(name) or name.endswith(SUFFIXES[kind])):
        return kind, name
    raise LlinkError(
        "E215",
        f"'{spec}' names no package.",
        "Write pypi:NAME, pypi:NAME==VERSION or debian:NAME; or, with a file, pypi:FILE.whl, pypi:FILE.tar.gz, debian:FILE.deb.",
    )


def fetch(spec: str) -> Path:
    """The archive of a package, kept in ``downloads`` of LLINK's home; a file named in the package's place is itself.

    Raises:
        LlinkError: E215 for a name that is none, E216 when it cannot be had, E112 and E113 when it cannot be kept.
    """
    kind, name = parse(spec)
    if name.endswith(SUFFIXES[kind]):
        if not (file := Path(name).expanduser()).is_file():
            raise LlinkError("E216", f"The file {file} does not exist.")
        return file
    folder = ensure_folder(home() / "downloads" / kind / name.lower())
    kept = [path for path in folder.iterdir() if path.name.endswith(SUFFIXES[kind])]
    if kept:
        return kept[0]
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as staging:
        fetched = (_fetch_wheel if kind == "pypi" else _fetch_deb)(name, Path(staging))
        try:
            return fetched.replace(folder / fetched.name)
        except OSError as error:
            raise write_error(folder, error) from error


def unpack(archive: Path, into: Path, wanted: Callable[[PurePosixPath], bool]) -> list[Path]:
    """Unpack the regular files that are ``wanted``; returns their paths.

    Links and devices are never made.

    Raises:
        LlinkError: E217 when the archive is damaged, a name in it would leave ``into``, or it holds more than the
            limits allow; E112 and E113 when a file cannot be written.
    """
    taken: list[Path] = []
    total = 0
    for name, open_it in _members(archive):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise _unsafe(archive, f"'{name}' would be written outside of its folder")
        if not wanted(place):
            continue
        with _reading(archive):
            file = open_it()
            data = file.read(MAX_FILE + 1) if file else b""
        total += len(data)
        if len(data) > MAX_FILE or total > MAX_UNPACKED:
            raise _unsafe(archive, "it holds more than anyone needs")
        target = into / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:
            raise write_error(target, error) from error
        taken.append(target)
    return taken


def describe(spec: str, archive: Path, files: Iterable[Path]) -> tuple[str, str]:
    """Source (``pypi:Django==5.2``) and licence of a package, of its archive and the unpacked files."""
    kind, name = parse(spec)
    if kind == "debian":
        fields = _debian_fields(archive)
        texts = [path.read_text("utf-8", "replace") for path in files if path.name == "copyright"]
        version = f"={fields['Version']}" if "Version" in fields else ""
        return f"debian:{fields.get('Package', name)}{version}", next(map(copyright_licence, texts), UNKNOWN)
    described = sorted((path for path in files if path.name in ("METADATA", "PKG-INFO")), key=lambda p: len(p.parts))
    if not described:
        return f"pypi:{name}", UNKNOWN
    metadata = HeaderParser().parsestr(described[0].read_text("utf-8", "replace"))
    return f"pypi:{metadata['Name']}=={metadata['Version']}", metadata_licence(metadata)


def describes(path: PurePosixPath) -> bool:
    """Whether a file of an archive says what the package is and what its licence is."""
    if path.name == "METADATA":
        return path.parent.name.endswith(".dist-info")
    doc = path.name == "copyright" and path.parts[-5:-2] == ("usr", "share", "doc")
    return doc or (path.name == "PKG-INFO" and len(path.parts) == 2)


def metadata_licence(metadata: Any) -> str:
    """The licence that a Python package's metadata states: expression, short text or classifiers."""
    if expression := metadata.get("License-Expression"):
        return " ".join(expression.split())
    text = " ".join((metadata.get("License") or "").split())
    if text and text.upper() != "UNKNOWN" and len(text) <= 60:
        return text
    classifiers = metadata.get_all("Classifier") or []
    stated = [line.split("::")[-1].strip() for line in classifiers if line.startswith("License ::")]
    return ", ".join(stated) or UNKNOWN


def copyright_licence(text: str) -> str:
    """The licence of ``Files: *`` in a Debian copyright file; else the common licences that it points to."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.MULTILINE))
        if fields.get("Files", "").split()[:1] == ["*"] and fields.get("License"):
            return " ".join(fields["License"].split())
    common = dict.fromkeys(name.rstrip(".-") for name in re.findall(r"/usr/share/common-licenses/([\w.+-]+)", text))
    return ", ".join(common) or UNKNOWN


def owners(paths: list[Path], root: Path) -> dict[Path, tuple[str, str]]:
    """Source and licence of installed files below ``root``, by the metadata of Python packages in it and by dpkg."""
    found: dict[Path, tuple[str, str]] = {}
    wanted = {os.path.normpath(path): path for path in paths}
    for package in importlib.metadata.distributions(path=[str(root)]):
        mine = [wanted[place] for file in package.files or () if (place := os.path.normpath(root / file)) in wanted]
        if mine:
            described = f"pypi:{package.metadata['Name']}=={package.version}", metadata_licence(package.metadata)
            found |= dict.fromkeys(mine, described)
    return found | _dpkg_owners([path for path in paths if path not in found])


def _dpkg_owners(paths: list[Path]) -> dict[Path, tuple[str, str]]:
    if not paths or not shutil.which("dpkg-query"):
        return {}
    listed = _run(["dpkg-query", "--search", "--", *map(str, paths)])
    # "base-files:amd64, other: /usr/share/locale/km"
    packages = {
        Path(path): name
        for name, path in re.findall(r"^([a-z0-9][a-z0-9+.-]+)(?::\w+)?(?:, [^/\n]+)?: (/.*)$", listed, re.M)
    }
    if not packages:
        return {}
    format = "--showformat=${Package}\t${Version}\n"
    versions = dict(
        line.split("\t", 1) for line in _run(["dpkg-query", "--show", format, *set(packages.values())]).splitlines()
    )
    licences = {}
    for name in set(packages.values()):
        file = Path("/usr/share/doc") / name / "copyright"
        licences[name] = copyright_licence(file.read_text("utf-8", "replace")) if file.is_file() else UNKNOWN
    return {
        path: (f"debian:{name}" + (f"={versions[name]}" if name in versions else ""), licences[name])
        for path, name in packages.items()
    }


def _fetch_wheel(name: str, staging: Path) -> Path:
    from llink.store.fetch import download_wheel, folder_size, watch

    wheels, scratch = staging / "wheels", staging / "tmp"
    wheels.mkdir()
    scratch.mkdir()
    try:
        with watch(f"Fetching {name}", 0, lambda: folder_size(staging)):
            return download_wheel(name, wheels, scratch)
    except LlinkError as error:
        if error.code != "E111":
            raise
        hint = (
            f"Check name and network. If it has no wheel, fetch its source archive and give that: pypi:{name}.tar.gz."
        )
        raise LlinkError("E216", error.message, hint) from error


def _fetch_deb(name: str, staging: Path) -> Path:
    from llink.store.fetch import folder_size, watch

    if not shutil.which("apt-get"):
        raise LlinkError("E216", f"There is no apt-get here to fetch {name}.", "Fetch the .deb file: debian:FILE.deb.")
    with watch(f"Fetching {name}", 0, lambda: folder_size(staging)):
        result = subprocess.run(
            ["apt-get", "-q", "download", name],
            cwd=staging,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    found = list(staging.glob("*.deb"))
    if result.returncode or not found:
        reasons = [line for line in result.stderr.splitlines() if line.startswith("E: ")]
        reason = reasons[0].removeprefix("E: ") if reasons else "apt-get brought no file"
        raise LlinkError(
            "E216", f"Could not download {name}: {reason.rstrip('.')}.", "Try `apt-get update`, or debian:FILE.deb."
        )
    return found[0]


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes] | None]]]:
    """Name and opener of each regular file."""
    with _reading(archive):
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as packed:
                for entry in packed.infolist():
                    if not entry.is_dir():
                        yield entry.filename, partial(packed.open, entry)
        elif archive.name.endswith(".deb"):
            with _deb_stream(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                yield from _tar_members(archive, tar)
        else:
            with tarfile.open(archive, "r|*") as tar:
                yield from _tar_members(archive, tar)


def _tar_members(archive: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, Callable[[], IO[bytes] | None]]]:
    total = 0
    for entry in tar:
        total += entry.size
        if total > MAX_ARCHIVE:
            raise _unsafe(archive, "it holds more than anyone needs")
        if entry.isfile():
            yield entry.name, partial(tar.extractfile, entry)


@contextmanager
def _deb_stream(archive: Path) -> Iterator[IO[bytes]]:
    """The files of a Debian package as a tar stream, unpacked by dpkg-deb, which runs none of its scripts."""
    if not shutil.which("dpkg-deb"):
        raise LlinkError("E216", f"There is no dpkg-deb here to unpack {archive.name}.", "Run it on Debian or Ubuntu.")
    command = ["dpkg-deb", "--fsys-tarfile", str(archive.absolute())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        tarfile.TarError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise _unsafe(archive, f"it is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


def _unsafe(archive: Path, reason: str) -> LlinkError:
    return LlinkError("E217", f"{archive.name} is not unpacked: {reason.rstrip('.')}.")


def _debian_fields(archive: Path) -> dict[str, str]:
    listed = _run(["dpkg-deb", "--field", str(archive.absolute()), "Package", "Version"])
    return dict(re.findall(r"^(\w+): (.+)$", listed, re.MULTILINE))


def _run(command: list[str]) -> str:
    """What a command prints; what it does not know, it leaves out with an exit status that says so."""
    result = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    return result.stdout
