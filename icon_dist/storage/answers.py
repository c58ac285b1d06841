"""Answers that no S3 gives: a web console, a proxy's login page or another server behind the endpoint.

They may say 200 to everything. A listing read from one is empty and a write to one is lost, both without an error.
"""

from __future__ import annotations

from typing import Any

from botocore.response import StreamingBody

OWN = ("x-amz", "x-goog", "x-oss", "x-obs", "x-cos", "x-minio")  # headers of S3 and of stores that are like it


class ForeignAnswerError(Exception):
    """What answered, as the end of a sentence; ``status`` is HTTP's."""

    def __init__(self, what: str, *, status: int) -> None:
        super().__init__(what)
        self.status = status


def refuse_foreign(*, operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    """A handler of botocore's event before-parse. Server errors pass: those of proxies are retried like S3's own."""
    status, headers, body = response_dict["status_code"], response_dict["headers"], response_dict["body"]
    if status >= 500 or status == 429:
        return
    begin = body[:200].lstrip().lower() if isinstance(body, bytes) else b""
    named = any(name.lower().startswith(OWN) for name in headers)
    typed = headers.get("Content-Type", "").startswith("text/html") and headers.get("Content-Length") != "0"
    listing = operation_model.name.startswith("ListObjects") and status == 200
    if begin.startswith((b"<!doctype html", b"<html")) or (typed and not named and status != 204):
        what = "a web page"
    elif listing and b"<ListBucketResult" not in body:
        what = "no listing"
    else:
        return
    if isinstance(body, StreamingBody):
        body.close()
    raise ForeignAnswerError(what, status=status)
