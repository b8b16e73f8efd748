"""A small hub on loopback, which speaks as the real one does: revisions, ranges, redirects to storage, gates."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STORED_APART = ".safetensors"  # such files come from other storage, at another address


@dataclass
class Asked:
    """A request that the hub had."""

    path: str
    start: int
    token: str | None


@dataclass
class SmallHub:
    """Models by repository and revision; `main` is the revision that is asked for by default."""

    address: str = ""
    storage: str = ""
    revisions: dict[str, dict[str, Path]] = field(default_factory=dict)
    token: str | None = None  # without it nothing is given
    is_gated: bool = False  # the list of files is for everybody then
    cuts: list[int] = field(default_factory=list)  # after so many bytes the next transfers from storage end
    has_ranges: bool = True
    tells_sizes: bool = True
    damaged: set[str] = field(default_factory=set)
    extra: dict[str, int] = field(default_factory=dict)  # files that are listed with a size, and nothing else
    asked: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  # unset: a cut transfer stays open, and is quiet

    def add(self, repository: str, folder: Path, revision: str = "main") -> str:
        """Put a folder on the hub; return its commit."""
        self.revisions.setdefault(repository, {})[revision] = folder
        return self.commit(repository, revision)

    def commit(self, repository: str, revision: str) -> str:
        files = self.revisions[repository][revision]
        return hashlib.sha1("".join(_sha256(path) for path in sorted(files.iterdir())).encode()).hexdigest()

    def find(self, repository: str, revision: str) -> Path | None:
        for name, folder in self.revisions[repository].items():
            if revision in (name, self.commit(repository, name)):
                return folder
        return None

    def transfers(self) -> list[int]:
        """Where each transfer from storage began."""
        return [one.start for one in self.asked if one.path.startswith("/storage/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: SmallHub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_GET(self) -> None:
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        path = self.path.partition("?")[0]
        self.hub.asked.append(Asked(path, start, self.headers.get("Authorization")))
        if path.startswith("/storage/"):
            return self._storage(path.removeprefix("/storage/"), start)
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/revision/(.+))?", path):
            return self._list(found[1], found[2] or "main")
        repository, _, rest = path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        return self._file(repository, revision, name)

    do_HEAD = do_GET  # noqa: N815

    def _refused(self, repository: str, revision: str, is_file: bool) -> bool:
        given, wanted = self.headers.get("Authorization"), f"Bearer {self.hub.token}"
        if repository not in self.hub.revisions:
            self._answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif self.hub.token and given not in (None, wanted):
            self._answer(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif self.hub.token and given is None and (is_file or not self.hub.is_gated):
            self._answer(401, b"", {"X-Error-Code": "GatedRepo" if self.hub.is_gated else "RepoNotFound"})
        elif self.hub.find(repository, revision) is None:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def _list(self, repository: str, revision: str) -> None:
        if self._refused(repository, revision, is_file=False):
            return
        folder = self.hub.find(repository, revision)
        assert folder is not None
        files = [self._entry(path) for path in sorted(folder.iterdir())]
        files += [{"rfilename": name, "size": size} for name, size in self.hub.extra.items()]
        sha = next(one for name, one in self._commits(repository) if self.hub.find(repository, revision) == name)
        self._answer(200, json.dumps({"id": repository, "sha": sha, "siblings": files}).encode(), {})

    def _commits(self, repository: str) -> Iterator[tuple[Path, str]]:
        for name, folder in self.hub.revisions[repository].items():
            yield folder, self.hub.commit(repository, name)

    def _entry(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        if not self.hub.tells_sizes:
            return {"rfilename": path.name}
        entry = {"rfilename": path.name, "size": len(content), "blobId": _blob(content)}
        if path.suffix == STORED_APART:
            entry["lfs"] = {"size": len(content), "sha256": _sha256(path), "pointerSize": 134}
        return entry

    def _file(self, repository: str, revision: str, name: str) -> None:
        if self._refused(repository, revision, is_file=True):
            return
        folder = self.hub.find(repository, revision)
        assert folder is not None
        path = folder / name
        if not path.is_file():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        headers = {"X-Repo-Commit": revision, "ETag": f'"{_blob(content)}"'}
        if path.suffix != STORED_APART:
            return self._answer(200, content, headers)
        headers |= {"Location": f"{self.hub.storage}/storage/{repository}/{revision}/{name}"}
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{_sha256(path)}"'}
        return self._answer(302, b"", headers)

    def _storage(self, path: str, start: int) -> None:
        organization, name, revision, file = path.split("/")
        folder = self.hub.find(f"{organization}/{name}", revision)
        assert folder is not None
        content = (folder / file).read_bytes()
        if file in self.hub.damaged:
            content = bytes(len(content))
        status, headers = 200, {}
        if start and self.hub.has_ranges:
            status, headers = 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content = content[start:]
        if self.command == "GET" and self.hub.cuts:
            self._answer(status, content, headers, send=self.hub.cuts.pop(0))
            self.hub.released.wait(20)
            self.close_connection = True
            return
        self._answer(status, content, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], send: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])

    def log_message(self, *_: Any) -> None:
        pass


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def small_hub() -> Iterator[SmallHub]:
    """A hub that is up within the block, and empty."""
    hub = SmallHub()
    hub.released.set()
    with _served(hub) as hub.address, _served(hub) as hub.storage:
        yield hub


@contextmanager
def _served(hub: SmallHub) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
