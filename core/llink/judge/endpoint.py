"""A judge behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from llink.errors import LlinkError
from llink.judge import FIRST, SECOND, SYSTEM, TIE, UNCLEAR, Comparison, Judge

KEY = "LLINK_JUDGE_KEY"
"""The environment variable with the endpoint's key, where it wants one."""
TIMEOUT = 60.0
WAITS = (1.0, 4.0, 15.0)
"""Seconds before each further try."""
# A thinking model's thoughts come first and are not its reply.
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_REPLY = re.compile(r"\W*(?:answer\W+)?(a|b|tie)\b", re.IGNORECASE)


class EndpointJudge(Judge):
    """Asks one comparison at a time, at temperature 0.

    Args:
        base: address up to and with ``/v1``.
        model: its name there.
        timeout: seconds for one reply.
        waits: seconds before each further try after a timeout, a broken connection, 429 or 5xx.
    """

    def __init__(
        self, base: str, model: str, *, timeout: float = TIMEOUT, waits: Sequence[float] = WAITS, key: str = ""
    ) -> None:
        self.base, self.model, self.timeout, self.waits, self.key = base.rstrip("/"), model, timeout, waits, key
        self.name = self.signature = f"{self.base}#{model}"

    @classmethod
    def at(cls, address: str) -> EndpointJudge:
        """From ``http://HOST/v1#MODEL``; E526 where the model is missing."""
        base, _, model = address.partition("#")
        if not model:
            raise LlinkError("E526", f"The address {address} names no model.", "Write it as http://HOST/v1#MODEL.")
        return cls(base, model, key=os.environ.get(KEY, ""))

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[str]:
        """See ``Judge``; ``unclear`` where the reply is none of the three words."""
        return [read(self._reply(comparison.prompt)) for comparison in comparisons]

    def _reply(self, prompt: str) -> str:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 8}
        reason = ""
        for wait in (0.0, *self.waits):
            time.sleep(wait)
            try:
                answer = self._post(body)
                return str(answer["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}{_said(error)}"
                if error.code != 429 and error.code < 500:
                    break
            except TimeoutError:
                reason = f"no reply within {self.timeout:g} s"
            except urllib.error.URLError as error:
                late = isinstance(error.reason, TimeoutError)
                reason = f"no reply within {self.timeout:g} s" if late else f"{error.reason}"
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                reason = f"not a chat endpoint's reply ({type(error).__name__})"
        raise LlinkError(
            "E526", f"The judge {self.name} cannot be asked: {reason.rstrip('.')}.",
            f"Check the address, the model and {KEY}, then run again: verdicts so far are kept.",
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


def read(reply: str) -> str:
    """The verdict in a reply: it must begin with the word."""
    found = _REPLY.match(_THOUGHTS.sub("", reply))
    return {"a": FIRST, "b": SECOND, "tie": TIE}[found[1].lower()] if found else UNCLEAR


def _said(error: urllib.error.HTTPError) -> str:
    """What the server says of an error, on one line."""
    try:
        text = " ".join(error.read(2000).decode("utf-8", "replace").split())
    except (OSError, http.client.HTTPException):
        return ""
    return f" ({text[:120]})" if text else ""
