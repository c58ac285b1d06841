"""S3 for tests: a server in a process of its own, and one between us and it that spoils answers."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import boto3.session
import pytest


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    """URL of an S3 server in a process of its own; the AWS variables of this process and its children point there."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended at once"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "testing-key")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
                patch.delenv(name, raising=False)
            boto3.session.Session().client("s3").create_bucket(Bucket="test-bucket")
            yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards to the real server; ``faults`` are used up one a request. It may be away for a while."""

    daemon_threads = True
    target = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.seen: list[tuple[str, str]] = []  # method, Range
        self.away = (0, 0.0)  # from which request on, for how many seconds
        self._back = 0.0

    def fault(self) -> str:
        """Of the request that was seen last."""
        now = time.monotonic()
        if len(self.seen) == self.away[0]:
            self._back = now + self.away[1]
        return "reset" if now < self._back else self.faults.pop(0) if self.faults else ""

    @classmethod
    @contextmanager
    def between(cls) -> Iterator[Proxy]:
        """Requests of this process and of its children to the server of AWS_ENDPOINT_URL go through it."""
        server = cls()
        server.target = urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
                yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args: object) -> None:
        del args

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.headers.get("Range", "")))
        fault = self.server.fault()
        if fault in ("503", "500"):
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection(self.server.target)
        upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if fault == "lost":  # it was done, and nobody hears of it
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(data[: len(data) * 3 // 10])
            self.close_connection = True
        elif fault == "corrupt" and data:
            self.wfile.write(bytes([data[0] ^ 1]) + data[1:])
        else:
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward


@contextmanager
def refusing(status: int, code: str, *, region: str = "") -> Iterator[None]:
    """A server that answers all requests of this process with one error, quoting what nobody may repeat."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>testing-secret</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if region:
                self.send_header("x-amz-bucket-region", region)
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            del args

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
