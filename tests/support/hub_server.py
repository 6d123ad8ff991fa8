"""A server on 127.0.0.1 that speaks as much of the Hub's API as its clients ask of it here."""

import base64
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
def serve_hub(root: Path | None, lost: Collection[str] = (), uploads: dict | None = None) -> Iterator[str]:
    """Serve `root`/{models,datasets}/OWNER/NAME/FILES; yield the address for HF_ENDPOINT.

    Without a `root` every answer is 503, as in an outage. The connection is lost in the middle of files whose
    names end in one of `lost`, as long as it is in there. With `uploads` a user with
    a token may write: large files go there by their digests, while it has no more entries than its `limit`,
    and into `root` when they are committed.
    """

    class Handler(_Handler):
        folder = root
        lost_suffixes = lost

    Handler.uploads = uploads

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
    uploads: dict | None
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == "Bearer token"
            self._send(b'{"name": "me", "type": "user"}', "application/json", 200 if known else 401)
        elif parts == [""]:
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
        if self.uploads is not None and self._receive(self.path, body):
            return
        if self.path == "/api/validate-yaml":
            faults = card_faults(json.loads(body)["content"])
            body = json.dumps({"errors": [{"message": fault} for fault in faults], "warnings": []})
            self._send(body.encode(), "application/json", status=400 if faults else 200)
            return
        if self.headers["Content-Type"].startswith("application/json"):
            self.paths = json.loads(body)["paths"]
        else:
            self.paths = parse_qs(body)["paths"]
        self.do_GET()

    def _receive(self, path: str, body: str) -> bool:
        """Answer what an upload asks; return whether this was part of one."""
        name = "/".join(path.split("/")[3:5])
        if path == "/api/repos/create":
            asked = json.loads(body)
            full = f"{asked['organization'] or 'me'}/{asked['name']}"
            (self.folder / "models" / full).mkdir(parents=True, exist_ok=True)
            self.uploads["created"] = asked
            self._json({"url": f"http://{self.headers['Host']}/{full}"})
        elif "/preupload/" in path:
            modes = {True: "lfs", False: "regular"}
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {file: modes[file.endswith((".safetensors", ".png"))] for file in files}
            self._json(
                {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
            )
        elif path.endswith("/info/lfs/objects/batch"):
            store = f"http://{self.headers['Host']}/store"
            objects = json.loads(body)["objects"]
            for entry in objects:
                if entry["oid"] not in self.uploads:
                    entry["actions"] = {"upload": {"href": f"{store}/{entry['oid']}"}}
            self._json({"objects": objects, "transfer": "basic"})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] in ("file", "lfsFile"):
                    file = self.folder / "models" / name / value["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    by_digest = line["key"] == "lfsFile"
                    file.write_bytes(
                        self.uploads[value["oid"]] if by_digest else base64.b64decode(value["content"])
                    )
            self._json(
                {
                    "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "pullRequestUrl": None,
                }
            )
        else:
            return False
        return True

    def do_PUT(self):
        body = self._body()
        if len(self.uploads) > self.uploads["limit"]:
            self._send(b"", status=403)
        else:
            self.uploads[self.path.rpartition("/")[2]] = body
            self._send(b"")

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

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
