"""Objects behind ``s3://``, by boto3. Not every store is AWS: what one leaves out is made up for here, or named.

A body that is cut or spoilt is asked for again. Nothing here needs ETags, Range, multi-object deletes, multipart
uploads or version 2 of listings to be there; where conditional writes are missing, people are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote_plus

from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto

from icon_dist.errors import StorageError, note_once
from icon_dist.storage.retry import Clock, persist
from icon_dist.storage.s3_client import client, endpoint, identity
from icon_dist.storage.s3_download import Answer, address, download
from icon_dist.storage.s3_errors import code_of, status_of, transient

MULTIPART = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=32 << 20, max_concurrency=4)
MULTIPART_CALLS = ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
UNCONDITIONAL = (
    "this store has no conditional writes (If-None-Match): two writers cannot be told apart; run one at a time"
)

_conditional: dict[tuple[object, ...], bool] = {}  # client, by what it is made from -> whether its store has them


# ---------------------------------------------------------------------------------------------------------- look


def _head(uri: str) -> Answer | None:
    """None for 404. HEAD has no body, so that a listing has to say why it is refused, or that the bucket is missing."""

    def head(_: Clock) -> Answer | None:
        """Return the answer to one HEAD request, or None for 404."""
        try:
            found: Answer = client().head_object(**address(uri))
            return found
        except boto.ClientError as error:
            if status_of(error) == 404:
                return None
            if status_of(error) in (301, 400, 403):
                _first_below(uri, address(uri)["Key"])
            raise

    return persist(uri, head)


def exists(uri: str) -> bool:
    """Return whether ``uri`` is an object, or a prefix with something below it.

    Raises StorageError where the store does not tell, or there is no such bucket.
    """
    key = uri.removeprefix("s3://").partition("/")[2]
    return bool(key and _head(uri)) or _first_below(uri, key and key + "/")


def size(uri: str) -> int:
    """Return the size of the object ``uri`` in bytes.

    Raises FileNotFoundError where there is none, StorageError for a missing bucket or a store that gives no size.
    """
    head = _head(uri)
    if head is None:
        _first_below(uri, address(uri)["Key"])
        raise FileNotFoundError(f"{uri}: no such object")
    if "ContentLength" not in head:
        raise StorageError(f"{uri}: the store does not say how large this is; use another store")
    return int(head["ContentLength"])


def _first_below(uri: str, prefix: str) -> bool:
    return persist(uri, lambda _: any(page for page in _pages(uri, prefix, MaxKeys=1)))


def _pages(uri: str, prefix: str, **options: int) -> Iterator[list[Answer]]:
    """Objects page by page; a page can be empty and not the last. Where version 2 is missing, by version 1."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    call, follow = client().list_objects_v2, "ContinuationToken"
    more: Answer = {}
    while True:
        try:
            page = call(Bucket=bucket, Prefix=prefix, **options, **more)
        except boto.ClientError as error:
            if call == client().list_objects or more or status_of(error) not in (400, 405, 501):
                raise
            call, follow = client().list_objects, "Marker"
            continue
        found = page.get("Contents") or []
        yield found
        if not page.get("IsTruncated"):
            return
        if follow == "ContinuationToken" and not page.get("NextContinuationToken"):  # it only knows version 1
            call, follow = client().list_objects, "Marker"
        following = page.get("NextContinuationToken") if follow == "ContinuationToken" else page.get("NextMarker")
        if follow == "Marker" and not following and found:
            following = found[-1]["Key"]
        if not following or {follow: following} == more:
            raise StorageError(f"{uri}: the listing is said to go on, and not from where; use another store")
        more = {follow: following}


def sizes(uri: str) -> dict[str, int]:
    """Return the bytes of every object below ``uri`` by its name relative to it; {} when there is nothing.

    Raises StorageError where the listing is refused, or names what was not asked for.
    """
    key = uri.removeprefix("s3://").partition("/")[2]
    prefix = key and key + "/"

    def named(key: str) -> str:
        """Relative to ``uri``; some stores leave keys as they travel in URLs."""
        name = key if key.startswith(prefix) else unquote_plus(key)
        if not name.startswith(prefix):
            raise StorageError(f"{uri}: a listing has {key!r}, which was not asked for; use another store")
        return name.removeprefix(prefix)

    def listed(_: Clock) -> dict[str, int]:
        items = [item for page in _pages(uri, prefix) for item in page]
        return {named(item["Key"]): item["Size"] for item in items if not item["Key"].endswith("/")}

    return persist(uri, listed)


