"""A small S3 in memory with the habits of stores that are not AWS, each by a name; or that always says the same no."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

PAGE = 3  # objects of a page of a listing
CHECKSUMS = {  # how stores older than boto3's default checksums refuse them
    "checksums are a bad signature": (403, "SignatureDoesNotMatch"),
    "checksums are not implemented": (501, "NotImplemented"),
    "checksums are another hash": (400, "XAmzContentSHA256Mismatch"),
    "checksums are a bad argument": (400, "InvalidArgument"),
}
HABITS = [
    *CHECKSUMS,
    "no etags",
    "etags of its own",
    "ignores range",
    "ignores if-none-match",
    "refuses if-none-match",
    "conflicts",
    "slows down",
    "no multipart",
    "larger parts",
    "no listing version 2",
    "answers with version 1",
    "empty pages",
    "url-encoded keys",
    "lists nothing yet",
    "lists manifests late",
    "nothing to delete is 404",
    "spoils a body once",
    "cuts a body once",
]


class Store(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, habit: str, always: tuple[int, dict[str, str], bytes] | None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.habit, self.always = habit, always
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.once: set[tuple[str, str]] = set()  # what was spoilt already
        self.seen: list[tuple[str, str]] = []  # method, path
        self.lock = threading.Lock()

    def first(self, method: str, path: str) -> bool:
        with self.lock:
            new = (method, path) not in self.once
            self.once.add((method, path))
            return new


@contextmanager
def store(habit: str = "", *, always: tuple[int, dict[str, str], bytes] | None = None) -> Iterator[Store]:
    """Requests of this process go there, to any bucket; ``always`` is (status, headers, body) of every answer."""
    with Store(habit, always) as server, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Store

    def log_message(self, *args: object) -> None:
        del args

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        _, self.bucket, *rest = unquote(url.path).split("/", 2)
        self.key = rest[0] if rest else ""
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path))
        if self.server.always is not None:
            status, headers, body = self.server.always
            self.answer(status, body, headers)
            return
        if refused := self.refusal():
            self.error(*refused)
            return
        calls = {"GET": self.listed if not self.key else self.got, "HEAD": self.got, "PUT": self.put}
        calls |= {"POST": self.posted, "DELETE": self.deleted}
        calls[self.command]()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def refusal(self) -> tuple[int, str] | None:
        habit, writes = self.server.habit, self.command in ("PUT", "POST")
        checksum = any(re.match("x-amz-(checksum|trailer|sdk-checksum)", name.lower()) for name in self.headers)
        if habit in CHECKSUMS and writes and checksum:
            return CHECKSUMS[habit]
        if habit == "refuses if-none-match" and "If-None-Match" in self.headers:
            return 501, "NotImplemented"
        if habit == "no multipart" and {"uploads", "uploadId"} & set(self.query):
            return 501, "NotImplemented"
        if habit == "larger parts" and self.command == "POST" and "uploadId" in self.query:
            return 400, "EntityTooSmall"
        if habit == "no listing version 2" and "list-type" in self.query:
            return 501, "NotImplemented"
        if habit == "deletes nothing" and self.command == "DELETE":
            return 501, "NotImplemented"
        if habit == "conflicts" and writes and self.server.first(self.command, ""):
            return 409, "OperationAborted"
        if habit == "slows down" and self.server.first(self.command, ""):
            return 503, "SlowDown"
        return None

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, cut: int = 0) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) - cut])
            self.close_connection = bool(cut)

    def xml(self, text: str, status: int = 200) -> None:
        self.answer(status, f'<?xml version="1.0"?>{text}'.encode(), {"Content-Type": "application/xml"})

    def error(self, status: int, code: str) -> None:
        self.xml(f"<Error><Code>{code}</Code><Message>m</Message></Error>", status)

    def etag(self, data: bytes) -> dict[str, str]:
        habit = self.server.habit
        if habit == "no etags":
            return {}
        digest = hashlib.md5(b"salt" * (habit == "etags of its own") + data, usedforsecurity=False)
        return {"ETag": f'"{digest.hexdigest()}"'}

    def got(self) -> None:
        data, habit = self.server.objects.get(self.key), self.server.habit
        if data is None:
            self.error(404, "NoSuchKey")
            return
        headers, status, body = {**self.etag(data), "Content-Type": "binary/octet-stream"}, 200, data
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and habit != "ignores range":
            start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if start >= len(data):
                self.error(416, "InvalidRange")
                return
            status, body = 206, data[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        reads = self.command == "GET" and bool(body)
        if habit == "spoils a body once" and reads and self.server.first("GET", self.key):
            body = bytes([body[0] ^ 1]) + body[1:]
        cut = habit == "cuts a body once" and reads and self.server.first("GET", self.key)
        self.answer(status, body, headers, cut=len(body) // 2 if cut else 0)

    def put(self) -> None:
        if "partNumber" in self.query:
            self.server.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
            self.answer(200, headers=self.etag(self.body))
            return
        conditional = "If-None-Match" in self.headers and self.server.habit != "ignores if-none-match"
        with self.server.lock:
            taken = conditional and self.key in self.server.objects
            if not taken:
                self.server.objects[self.key] = self.body
        if taken:
            self.error(412, "PreconditionFailed")
        else:
            self.answer(200, headers=self.etag(self.body))

    def posted(self) -> None:
        if "uploads" in self.query:
            name = str(len(self.server.uploads))
            self.server.uploads[name] = {}
            self.xml(f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")
        elif "uploadId" in self.query:
            parts = self.server.uploads[self.query["uploadId"]]
            self.server.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
            self.xml("<CompleteMultipartUploadResult><ETag>&quot;1-2&quot;</ETag></CompleteMultipartUploadResult>")
        else:
            self.error(501, "NotImplemented")  # deleting many at once

    def deleted(self) -> None:
        there = self.server.objects.pop(self.key, None) is not None
        if there or self.server.habit != "nothing to delete is 404":
            self.answer(204)
        else:
            self.error(404, "NoSuchKey")

    def listed(self) -> None:
        habit, query = self.server.habit, self.query
        version2 = "list-type" in query and habit != "answers with version 1"
        after = query.get("continuation-token", "") if version2 else query.get("marker", "")
        found = sorted(key for key in self.server.objects if key.startswith(query.get("prefix", "")) and key > after)
        if habit == "lists nothing yet":
            found = []
        if habit == "lists manifests late":
            found = [key for key in found if not key.endswith("MANIFEST.json")]
        count = min(PAGE, int(query.get("max-keys", PAGE)))
        page, more = found[:count], len(found) > count
        if habit == "empty pages" and found and self.server.first(after, query.get("prefix", "")):
            page, more = [], True
            following = after + "\x01" if after else " "  # before all that is still to come
        else:
            following = page[-1] if page else ""
        shown = [quote(key, safe="") if habit == "url-encoded keys" else escape(key) for key in page]
        items = "".join(
            f"<Contents><Key>{name}</Key><Size>{len(self.server.objects[key])}</Size></Contents>"
            for name, key in zip(shown, page, strict=True)
        )
        token = f"<NextContinuationToken>{escape(following)}</NextContinuationToken>" if version2 and more else ""
        self.xml(f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>")
