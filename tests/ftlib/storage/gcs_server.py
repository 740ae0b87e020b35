"""A small server of GCS's JSON API, for the tests: what our client asks for, and nothing else.

It honours `ifGenerationMatch`, which the emulators that people run ignore; `ignores_conditions` makes it one of those.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from urllib.parse import parse_qs, quote, unquote, urlsplit


@dataclass
class Stored:
    data: bytes
    generation: int
    updated: float
    encoding: str = ""


@dataclass
class Session:
    """An upload under way."""

    bucket: str
    key: str
    condition: str | None
    data: bytes = b""


@dataclass
class GcsServer:
    """Listens on a free port of loopback while the `with` block runs."""

    buckets: dict[str, dict[str, Stored]] = field(default_factory=dict)
    ignores_conditions: bool = False
    tokens: set[str] | None = None
    """Bearer tokens that are taken; None: anyone may."""
    read_only: bool = False
    clock_ahead: float = 0.0
    takes_at_most: int = 2**40
    """Bytes of each request of an upload session: the service may take less than it was sent."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    issued: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.generations = count(1)
        self.sessions: dict[str, Session] = {}

    def put(self, bucket: str, key: str, data: bytes, encoding: str = "") -> None:
        """Write an object as another program would."""
        self.buckets[bucket][key] = Stored(data, next(self.generations), time.time(), encoding)

    def __enter__(self) -> GcsServer:
        handler = type("Bound", (Handler,), {"gcs": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._server.shutdown()
        self._server.server_close()


class Refused(Exception):
    def __init__(self, status: int, message: str, reason: str = "", *, plain: bool = False) -> None:
        error = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
        self.status = status
        self.body = (message if plain else json.dumps({"error": error})).encode()


class Handler(BaseHTTPRequestHandler):
    gcs: GcsServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.gcs.clock_ahead, usegmt=True)

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self._body()
        self.gcs.calls.append((self.command, self.path))
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        try:
            status, headers, answer = self._answer(url.path, asked, body)
        except Refused as refused:
            status, headers, answer = refused.status, {}, refused.body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/token":
            self.gcs.issued += 1
            return _json({"access_token": f"token-{self.gcs.issued}", "expires_in": 3600, "token_type": "Bearer"})
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.gcs.tokens is not None and bearer not in self.gcs.tokens:
            raise Refused(401, "Invalid Credentials", "authError")
        if self.gcs.read_only and self.command != "GET":
            raise Refused(403, "someone does not have storage.objects.create access.\nTo it.", "forbidden")
        if "upload_id" in asked:
            return self._resume(asked["upload_id"], body)
        _, _, names = path.partition("/b/")
        bucket, _, key = names.partition("/o")
        key = unquote(key.removeprefix("/"))
        if bucket not in self.gcs.buckets:
            raise Refused(404, "The specified bucket does not exist.", "notFound", plain="alt" in asked)
        if path.startswith("/upload/"):
            return self._upload(bucket, asked, body)
        objects = self.gcs.buckets[bucket]
        if not key:
            return self._listing(objects, asked)
        with self.gcs.lock:
            if (stored := objects.get(key)) is None:
                raise Refused(404, f"No such object: {bucket}/{key}", "notFound", plain="alt" in asked)
            self._check(asked.get("ifGenerationMatch"), stored)
            if self.command == "DELETE":
                del objects[key]
                return 204, {}, b""
        return self._download(stored) if asked.get("alt") == "media" else _json(_item(key, stored))

    def _check(self, condition: str | None, stored: Stored | None) -> None:
        generation = str(stored.generation if stored else 0)
        if condition is not None and condition != generation and not self.gcs.ignores_conditions:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")

    def _download(self, stored: Stored) -> tuple[int, dict[str, str], bytes]:
        data = stored.data
        if stored.encoding == "gzip" and "gzip" not in self.headers.get("Accept-Encoding", ""):
            data = gzip.decompress(data)  # "decompressive transcoding"
        if "Range" not in self.headers:
            return 200, {}, data
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        if int(first) >= len(data):
            raise Refused(416, "The requested range cannot be satisfied.", "requestedRangeNotSatisfiable", plain=True)
        return 206, {}, data[int(first) : int(last) + 1]

    def _listing(self, objects: dict[str, Stored], asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        entries: dict[str, str | None] = {}  # what is listed, and its object if it is one
        for key in sorted(name for name in list(objects) if name.startswith(prefix)):
            rest = key.removeprefix(prefix)
            cut = rest.find(delimiter) if delimiter else -1
            entries[key if cut < 0 else prefix + rest[: cut + 1]] = key if cut < 0 else None
        names = sorted(name for name in entries if name > asked.get("pageToken", ""))
        page, more = names[: int(asked.get("maxResults", 1000))], len(names) > int(asked.get("maxResults", 1000))
        items = [_item(name, objects[name]) for name in page if entries[name] is not None]
        folders = [name for name in page if entries[name] is None]
        return _json(
            {
                "kind": "storage#objects",
                **({"items": items} if items else {}),
                **({"prefixes": folders} if folders else {}),
                **({"nextPageToken": page[-1]} if more else {}),
            }
        )

    def _upload(self, bucket: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        condition = asked.get("ifGenerationMatch")
        if asked["uploadType"] == "multipart":  # gcsfs's own way
            _, facts, rest, *_ = body.split(b"--==0==", 3)
            data = body.partition(rest.partition(b"\n\n")[0] + b"\n\n")[2].removesuffix(b"\n--==0==--")
            return self._store(bucket, json.loads(facts.partition(b"\n\n")[2])["name"], data, condition)
        key = asked["name"]
        if asked["uploadType"] == "resumable":
            upload = f"upload {len(self.gcs.sessions)}"
            self.gcs.sessions[upload] = Session(bucket, key, condition)
            host = self.headers["Host"]
            return 200, {"Location": f"http://{host}/upload/b/{bucket}/o?upload_id={quote(upload)}"}, b""
        assert asked["uploadType"] == "media"
        return self._store(bucket, key, body, condition)

    def _store(self, bucket: str, key: str, body: bytes, condition: str | None) -> tuple[int, dict[str, str], bytes]:
        with self.gcs.lock:
            self._check(condition, self.gcs.buckets[bucket].get(key))
            self.gcs.put(bucket, key, body)
        return _json(_item(key, self.gcs.buckets[bucket][key]))

    def _resume(self, upload: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        session = self.gcs.sessions.get(upload)
        if session is None:
            raise Refused(404, "No such upload", "notFound")
        if self.command == "DELETE":
            del self.gcs.sessions[upload]
            return 499, {}, b""
        span, _, size = self.headers["Content-Range"].removeprefix("bytes ").partition("/")
        if span != "*":
            first = int(span.partition("-")[0])
            assert first <= len(session.data), "a gap"
            session.data = session.data[:first] + body[: self.gcs.takes_at_most]
        if len(session.data) == int(size):
            return self._store(session.bucket, session.key, session.data, session.condition)
        return 308, {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}, b""


def _item(name: str, stored: Stored) -> dict[str, str]:
    updated = datetime.fromtimestamp(stored.updated, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"name": name, "generation": str(stored.generation), "size": str(len(stored.data)), "updated": updated}


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
