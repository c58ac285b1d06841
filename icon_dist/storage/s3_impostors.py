"""Answers that no S3 gives: a web console, a proxy's login page or another server behind the endpoint.

They may say 200 to everything. A listing read from one is empty and a write to one is lost, both without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from botocore.response import StreamingBody

OWN = ("x-amz", "x-goog", "x-oss", "x-obs", "x-cos", "x-minio")  # headers of S3 and of stores that are like it
REDIRECTS = (301, 302, 303, 307, 308)


class ForeignAnswerError(Exception):
    """What the host does, as the end of a sentence; ``status`` is HTTP's."""

    def __init__(self, what: str, *, status: int) -> None:
        super().__init__(what)
        self.status = status


def refuse_foreign(*, operation_model: Any, response_dict: Mapping[str, Any], **_: object) -> None:
    """A handler of botocore's event before-parse. Server errors pass: those of proxies are retried like S3's own."""
    status, headers, body = response_dict["status_code"], response_dict["headers"], response_dict["body"]
    missing = status == 404 and operation_model.name in ("GetObject", "HeadObject")  # a listing tells who says so
    if status >= 500 or status == 429 or missing:
        return
    begin = body[:200].lstrip().lower() if isinstance(body, bytes) else b""
    if status in REDIRECTS and "x-amz-bucket-region" not in headers:  # boto3 would ask for the region without an end
        raise ForeignAnswerError(f"sends requests on to {_place(headers.get('Location', ''))}", status=status)
    named = any(name.lower().startswith(OWN) for name in headers)
    typed = headers.get("Content-Type", "").startswith("text/html") and headers.get("Content-Length") != "0"
    listing = operation_model.name.startswith("ListObjects") and status == 200
    if begin.startswith((b"<!doctype html", b"<html")) or (typed and not named and status != 204):
        what = "answers with a web page, not as S3 does"
    elif listing and b"<ListBucketResult" not in body:
        what = "answers with no listing, not as S3 does"
    else:
        return
    if isinstance(body, StreamingBody):
        body.close()
    raise ForeignAnswerError(what, status=status)


def _place(location: str) -> str:
    """Scheme, host and port of a URL, which may have a password and a query."""
    try:
        url = urlsplit(location)
        port = "" if url.port is None else f":{url.port}"
    except ValueError:
        return "another place"
    return f"{url.scheme}://{url.hostname}{port}" if url.hostname else "another place"
