"""Adapters on the hub: one commit a push, a pinned commit a pull, every hash checked. Tokens are huggingface_hub's business."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llink.adapter.sharing.checks import SHARED, check_listing, hashes
from llink.adapter.sharing.metadata import TAG
from llink.errors import LlinkError
from llink.home import write_error
from llink.progress import track

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Found = TypeVar("Found")


@dataclass(frozen=True)
class Listed:
    """A line of `llink search`."""

    repo: str
    languages: tuple[str, ...]
    base: tuple[str, ...]
    licence: str
    downloads: int
    changed: str
    closed: str
    """``private``, ``gated`` or empty."""


def api() -> HfApi:
    """The hub's client, at ``HF_ENDPOINT`` where that is set."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="llink")


def push(folder: Path, repo: str, message: str, private: bool | None = None) -> str:
    """Upload an adapter's files as one commit; returns it. The repository is made where there is none.

    Raises:
        LlinkError: E321 when the hub cannot be reached or refuses, E322 when it has other files afterwards than were sent.
    """
    from huggingface_hub import CommitOperationAdd

    hub = api()

    def send() -> str:
        hub.create_repo(repo, private=private, exist_ok=True)
        adds = [CommitOperationAdd(name, str(folder / name)) for name in SHARED]
        return str(hub.create_commit(repo, adds, commit_message=message).oid)

    commit = _asked(f"push to {repo}", send)
    sent = hashes(folder)
    there = _promised(_info(hub, repo, commit))
    if wrong := [name for name, sha256 in there.items() if name in sent and sent[name] != sha256]:
        raise LlinkError("E322", f"{repo} has another {wrong[0]} than was sent.", "Push again.")
    return commit


def pull(repo: str, revision: str, into: Path) -> tuple[str, dict[str, str]]:
    """Fetch an adapter's files; returns the commit and the sha256 that the hub promises of its large files.

    Raises:
        LlinkError: E321 when it cannot be had, E322 for a file that is not as long as promised, E323 and E324 as
            ``check_listing``, E325 when the repository is now called otherwise.
    """
    hub = api()
    info = _info(hub, repo, revision)
    if info.id != repo:
        raise LlinkError(
            "E325",
            f"The repository {repo} is called {info.id} now, and may be another's.",
            f"If you trust that one: llink pull hub:{info.id}",
        )
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    check_listing(repo, sizes)
    commit, wanted = str(info.sha), [name for name in SHARED if name in sizes]

    def fetch() -> None:
        with track(f"Fetching {repo}", total=sum(sizes[name] for name in wanted), unit="B") as bar:
            for name in wanted:
                hub.hf_hub_download(repo, name, revision=commit, local_dir=into)
                bar(sizes[name])

    _asked(f"fetch {repo}", fetch, into)
    for name in wanted:
        if (size := (into / name).stat().st_size) != sizes[name]:
            raise LlinkError("E322", f"{repo}: {name} has {size:,} bytes of {sizes[name]:,}.", "Fetch it again.")
    return commit, _promised(info)


def search(words: str, language: str = "", limit: int = 20) -> list[Listed]:
    """Adapters on the hub, most downloaded first; E321 when it cannot be asked."""
    tags = [TAG, *([language] if language else [])]

    def ask() -> list[Listed]:
        found = api().list_models(
            filter=tags,
            search=words or None,
            sort="downloads",
            limit=limit,
            expand=["tags", "downloads", "lastModified", "private", "gated"],
        )
        return [_listed(info) for info in found]

    return _asked("search the hub", ask)


def _listed(info: Any) -> Listed:
    tags: Sequence[str] = info.tags or ()
    named = {
        key: tuple(t.removeprefix(f"{key}:") for t in tags if t.startswith(f"{key}:"))
        for key in ("base_model", "license")
    }
    languages = tuple(t for t in tags if re.fullmatch(r"[a-z]{2,3}", t) and t != "en")
    base = tuple(dict.fromkeys(t.rpartition(":")[2] for t in named["base_model"]))
    changed = info.last_modified.date().isoformat() if info.last_modified else ""
    closed = "private" if info.private else "gated" if info.gated else ""
    return Listed(info.id, languages, base, ", ".join(named["license"]), int(info.downloads or 0), changed, closed)


def _info(hub: HfApi, repo: str, revision: str) -> Any:
    return _asked(f"fetch {repo}", lambda: hub.model_info(repo, revision=revision or "main", files_metadata=True))


def _promised(info: Any) -> dict[str, str]:
    """File -> sha256, of the files that the hub keeps as large ones."""
    return {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}


def _asked(what: str, ask: Callable[[], Found], folder: Path | None = None) -> Found:
    """The answer of the hub's client, silently; whatever it trips over is E321, and no token is in it."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return ask()
    except Exception as error:
        if folder and isinstance(error, OSError) and error.errno:
            raise write_error(folder, error) from error
        raise _refused(what, error) from None  # the chain would show the request, and its headers
    finally:
        if not silent:
            enable_progress_bars()


def _refused(what: str, error: Exception) -> LlinkError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        hint = "It is gated: accept its terms on its page, then `hf auth login`."
    elif isinstance(error, errors.RevisionNotFoundError):
        hint = "There is no such revision; leave out @REVISION for the newest."
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        hint = "Check the name; a private repository, and every push, needs `hf auth login` with a token that may."
    elif isinstance(error, errors.OfflineModeIsEnabled):
        hint = "HF_HUB_OFFLINE is set. A folder or a zip works without a hub."
    else:
        hint = "Is the hub reachable (network, HF_ENDPOINT)? A folder or a zip works without one."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return LlinkError(
        "E321", f"Could not {what}: {scrubbed(lines[0] if lines else type(error).__name__).rstrip('.')}.", hint
    )


def scrubbed(text: str) -> str:
    """Without anything that is, or looks like, a token."""
    from huggingface_hub import get_token

    own = get_token()
    plain = text.replace(own, "***") if own else text
    return re.sub(r"\bhf_\w+|(?i:bearer)\s+\S+", "***", plain)[:300]
