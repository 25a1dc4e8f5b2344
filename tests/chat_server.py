"""An OpenAI-compatible chat endpoint for tests, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """A chat endpoint of this process: ``reply`` makes a message, a whole choice, or a status, out of the user's message."""

    def __init__(self, reply: Callable[[str], str | int | dict[str, Any]]) -> None:
        self.reply = reply
        self.raw: bytes | None = None
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.release = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requests.append(body)
                owner.keys.append(self.headers.get("Authorization"))
                said = owner.reply(body["messages"][-1]["content"])
                choice = said if isinstance(said, dict) else {"message": {"content": said}}
                content = json.dumps({"choices": [choice]}).encode()
                status = said if isinstance(said, int) else 200
                content = b'{"error": "as asked"}' if status != 200 else owner.raw or content
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client has gone

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
