"""Objects behind ``s3://``, by boto3: what it does not retry itself (a cut or corrupt body) is retried here.

The endpoint, region, profile and credentials come from the usual AWS variables and files, never from a config of ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from io import BufferedRandom, BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.config
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from icon_dist.errors import StorageError, TooLargeError

PATIENCE_S = 60.0  # of uninterrupted failure; any byte that arrives starts the clock again
FIRST_PATIENCE_S = 8.0  # before the endpoint has answered once: then it is more likely misspelt than down
CHUNK = 1 << 20
MULTIPART = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=32 << 20, max_concurrency=4)

T = TypeVar("T")
_answered: set[tuple[int, str]] = set()  # (process, endpoint) pairs that have worked


@lru_cache(maxsize=1)
def _client_of(process: int, endpoint: str | None) -> Any:
    del process  # in the key only: a connection must not cross a fork
    # Path addressing behind a custom endpoint: MinIO, Ceph and moto have no DNS name for each bucket.
    style = {"addressing_style": "path"} if endpoint else {}
    config = botocore.config.Config(
        connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 2}, s3=style
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError:
        raise StorageError("AWS_ENDPOINT_URL is not a URL; write http(s)://host:port") from None


def _client() -> Any:
    return _client_of(os.getpid(), os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _split(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not key:
        raise StorageError(f"{uri}: names a bucket, not an object; write s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


def _code(error: BaseException) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto.ClientError) else ""


def _status(error: BaseException) -> int:
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _transient(error: BaseException) -> bool:
    if isinstance(error, boto.ClientError):
        passing = {"SlowDown", "RequestTimeout", "Throttling", "ConditionalRequestConflict", "BadDigest"}
        return _status(error) >= 500 or _status(error) == 429 or _code(error) in passing
    if isinstance(error, boto.SSLError | boto.ProxyConnectionError):
        return False
    broken = (boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError, ResponseParserError)
    return isinstance(error, broken)


def _explain(uri: str, error: Exception, *, waited_s: float) -> Exception:
    """One line for the user; never the text of boto3, which may quote URLs and headers."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    code, status = _code(error), _status(error)
    if code in ("NoSuchKey", "404") or status == 416:
        return FileNotFoundError(f"{uri}: no such object")
    if code == "NoSuchBucket":
        return StorageError(f"{uri}: bucket {bucket!r} does not exist; create it or correct the name")
    if code in ("301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        assert isinstance(error, boto.ClientError)
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region") or "its region"
        return StorageError(f"{uri}: bucket {bucket!r} is in another region; set AWS_REGION to {region}")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        return StorageError(f"{uri}: the AWS credentials are refused ({code}); renew them")
    if status == 403:
        return StorageError(f"{uri}: access denied (403); these credentials may not do this, or the key is missing")
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return StorageError(f"{uri}: no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    if isinstance(error, boto.ProfileNotFound):
        return StorageError(f"{uri}: AWS_PROFILE names a profile that does not exist; correct or unset it")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        host = urlsplit(_client().meta.endpoint_url)
        where = host.hostname if host.port is None else f"{host.hostname}:{host.port}"
        return StorageError(f"{uri}: {where} does not answer ({waited_s:.0f} s); check AWS_ENDPOINT_URL")
    what = f"{code} (HTTP {status})" if code else type(error).__name__
    return StorageError(f"{uri}: S3 failed with {what}, retried for {waited_s:.0f} s; try again later")


class _Persistence:
    """When to give up: the clock runs from the first failure, and starts again with every sign of progress."""

    def __init__(self) -> None:
        self.failing_since: float | None = None
        self.failures = 0

    def progress(self) -> None:
        self.failing_since = None

    def waited_s(self) -> float:
        return 0.0 if self.failing_since is None else time.monotonic() - self.failing_since

    def give_up(self, state: RetryCallState) -> bool:
        del state
        self.failures += 1
        self.failing_since = self.failing_since or time.monotonic()
        patience = PATIENCE_S if _endpoint() in _answered else FIRST_PATIENCE_S
        return self.waited_s() > patience


def _endpoint() -> tuple[int, str]:
    return os.getpid(), _client().meta.endpoint_url


def _persist(uri: str, call: Callable[[_Persistence], T]) -> T:
    """``call`` until it works, fails for good, or the patience is over."""
    clock = _Persistence()
    retrying = Retrying(
        stop=clock.give_up,
        wait=wait_exponential(multiplier=0.1, max=5.0) + wait_random(0.0, 0.1),
        retry=retry_if_exception(_transient),
        reraise=True,
    )
    try:
        result = retrying(call, clock)
        _answered.add(_endpoint())
        return result
    except (boto.BotoCoreError, boto.ClientError, ResponseParserError) as error:
        raise _explain(uri, error, waited_s=clock.waited_s()) from None


def _first_below(uri: str, prefix: str) -> bool:
    bucket = uri.removeprefix("s3://").partition("/")[0]
    page = _persist(uri, lambda _: _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1))
    return bool(page["KeyCount"])


def _head(uri: str) -> dict[str, Any] | None:
    """None for 404: HEAD has no body, so the caller lists to learn whether it is the bucket that is missing."""

    def head(_: _Persistence) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = _client().head_object(**_split(uri))
            return found
        except boto.ClientError as error:
            if _status(error) == 404:
                return None
            raise

    return _persist(uri, head)


def exists(uri: str) -> bool:
    key = uri.removeprefix("s3://").partition("/")[2]
    return bool(key and _head(uri)) or _first_below(uri, key and key + "/")


def size(uri: str) -> int:
    head = _head(uri)
    if head is None:
        _first_below(uri, _split(uri)["Key"])
        raise FileNotFoundError(f"{uri}: no such object")
    return int(head["ContentLength"])


def download(
    uri: str,
    sink: BytesIO | BufferedRandom,
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
    etag = ""  # of the version that was begun: two versions must not be spliced

    def fetch(clock: _Persistence) -> None:
        nonlocal etag
        at = start + sink.tell()
        if size is not None and at == start + size:
            return
        last = "" if size is None else str(start + size - 1)
        extra = {"Range": f"bytes={at}-{last}"} if at or last else {}
        if etag and sink.tell():
            extra["IfMatch"] = etag
        try:
            answer = _client().get_object(**_split(uri), **extra)
            if most is not None and size is None and sink.tell() + answer["ContentLength"] > most:
                raise TooLargeError(uri, most=most)
            etag = answer["ETag"]
            with closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(CHUNK):
                    sink.write(chunk)
                    clock.progress()
                    if progress:
                        progress(sink.tell())
        except (boto.FlexibleChecksumError, boto.ClientError) as error:
            if isinstance(error, boto.ClientError) and _status(error) == 416:
                return  # at or past the end, where a file too would give no more bytes
            replaced = _status(error) == 412
            if replaced or isinstance(error, boto.FlexibleChecksumError):
                sink.seek(0)
                sink.truncate()
            if replaced:
                raise boto.IncompleteReadError(actual_bytes=0, expected_bytes=size or -1) from error  # again, as broken
            raise

    _persist(uri, fetch)


def write(uri: str, data: bytes | Path) -> None:
    def put(_: _Persistence) -> None:
        with open(data, "rb") if isinstance(data, Path) else BytesIO(data) as body:
            _client().upload_fileobj(body, **_split(uri), Config=MULTIPART)

    _persist(uri, put)


def write_new(uri: str, data: bytes) -> bool:
    def put(clock: _Persistence) -> bool:
        try:
            _client().put_object(**_split(uri), Body=data, IfNoneMatch="*")
            return True
        except boto.ClientError as error:
            if _status(error) != 412:
                raise
            repeated = clock.failures or error.response["ResponseMetadata"].get("RetryAttempts", 0)
        if not repeated:
            return False
        mine = BytesIO()  # an earlier attempt of ours may have arrived though its answer did not
        download(uri, mine)
        return mine.getvalue() == data

    return _persist(uri, put)


def sizes(uri: str) -> dict[str, int]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    prefix = key and key + "/"

    def pages(_: _Persistence) -> dict[str, int]:
        found = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        items = [item for page in found for item in page.get("Contents", [])]
        return {item["Key"].removeprefix(prefix): item["Size"] for item in items if not item["Key"].endswith("/")}

    return _persist(uri, pages)


def delete(uri: str, *, tree: bool) -> None:
    place = _split(uri)
    keys = [f"{place['Key']}/{name}" for name in sizes(uri)] if tree else []
    keys.append(place["Key"])
    batches = [keys[first : first + 1000] for first in range(0, len(keys), 1000)]  # the most S3 takes in one call

    def remove(_: _Persistence) -> None:
        while batches:
            objects = {"Objects": [{"Key": key} for key in batches[0]], "Quiet": True}
            answer = _client().delete_objects(Bucket=place["Bucket"], Delete=objects)
            if errors := answer.get("Errors"):
                raise StorageError(f"{uri}: {len(errors)} objects could not be deleted ({errors[0].get('Code')})")
            batches.pop(0)

    _persist(uri, remove)