# --------------------------------------------------------------------------------------------------------- write


def write(uri: str, data: bytes | Path) -> None:
    """Create or replace the object ``uri`` with the bytes ``data``, or with the contents of the local file ``data``.

    Large data are sent in parts, and in one piece to a store that cannot do that. Raises StorageError where the store
    refuses or does not answer.
    """

    def put(clock: Clock, *, parts: bool = True) -> None:
        """Send all of ``data`` once, in parts or by a single PUT."""
        done = 0

        def sent(count: int) -> None:
            nonlocal done
            done += count
            clock.progress(done)

        with open(data, "rb") if isinstance(data, Path) else BytesIO(data) as body:
            if parts:
                client().upload_fileobj(body, **address(uri), Config=MULTIPART, Callback=sent)
            else:
                client().put_object(**address(uri), Body=body)

    def put_somehow(clock: Clock) -> None:
        """Send ``data`` in parts, or in one piece to a store that has no multipart uploads."""
        try:
            put(clock)
        except KeyError:  # parts without an ETag cannot be put together
            put(clock, parts=False)
        except boto.ClientError as error:
            if transient(error) or error.operation_name not in MULTIPART_CALLS or status_of(error) == 403:
                raise
            put(clock, parts=False)  # a store without multipart uploads, or with other sizes of parts

    persist(uri, put_somehow)


def write_new(uri: str, data: bytes) -> bool:
    """Conditional where the store can. What exists is never overwritten by a writer that comes later."""
    if not _conditional.get(identity()) and _head(uri) is not None:
        return False
    won = _put_new(uri, data)
    if won and not has_conditions(uri, data):
        return _holds(uri, data)  # the last of several writers, as far as can be seen
    return won


def _put_new(uri: str, data: bytes) -> bool:
    def put(clock: Clock) -> bool:
        """Send ``data`` on condition that the object is absent; returns whether it is this call's object now."""
        try:
            client().put_object(**address(uri), Body=data, IfNoneMatch="*")
            return True
        except boto.ClientError as error:
            if status_of(error) in (400, 405, 501) and not transient(error):
                client().put_object(**address(uri), Body=data)  # refused for other reasons, it raises that one
                _conditional[identity()] = False
                return True
            if status_of(error) != 412:
                raise
            repeated = clock.failures or error.response["ResponseMetadata"].get("RetryAttempts", 0)
        # an earlier attempt of ours may have arrived though its answer did not
        return bool(repeated) and _holds(uri, data)

    return persist(uri, put)


def _holds(uri: str, data: bytes) -> bool:
    found = BytesIO()
    try:
        download(uri, found)
    except FileNotFoundError:
        return False
    return found.getvalue() == data


def has_conditions(uri: str, data: bytes) -> bool:
    """Whether the store honors If-None-Match: it must refuse to write ``data`` where they lie already."""

    def refused(_: Clock) -> bool:
        """Return whether the store refuses a second conditional write."""
        try:
            client().put_object(**address(uri), Body=data, IfNoneMatch="*")
            return False
        except boto.ClientError as error:
            if status_of(error) not in (409, 412) and transient(error):
                raise
            return status_of(error) in (409, 412)

    if identity() not in _conditional:
        _conditional[identity()] = persist(uri, refused)
    if not _conditional[identity()]:
        note_once(f"{endpoint().host}: {UNCONDITIONAL}")
    return _conditional[identity()]


def delete(uri: str, *, tree: bool) -> None:
    """One object at a time: how to say which to delete at once, and with which checksum, stores do not agree on."""

    def remove(place: dict[str, str]) -> None:
        """Delete one object; one that is gone already is no error."""
        try:
            client().delete_object(**place)
        except boto.ClientError as error:
            if code_of(error) not in ("NoSuchKey", "404"):
                raise

    address(uri)  # never a whole bucket
    below = [f"{uri}/{name}" for name in sizes(uri)] if tree else []
    for place in map(address, [*below, uri]):
        persist(uri, lambda _, place=place: remove(place))  # type: ignore[misc]
