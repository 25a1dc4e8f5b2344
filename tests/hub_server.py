"""A server that speaks the few calls of a model hub that are used, from memory: for tests of sharing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pt", ".pkl")


@dataclass
class Repo:
    """Commits of one repository: each its files whole. ``promise`` is what the hub says instead of the truth."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""
    private: bool = False
    gated: bool = False
    promise: dict[str, int] = field(default_factory=dict)
    moved: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        whole = {**self.commits.get(self.head, {}), **files}
        self.head = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        self.commits[self.head] = whole
        return self.head


class Hub:
    """The server; ``asked`` has (method, path, authorization) of every call."""

    def __init__(self, token: str) -> None:
        self.token, self.repos, self.asked = token, {}, []  # type: ignore[var-annotated]
        self.large: dict[str, bytes] = {}
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return parts
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content: Any, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def answer(self) -> None:
        body, url = self.body(), urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.hub.asked.append((self.command, path, self.headers.get("Authorization", "")))
        signed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path == "/api/models":
            return self.listing(query, signed)
        if path == "/api/repos/create":
            return self.create(json.loads(body), signed)
        if match := re.fullmatch(r"/large/(\w+)", path):
            self.hub.large[match[1]] = body
            return self.send(200)
        if match := re.match(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?/(.+)", path):
            return self.of_repo(match[1], match[2], body, signed)
        return self.refuse(404, "EntryNotFound", "no such page")

    def create(self, wanted: dict[str, Any], signed: bool) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if not signed:
            return self.send_json({"error": "Invalid username or password."}, 401)
        if name in self.hub.repos:
            return self.send_json(
                {"error": "You already created this model repo", "url": f"{self.hub.base}/{name}"}, 409
            )
        self.hub.repos[name] = Repo(private=bool(wanted.get("private") or wanted.get("visibility") == "private"))
        self.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.send_json({"url": f"{self.hub.base}/{name}", "name": name})

    def listing(self, query: dict[str, list[str]], signed: bool) -> None:
        found = []
        for name, repo in self.hub.repos.items():
            card = repo.commits[repo.head].get("README.md", b"").decode()
            tags = re.findall(r"^- (\S+)$", card.split("\n---")[0], re.MULTILINE)
            if (
                (not repo.private or signed)
                and set(query.get("filter", [])) <= set(tags)
                and query.get("search", [""])[0] in name
            ):
                found.append(
                    {
                        "_id": "0",
                        "id": name,
                        "tags": tags,
                        "downloads": 3,
                        "private": repo.private,
                        "gated": repo.gated,
                        "lastModified": "2026-01-02T03:04:05.000Z",
                    }
                )
        self.send_json(found)

    def of_repo(self, name: str, rest: str, body: bytes, signed: bool) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not signed):
            return self.refuse(404 if signed else 401, "RepoNotFound", "Repository not found")
        if rest.startswith("revision/"):
            return self.info(repo.moved or name, repo, rest.removeprefix("revision/"))
        if repo.gated and not signed:
            return self.refuse(403, "GatedRepo", f"Access to model {name} is restricted.")
        if match := re.fullmatch(r"resolve/([^/]+)/(.+)", rest):
            return self.file(repo, match[1], match[2])
        if not signed:
            return self.send_json({"error": "Unauthorized"}, 401)
        if rest.startswith("preupload/"):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self.send_json({"files": modes})
        if rest == "info/lfs/objects/batch":
            wanted = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{self.hub.base}/large/{o['oid']}"}}} for o in wanted]
            return self.send_json({"transfer": "basic", "objects": actions})
        if rest.startswith("commit/"):
            files = {}
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.hub.large[line["value"]["oid"]]
            oid = repo.commit(files)
            return self.send_json(
                {"commitOid": oid, "commitUrl": f"{self.hub.base}/{name}/commit/{oid}", "success": True}
            )
        return self.refuse(404, "EntryNotFound", "no such call")

    def info(self, name: str, repo: Repo, revision: str) -> None:
        commit = repo.head if revision in ("main", "HEAD") else revision
        if commit not in repo.commits:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        siblings = []
        for path, content in repo.commits[commit].items():
            size = repo.promise.get(path, len(content))
            large = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}}
            siblings.append({"rfilename": path, "size": size, "blobId": "0", **(large if path.endswith(LARGE) else {})})
        return self.send_json(
            {
                "_id": "0",
                "id": name,
                "sha": commit,
                "private": repo.private,
                "gated": repo.gated,
                "siblings": siblings,
                "lastModified": "2026-01-02T03:04:05.000Z",
                "tags": [],
                "downloads": 0,
            }
        )

    def file(self, repo: Repo, revision: str, path: str) -> None:
        content = repo.commits.get(revision, {}).get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        etag = hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else hashlib.sha1(content).hexdigest()
        return self.send(
            200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": revision, "Content-Type": "application/octet-stream"}
        )
