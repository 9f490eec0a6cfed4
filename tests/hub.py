"""A local server that speaks as much of the model hub's protocol as its client asks for.

Files live in memory, by repository and path. Large ones (safetensors, pickles) are answered as the
hub answers them: metadata by HEAD with `X-Linked-Etag` (their sha256), the bytes by a redirect to
another path, in ranges. It counts requests, and can be told to misbehave.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serve.catalogue import SD_V1

_LARGE = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


@dataclass
class Repository:
    files: dict[str, bytes]
    gated: bool = False
    token: str | None = None

    @property
    def sha(self) -> str:
        """A commit that changes with the content, as a real one does."""
        content = b"".join(
            name.encode() + hashlib.sha256(data).digest() for name, data in self.files.items()
        )
        return hashlib.sha1(content).hexdigest()


@dataclass
class Hub:
    repositories: dict[str, Repository]
    renamed: dict[str, str] = field(default_factory=dict)
    url: str = ""
    storage_url: str = ""
    # Paths whose first download breaks off in the middle, whose bytes are damaged, and whose bytes
    # never come.
    cut_once: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    stalling: threading.Event = field(default_factory=threading.Event)
    # Commits that are still answered, with today's files.
    old_commits: set[str] = field(default_factory=set)
    down: bool = False
    gets: Counter[str] = field(default_factory=Counter)
    bytes_sent: Counter[str] = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)


def published_from(folder: Path) -> dict[str, Repository]:
    """The published repositories' layout, with a family folder's files."""
    repositories: dict[str, Repository] = {}
    with_checker = (folder / "safety_checker").is_dir()
    components = SD_V1.components(SD_V1.default_variants, safety_checker=with_checker)
    for name, component in components.items():
        assert component.source is not None
        repository = repositories.setdefault(component.source.repository, Repository({}))
        prefix = f"{component.source.subfolder}/" if component.source.subfolder else ""
        for path in sorted((folder / name).iterdir()):
            repository.files[prefix + path.name] = path.read_bytes()
    for repository in repositories.values():
        # What every real repository holds, too, and nobody here may ask for.
        repository.files |= {"README.md": b"# A model", "model.ckpt": b"a pickle"}
        for name in [path for path in repository.files if path.endswith(".safetensors")]:
            repository.files[name.replace(".fp16.safetensors", ".bin")] = b"a pickle"
            repository.files[name.replace(".fp16", "")] = b"the same in full precision"
    return repositories


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve on free ports of the loopback address."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ExitStack() as stack:
        # Two, since the client follows a redirect within the hub but not one to its storage.
        hub.url, hub.storage_url = (stack.enter_context(_listening(Handler)) for _ in range(2))
        yield hub


@contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.down:
            self._reply(503, b"down")
        elif path.startswith("/store/"):
            repository, _, name = path.removeprefix("/store/").partition("//")
            self._send(name, self.hub.repositories[repository].files[name])
        elif path.startswith("/api/models/"):
            owner, repository, *rest = path.removeprefix("/api/models/").split("/", 2)
            self._api(
                f"{owner}/{repository}", rest[0].removeprefix("revision/") if rest else "main"
            )
        elif "/resolve/" in path:
            owner, repository, _, revision, name = path.removeprefix("/").split("/", 4)
            self._resolve(f"{owner}/{repository}", revision, name)
        else:  # The client also looks for what not every hub has.
            self._reply(404)

    def _found(self, name: str, revision: str) -> Repository | None:
        authorization = self.headers.get("Authorization")
        self.hub.tokens.add(authorization)
        if name in self.hub.renamed:
            new = self.path.replace(name, self.hub.renamed[name])
            self._reply(307, headers={"Location": new})
            return None
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._reply(401, headers={"X-Error-Code": "RepoNotFound"})
            return None
        if repository.gated and authorization != f"Bearer {repository.token}":
            self._reply(403 if authorization else 401, headers={"X-Error-Code": "GatedRepo"})
            return None
        if revision not in {"main", repository.sha, *self.hub.old_commits}:
            self._reply(404, headers={"X-Error-Code": "RevisionNotFound"})
            return None
        return repository

    def _api(self, name: str, revision: str) -> None:
        repository = self._found(name, revision)
        if repository is None:
            return
        sha = repository.sha if revision == "main" else revision
        siblings: list[dict[str, object]] = []
        for path, content in repository.files.items():
            entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
            if path.endswith(_LARGE):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        body = {"id": name, "modelId": name, "sha": sha, "siblings": siblings}
        self._reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._found(name, revision)
        if repository is None:
            return
        headers = {"X-Repo-Commit": repository.sha if revision == "main" else revision}
        content = repository.files.get(path)
        if content is None:
            self._reply(404, headers={"X-Error-Code": "EntryNotFound", **headers})
        elif path.endswith(_LARGE):
            headers |= {
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.hub.storage_url}/store/{name}//{path}",
            }
            self._reply(302, headers=headers)
        elif self.command == "HEAD":
            etag = hashlib.sha1(content).hexdigest()
            self._reply(200, content, {"ETag": f'"{etag}"', **headers})
        else:
            self._send(path, content, headers)

    def _send(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        """The bytes, from where a range begins; cut or damaged where told."""
        self.hub.gets[path] += 1
        if path in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers, status, begin = dict(headers or {}), 200, 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            begin, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        if path in self.hub.stalled:
            self._reply(status, body, headers, stop_after=len(body) // 2)
            self.hub.stalling.set()
            self.connection.recv(1)  # Until the client is gone.
            self.close_connection = True
        elif path in self.hub.cut_once:
            self.hub.cut_once.remove(path)
            self._reply(status, body, headers, stop_after=len(body) // 2)
            self.close_connection = True
        else:
            self._reply(status, body, headers)
        self.hub.bytes_sent[path] += len(body)

    def _reply(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:stop_after])
