"""A server on 127.0.0.1 that speaks as much of the Hub's API as its clients ask of it here."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Collection, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.cards import card_faults

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve_hub(root: Path | None, lost: Collection[str] = ()) -> Iterator[str]:
    """Serve `root`/{models,datasets}/OWNER/NAME/FILES; yield the address for HF_ENDPOINT.

    Without a `root` every answer is 503, as in an outage. The connection is lost in the middle of files whose
    names end in one of `lost`, as long as it is in there.
    """

    class Handler(_Handler):
        folder = root
        lost_suffixes = lost

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler if root else _Outage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Outage(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    lost_suffixes: Collection[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == [""]:
            self._send(b"")
        elif parts[0] == "api" and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            owner, name, *path = parts[1:] if kind == "datasets" else parts
            file = self.folder / kind / owner / name / "/".join(path[2:])
            if path[:1] == ["resolve"] and file.is_file():
                self._send(file.read_bytes())
            else:
                self._missing("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/validate-yaml":
            faults = card_faults(json.loads(body)["content"])
            self._send("; ".join(faults).encode(), "text/plain", status=400 if faults else 200)
            return
        if self.headers["Content-Type"].startswith("application/json"):
            self.paths = json.loads(body)["paths"]
        else:
            self.paths = parse_qs(body)["paths"]
        self.do_GET()

    def _api(self, kind: str, name: str, rest: list[str]):
        repository = self.folder / kind / name
        if not repository.is_dir():
            self._missing("RepoNotFound")
            return
        entries = [_entry(path, repository) for path in sorted(repository.rglob("*"))]
        if rest[:1] == ["paths-info"]:
            self._json([entry for entry in entries if entry["path"] in self.paths])
        elif rest[:1] == ["tree"]:
            below = "/".join(rest[2:])
            self._json([entry for entry in entries if entry["path"].startswith(f"{below}/" if below else "")])
        else:
            files = [{"rfilename": entry["path"]} for entry in entries if entry["type"] == "file"]
            self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": files})

    def _json(self, answer):
        self._send(json.dumps(answer).encode(), "application/json")

    def _missing(self, code: str):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{self.path} not found")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, content_type: str = "application/octet-stream", status: int = 200):
        start = 0
        if (asked := self.headers.get("Range")) is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(body)}")
            body = body[start : end + 1]
        else:
            self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return
        if urlsplit(self.path).path.endswith(tuple(self.lost_suffixes)):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _entry(path: Path, repository: Path) -> dict:
    entry = {"path": path.relative_to(repository).as_posix(), "type": "directory", "oid": "0" * 40}
    if path.is_file():
        body = path.read_bytes()
        entry |= {"type": "file", "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
    return entry
