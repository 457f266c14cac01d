"""A small model hub on loopback: the addresses of the real one that `huggingface_hub` calls for models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_the_right_one"


@dataclass
class Repository:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=list)  # each the whole folder

    @property
    def sha(self) -> str:
        return self.sha_of(len(self.commits))

    def sha_of(self, number: int) -> str:
        return hashlib.sha1(f"commit {number}".encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes] | None:
        by_sha = {self.sha_of(number + 1): files for number, files in enumerate(self.commits)}
        return self.commits[-1] if revision == "main" and self.commits else by_sha.get(revision)


@dataclass
class HubMade:
    """What it holds, and what it has been asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256
    asked: list[str] = field(default_factory=list)
    broken: bool = False


@contextmanager
def hub_made() -> Iterator[HubMade]:
    hub = HubMade()

    class Handler(_Handler):
        made = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    made: HubMade
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.made.asked.append(f"GET {self.path}")
        if self.made.broken:
            return self._answer(503)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", self.path):
            repository = self._repository(found[1])
            files = repository.at(found[2]) if repository else None
            if repository is None or files is None:
                return self._missing(found[1])
            siblings = [{"rfilename": name} for name in sorted(files)]
            sha = repository.sha if found[2] == "main" else found[2]
            return self._answer(200, {"id": found[1], "sha": sha, "siblings": siblings, "private": False, "tags": []})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            repository = self._repository(found[1])
            files = repository.at(found[2]) if repository else None
            return self._answer(200, data=files[found[3]]) if files else self._missing(found[1])
        return self._answer(404)

    def do_PUT(self) -> None:
        data = self._body()
        self.made.objects[hashlib.sha256(data).hexdigest()] = data
        self._answer(200)

    def do_POST(self) -> None:
        self.made.asked.append(f"POST {self.path}")
        body = self._body()
        if self.made.broken:
            return self._answer(503)
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials in Authorization header"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self._answer(200, {"files": modes})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": each["oid"],
                    "size": each["size"],
                    "actions": {"upload": {"href": f"{self.made.url}/store/{each['oid']}", "header": {}}},
                }
                for each in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines() if line])
        return self._answer(404)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if name in self.made.repositories:
            return self._answer(409, {"error": "You already created this model repo", "url": f"{self.made.url}/{name}"})
        self.made.repositories[name] = Repository(wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return self._answer(200, {"url": f"{self.made.url}/{name}"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.made.repositories[name]
        files = dict(repository.commits[-1]) if repository.commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.made.objects[value["oid"]]
        repository.commits.append(files)
        url = f"{self.made.url}/{name}/commit/{repository.sha}"
        self._answer(200, {"success": True, "commitOid": repository.sha, "commitUrl": url})

    def _repository(self, name: str) -> Repository | None:
        """As the real one: what is private is not there for a stranger."""
        found = self.made.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return found if found and (known or not found.private) else None

    def _missing(self, name: str) -> None:
        given = self.headers.get("Authorization")
        if given and given != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials in Authorization header"})
        code = "RepoNotFound" if self._repository(name) is None else "RevisionNotFound"
        return self._answer(
            404 if given or code == "RevisionNotFound" else 401, {"error": code}, headers={"X-Error-Code": code}
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(
        self, status: int, value: object = None, *, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(value or {}).encode() if data is None else data
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
