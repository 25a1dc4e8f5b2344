"""An adapter in a zip: packed the same every time, unpacked within bounds and nowhere else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from llink.adapter.sharing.checks import SHARED, check_listing
from llink.errors import LlinkError
from llink.home import write_error

EPOCH = (1980, 1, 1, 0, 0, 0)
BLOCK = 1 << 20


def pack(folder: Path, target: Path) -> None:
    """Write what is shared of an adapter to a zip; the same adapter gives the same bytes. E112, E113."""
    draft = target.with_name(f".{target.name}.new-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(draft, "w") as archive:
            for name in SHARED:
                member = zipfile.ZipInfo(name, EPOCH)
                member.external_attr = 0o644 << 16
                archive.writestr(member, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
        os.replace(draft, target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        draft.unlink(missing_ok=True)


def unpack(path: Path, into: Path) -> None:
    """What is shared of an adapter, out of a zip.

    Raises:
        LlinkError: E320 when there is none, E322 when it is damaged, E323 and E324 as ``check_listing``; what unpacks to
            more than it says is damaged.
    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise LlinkError("E323", f"{where} holds two files of one name.", "Do not use it.")
            check_listing(where, {m.filename: m.file_size for m in members if not m.is_dir()})
            for member in members:
                if member.filename in SHARED:
                    _copy(archive, member, into / member.filename)
    except FileNotFoundError as error:
        raise LlinkError("E320", f"There is no {where}.", "Give a zip, a folder or hub:ORG/NAME.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise LlinkError(
            "E322", f"{where} is cut off or damaged ({' '.join(str(error).split())[:120]}).", "Fetch it again."
        ) from error


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """One member; zipfile stops at the size that the member says, and its CRC must be right there."""
    import zlib

    try:
        with archive.open(member) as packed, target.open("wb") as out:
            while block := packed.read(BLOCK):
                out.write(block)
    except zlib.error as error:
        raise ValueError(f"{member.filename}: {error}") from error
