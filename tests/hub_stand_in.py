"""A stand-in for the hub that speaks its upload protocol: create, validate, preupload, LFS batch, PUT, commit.

It keeps what it got, checks hashes as the hub does, and breaks where a test wants it to.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS = (".safetensors", ".gguf")


class Hub:
    """Repositories, and what was asked for.

    `broken` holds answers to give instead: (part of a path, status, how often).
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[tuple[str, list[str]]] = []
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.broken: list[list[Any]] = []
        self.url = ""

    def count(self, part: str) -> int:
        return sum(part in path for _, path in self.requests)


def oid(content: bytes, *, lfs: bool) -> str:
    if lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: Any, **head: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | head).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _any(self) -> None:
        hub, body = self.hub, self._body()
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path))
        if "/upload/" not in path:
            hub.tokens.add(self.headers.get("Authorization", ""))
        for broken in hub.broken:
            if broken[0] in path and broken[2]:
                broken[2] -= 1
                head = {"Retry-After": "1"} if broken[1] == 429 else {}
                self._send(broken[1], {"error": "injected"}, **head)
                return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self._preupload(self._name(path), json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif path.startswith("/upload/"):
            good = hashlib.sha256(body).hexdigest() == path.removeprefix("/upload/")
            if good:
                hub.objects[path.removeprefix("/upload/")] = body
            self._send(200 if good else 400, {})
        elif "/commit/" in path:
            self._commit(self._name(path), body)
        elif path.startswith("/api/models/"):
            self._info(self._name(path))
        else:
            self._send(404, {"error": path})

    do_GET = do_POST = do_PUT = do_HEAD = _any  # noqa: N815

    @staticmethod
    def _name(path: str) -> str:
        return "/".join(path.removeprefix("/api/models/").split("/")[:2])

    def _create(self, asked: Any) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
        if name in self.hub.repositories:
            self._send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self._send(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def _info(self, name: str) -> None:
        if name not in self.hub.repositories:
            self._send(404, {"error": "not found"}, **{"X-Error-Code": "RepoNotFound"})
            return
        sha = hashlib.sha1(str(len(self.hub.commits)).encode(), usedforsecurity=False).hexdigest()
        self._send(200, {"id": name, "modelId": name, "sha": sha, "private": self.hub.private[name], "tags": [],
                         "siblings": [{"rfilename": path} for path in self.hub.repositories[name]]})  # fmt: skip

    def _preupload(self, name: str, asked: Any) -> None:
        found = self.hub.repositories[name]
        files = []
        for file in asked["files"]:
            path = file["path"]
            lfs = path.endswith(LFS)
            known = {"oid": oid(found[path], lfs=lfs)} if path in found else {}
            files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **known})
        self._send(200, {"files": files})

    def _batch(self, asked: Any) -> None:
        objects = []
        for one in asked["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}", "header": {}}}
            objects.append(one if one["oid"] in self.hub.objects else {**one, "actions": actions})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        new = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] in self.hub.objects:
                new[value["path"]] = self.hub.objects[value["oid"]]
            else:
                self._send(400, {"error": "an object is missing"})
                return
        self.hub.repositories[name] |= new
        self.hub.commits.append((name, sorted(new)))
        sha = hashlib.sha1(str(len(self.hub.commits)).encode(), usedforsecurity=False).hexdigest()
        self._send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """The stand-in, reachable at `url`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
