"""A chat model behind an OpenAI-compatible endpoint, asked one message at a time at temperature 0."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, TypeVar

from llink.errors import LlinkError

TIMEOUT = 60.0
WAITS = (1.0, 4.0, 15.0)
"""Seconds before each further try."""
Kind = TypeVar("Kind", bound="Endpoint")
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


def is_address(name: str) -> bool:
    """Whether a model's name is the address of an endpoint."""
    return name.startswith(("http://", "https://"))


class Endpoint:
    """A model at an address.

    Args:
        base: address up to and with ``/v1``.
        model: its name there.
        timeout: seconds for one reply.
        waits: seconds before each further try after a timeout, a broken connection, 429 or 5xx.
        key: sent as bearer token where it is not empty.
    """

    role = "model"
    """What it is asked as, for the error that says it cannot be."""
    kept = "answers"
    variable = "LLINK_MODEL_KEY"
    """The environment variable with the endpoint's key, where it wants one."""

    def __init__(
        self, base: str, model: str, *, timeout: float = TIMEOUT, waits: Sequence[float] = WAITS, key: str = ""
    ) -> None:
        self.base, self.model, self.timeout, self.waits, self.key = base.rstrip("/"), model, timeout, waits, key
        self.name = self.signature = f"{self.base}#{model}"

    @classmethod
    def at(cls: type[Kind], address: str, **options: Any) -> Kind:
        """From ``http://HOST/v1#MODEL``; E526 where the model is missing. ``options`` are those of the class."""
        base, _, model = address.partition("#")
        if not model:
            raise LlinkError("E526", f"The address {address} names no model.", "Write it as http://HOST/v1#MODEL.")
        return cls(base, model, key=os.environ.get(cls.variable, ""), **options)

    def reply(self, system: str, user: str, max_tokens: int) -> tuple[str, bool]:
        """The reply to a message, and whether it ended within ``max_tokens``.

        Raises:
            LlinkError: E526 when the model cannot be asked.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        reason = ""
        for wait in (0.0, *self.waits):
            time.sleep(wait)
            try:
                choice = self._post(body)["choices"][0]
                return str(choice["message"]["content"] or ""), choice.get("finish_reason") != "length"
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}{_said(error)}"
                if error.code != 429 and error.code < 500:
                    break
            except TimeoutError:
                reason = f"no reply within {self.timeout:g} s"
            except urllib.error.URLError as error:
                late = isinstance(error.reason, TimeoutError)
                reason = f"no reply within {self.timeout:g} s" if late else f"{error.reason}"
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
                reason = f"not a chat endpoint's reply ({type(error).__name__})"
        raise LlinkError(
            "E526", f"The {self.role} {self.name} cannot be asked: {reason.rstrip('.')}.",
            f"Check the address, the model and {self.variable}, then run again: {self.kept} so far are kept.",
        )  # fmt: skip

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.base}/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {self.key}"} if self.key else {}),
            },
        )
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return json.load(response)


def without_thoughts(reply: str) -> str:
    """A reply without a thinking model's thoughts, which come first and are no part of it."""
    return _THOUGHTS.sub("", reply).strip()


def _said(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, on one line."""
    try:
        text = " ".join(error.read(2000).decode("utf-8", "replace").split())
    except (OSError, http.client.HTTPException):
        return ""
    return f" ({text[:120]})" if text else ""
