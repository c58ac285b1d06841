"""The bytes of an object behind ``s3://``: a body that is cut or spoilt is asked for again, from where it broke."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from io import BufferedRandom, BytesIO
from typing import Any

from botocore import exceptions as boto

from icon_dist.errors import StorageError, TooLargeError, note_once
from icon_dist.storage.retry import Clock, persist
from icon_dist.storage.s3_client import client, endpoint, identity
from icon_dist.storage.s3_errors import status_of

CHUNK = 1 << 20
DOUBT = 6  # times a body comes the same, until it is its ETag that is doubted

_other_etags: set[tuple[object, ...]] = set()  # clients whose store has ETags that are no MD5

Sink = BytesIO | BufferedRandom
Answer = dict[str, Any]  # of boto3


def address(uri: str) -> dict[str, str]:
    """Bucket and key of an object, as boto3 takes them. StorageError where ``uri`` is a whole bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not key:
        raise StorageError(f"{uri}: names a bucket, not an object; write s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


def download(
    uri: str,
    sink: Sink,
    *,
    start: int = 0,
    size: int | None = None,
    most: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Bytes ``[start, start + size)`` into ``sink``, after what it holds of them already.

    A body that breaks off is resumed where it broke. TooLargeError for one that, unasked, has more than ``most`` bytes.
    """
    if size == 0:
        return
    version = ""  # that was begun: two must not be spliced
    readings: list[str] = []  # MD5s of bodies whose ETag is another

    def restarted() -> boto.IncompleteReadError:
        """To be raised: all is read again, as if the body had been cut at its first byte."""
        sink.seek(0)
        sink.truncate()
        return boto.IncompleteReadError(actual_bytes=0, expected_bytes=size or -1)

    def fetch(clock: Clock) -> None:
        """Append to ``sink`` what it does not hold yet; a body that is cut or has changed raises a transient error."""
        nonlocal version
        at, end = start + sink.tell(), None if size is None else start + size
        if at == end:
            return
        options = {"Range": f"bytes={at}-{'' if end is None else end - 1}"} if at or end else {}
        try:
            answer = client().get_object(**address(uri), **options)
        except boto.ClientError as error:
            if status_of(error) == 416:
                return  # at or past the end, where a file too would give no more bytes
            raise
        with closing(answer["Body"]) as body:
            same, version = version, str(answer.get("ETag") or answer.get("LastModified") or "")
            if sink.tell() and same and same != version:
                raise restarted()
            skip = _before(uri, answer, at) if options else 0
            if most is not None and size is None and at - start + (answer.get("ContentLength") or 0) > most:
                raise TooLargeError(uri, most=most)
            try:
                for chunk in body.iter_chunks(CHUNK):
                    skipped, skip = skip, max(0, skip - len(chunk))
                    sink.write(chunk[skipped:] if end is None else chunk[skipped : skipped + end - start - sink.tell()])
                    clock.progress(sink.tell())
                    if progress and len(chunk) > skipped:
                        progress(sink.tell())
                    if start + sink.tell() == end:
                        break
            except boto.FlexibleChecksumError:
                raise restarted() from None
        if not start and end is None and not _as_stored(answer, sink, readings):
            raise restarted()

    persist(uri, fetch)


def _before(uri: str, answer: Answer, at: int) -> int:
    """Bytes of the body that lie before ``at``: none, or all of them where the store ignores Range."""
    if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
        note_once(f"{endpoint().host} ignores Range: parts are read with all that is before them, which is slow")
        return at
    if not re.match(rf"bytes[ =]{at}-", answer.get("ContentRange", f"bytes {at}-")):
        raise StorageError(f"{uri}: the store gives other bytes than those from {at} on; use another store")
    return 0


def _as_stored(answer: Answer, sink: Sink, readings: list[str]) -> bool:
    """Whether a whole body has the MD5 that is its ETag, or comes always the same: then ETags are something else here.

    Not every ETag is one: those of multipart uploads look different, and encryption is said.
    """
    etag = str(answer.get("ETag", "")).strip('"')
    encrypted = "ServerSideEncryption" in answer or "SSECustomerAlgorithm" in answer
    if encrypted or not re.fullmatch(r"[0-9a-f]{32}", etag) or identity() in _other_etags:
        return True
    sink.seek(0)
    readings.append(hashlib.file_digest(sink, lambda: hashlib.md5(usedforsecurity=False)).hexdigest())
    if readings[-1] != etag and readings.count(readings[-1]) == DOUBT:
        _other_etags.add(identity())
        return True
    return readings[-1] == etag
