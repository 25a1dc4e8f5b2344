"""What a server may be told: who may ask, how much, and for how long."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from llink.errors import LlinkError

KEY, ADMIN_KEY = "LLINK_SERVER_KEY", "LLINK_SERVER_ADMIN_KEY"
SHORTEST = 16
"""Characters of a key; a shorter one can be guessed."""


@dataclass(frozen=True)
class Keys:
    """Keys by the sha256 of each, with the name that logs call its holder by."""

    names: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | None, variable: str) -> Keys:
        """From a file, a key a line with a name before it if there is to be one; else from the environment.

        Raises:
            LlinkError: E552 where the file cannot be read, or a key is too short.
        """
        origin = str(file) if file else variable
        try:
            lines = file.read_text("utf-8").splitlines() if file else [os.environ.get(variable, "")]
        except (OSError, UnicodeDecodeError) as error:
            raise LlinkError("E552", f"{origin} cannot be read as a file of keys: {error}.", "Give another.") from None
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        names = {}
        for number, row in enumerate(rows, 1):
            if len(row) > 2 or len(row[-1]) < SHORTEST:
                raise LlinkError(
                    "E552",
                    f"Key {number} of {origin} is not one word of {SHORTEST} characters or more.",
                    "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
                )
            names[_digest(row[-1])] = row[0] if len(row) == 2 else f"key {number}"
        if file and not names:
            raise LlinkError("E552", f"{origin} has no key.", "Write one on a line of its own.")
        return cls(names)

    def holder(self, key: str) -> str | None:
        """Who has this key; all are looked at, each in constant time."""
        asked, found = _digest(key), None
        for own, name in self.names.items():
            if hmac.compare_digest(own, asked):
                found = name
        return found

    def __bool__(self) -> bool:
        return bool(self.names)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Settings:
    """How a server is run.

    Attributes:
        host, port: where it listens.
        keys: of those who may ask; anyone may where there is none.
        admin: keys of those who may change adapters; nobody may where there is none.
        adapters: folders that adapters may be loaded from while it runs.
        max_bytes: of a request's body. max_chars: of all its texts together.
        max_tokens: of an answer.
        max_requests: answered at once, and by each holder of a key ``per_key``; others are told to come again.
        timeout: seconds that an answer may take. body_timeout: seconds that a request may take to arrive.
        grace: seconds that answers have left once the server is told to end.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=Keys)
    admin: Keys = field(default_factory=Keys)
    adapters: tuple[Path, ...] = ()
    max_bytes: int = 2 << 20
    max_chars: int = 100_000
    max_tokens: int = 1024
    max_requests: int = 128
    per_key: int = 16
    timeout: float = 120.0
    body_timeout: float = 20.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        if not self.loopback and not self.keys:
            raise LlinkError(
                "E551",
                f"On {self.host} anyone could ask, and there is no key.",
                f"Give --keys FILE or {KEY}, or leave --host out.",
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
