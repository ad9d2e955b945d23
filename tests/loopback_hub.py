"""A server on this machine that speaks the hub's endpoints, for one repository in memory."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "a" * 40
OTHER = "b" * 40


class Hub:
    """Its files by commit, its branches, and what it was asked for (`requests`: method, path, Range header)."""

    def __init__(self, files: dict[str, bytes], repository: str = "org/tiny"):
        self.repository = repository
        self.commits = {COMMIT: dict(files)}
        self.branches = {"main": COMMIT}
        self.requests: list[tuple[str, str, str | None]] = []
        self.gated = False
        self.broken = False
        self.cut: dict[str, int] = {}
        """File → bytes after which its next download breaks off."""
        self.failing: set[str] = set()
        """Files whose contents cannot be had."""
        self.url = ""

    def fetched(self) -> list[str]:
        """Names of the files whose contents were asked for, in alphabetical order."""
        contents = (path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path)
        return sorted({path.split("/resolve/")[1].split("/", 1)[1] for path in contents})

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path.split("?")[0])
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if hub.broken:
                return self.fail(500, "")
            name = re.escape(hub.repository)
            if not re.search(rf"^(/api/models)?/{name}(/|$)", path):
                return self.fail(401, "RepoNotFound")
            if info := re.fullmatch(rf"/api/models/{name}(?:/revision/(.+))?", path):
                return self.info(info.group(1) or "main")
            if tree := re.fullmatch(rf"/api/models/{name}/tree/([^/]+)", path):
                return self.tree(tree.group(1))
            if file := re.fullmatch(rf"/{name}/resolve/([^/]+)/(.+)", path):
                return self.file(file.group(1), file.group(2), body)
            return self.fail(404, "EntryNotFound")

        def fail(self, status: int, code: str) -> None:
            self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def info(self, revision: str) -> None:
            commit = hub.commit_of(revision)
            if commit is None:
                return self.fail(404, "RevisionNotFound")
            files = [{"rfilename": name} for name in hub.commits[commit]]
            return self.json({"id": hub.repository, "sha": commit, "siblings": files, "tags": [], "private": False})

        def tree(self, revision: str) -> None:
            commit = hub.commit_of(revision)
            if commit is None:
                return self.fail(404, "RevisionNotFound")
            return self.json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                    for name, content in hub.commits[commit].items()
                ]
            )

        def json(self, value: object) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def file(self, revision: str, name: str, body: bool) -> None:
            commit = hub.commit_of(revision)
            if hub.gated:
                return self.fail(403, "GatedRepo")
            if commit is None or name not in hub.commits[commit]:
                return self.fail(404, "EntryNotFound" if commit else "RevisionNotFound")
            content = hub.commits[commit][name]
            headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if not body:
                return self.send(200, content, headers)
            if name in hub.failing:
                return self.fail(500, "")
            status, wanted = 200, content
            if given := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                first = int(given.group(1))
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                status, wanted = 206, content[first:]
            cut = hub.cut.pop(name, None)
            if cut is not None:
                self.close_connection = True
                return self.send(status, wanted[:cut], headers, length=len(wanted))
            return self.send(status, wanted, headers)

    return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of this machine, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
