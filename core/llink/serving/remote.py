"""A server that ``llink serve`` runs, asked in the place of an engine: the same answers and errors, and nothing to load."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from llink.errors import LlinkError
from llink.serving.answers import Answer

VARIABLE = "LLINK_SERVER_KEY"
"""The environment variable with the server's key, where it wants one."""
TIMEOUT = 600.0
CHARS = 50_000
"""Of the texts of one request; a server takes twice that unless it was told otherwise."""
TRIES = 8
"""How often one is asked again that has too much to do."""


class Server:
    """A server at an address.

    Args:
        address: as ``llink serve`` prints it, ``http://HOST:PORT``.
        key: sent as bearer token where it is not empty; that of ``LLINK_SERVER_KEY`` unless given.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = address.rstrip("/").removesuffix("/v1")
        self.key = os.environ.get(VARIABLE, "") if key is None else key
        if not self.address.startswith(("http://", "https://")):
            raise self._cannot("it is no address", "Write it as http://HOST:PORT.")

    def answer_all(self, texts: Sequence[str | LlinkError], language: str, **options: Any) -> list[Answer]:
        """An answer for each text, in order, as ``llink.serving.answers.answer_all`` gives them.

        Args:
            options: ``task``, ``instruction``, ``max_new_tokens``, ``loop_guard``, ``verbatim``.

        Raises:
            LlinkError: E554 where it cannot be asked, and what is wrong with more than one text.
        """
        answers: list[Answer | None] = [Answer("", error=t) if isinstance(t, LlinkError) else None for t in texts]
        asked = [(number, text) for number, text in enumerate(texts) if isinstance(text, str)]
        while asked:
            size = 0
            part: list[tuple[int, str]] = []
            while asked and (not part or size + len(asked[0][1]) <= CHARS):
                size += len(asked[0][1])
                part.append(asked.pop(0))
            body = {"texts": [text for _, text in part], "language": language, **options}
            for (number, text), row in zip(part, self._post("/v1/answers", body)["answers"], strict=True):
                error = row.pop("error")
                answers[number] = Answer(text, **row, error=LlinkError(**error) if error else None)
        return [answer for answer in answers if answer]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        for left in reversed(range(TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                wait = error.headers.get("Retry-After", "")
                if left and error.code in (429, 503) and wait.isdecimal():
                    time.sleep(min(int(wait), 30))
                    continue
                raise self._said(error) from None
            except TimeoutError:
                raise self._cannot(f"no answer within {TIMEOUT:g} s") from None
            except urllib.error.URLError as error:
                reason = error.reason
                raise self._cannot(getattr(reason, "strerror", None) or str(reason)) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._cannot(f"what it says is no answer ({type(error).__name__})") from None
        raise AssertionError("the last try raises")

    def _said(self, error: urllib.error.HTTPError) -> LlinkError:
        """What the server says is wrong, as one of our errors."""
        try:
            told = json.load(error)["error"]
            return LlinkError(told["code"], told["what"], told["hint"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return self._cannot(f"status {error.code}")

    def _cannot(self, reason: str, todo: str = f"Check the address and {VARIABLE}.") -> LlinkError:
        return LlinkError("E554", f"The server {self.address} cannot be asked: {reason}.", todo)
