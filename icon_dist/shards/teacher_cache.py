"""What a teacher saw of the people of a shard set, kept beside the shards (``semi.cache``).

``teacher-KEY.parquet`` has one row a person, in the order of the index: ``instance``, and ``keypoints``, x and y in
photo px and the peak of every joint. KEY is a hash of all that the joints depend on. Nothing removes these files; to
delete them costs the next run a look.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.errors import StorageError, TooLargeError, plain
from icon_dist.shards.parquet_size import BadParquetError, unpacked
from icon_dist.shards.shard_set import ShardSet, row_bytes

NAME = re.compile(r"teacher-[0-9a-f]{16}\.parquet")
FORMAT = 1  # of what is kept, and of how joints are found: part of the key

F32 = NDArray[np.float32]


class DamagedError(Exception):
    """A file that is not what :func:`keep` wrote."""


def uri_of(shards: ShardSet, *facts: object) -> str:
    """Where they are kept; the set is one of the ``facts`` they depend on."""
    key = hashlib.sha256(repr((FORMAT, shards.index_sha256, *facts)).encode()).hexdigest()[:16]
    return storage.join(shards.uri, f"teacher-{key}.parquet")


def read(uri: str, shards: ShardSet, *, warn: Callable[[str], None]) -> F32 | None:
    """Keypoints ``[n, K, 3]``; None if they are not there, or not whole."""
    try:
        return _unpacked(storage.read(uri, most=_most(shards) + (1 << 20)), shards)
    except FileNotFoundError:
        return None
    except TooLargeError:
        warn(plain(f"warning: {uri} is larger than what a teacher sees; the teacher looks again"))
        return None
    except DamagedError as error:
        warn(plain(f"warning: {uri} is damaged ({error}); the teacher looks again"))
        return None


def keep(uri: str, keypoints: F32, shards: ShardSet, *, warn: Callable[[str], None]) -> F32:
    """The ones that are kept from now on: somebody else's if they were there first, whole.

    Where nothing can be written these are used as they are.
    """
    columns = [shards.instance, pa.FixedSizeListArray.from_arrays(keypoints.ravel(), keypoints[0].size)]
    sink = pa.BufferOutputStream()
    table = pa.table(columns, schema=_schema(shards))
    pq.write_table(table, sink, use_dictionary=False, write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    try:
        if not storage.write_new(uri, data):
            try:
                return _unpacked(storage.read(uri), shards)
            except DamagedError:
                storage.write(uri, data)
    except StorageError as error:
        warn(plain(f"warning: {error}; the teacher's joints are not kept, the next run looks again"))
    return keypoints


def _most(shards: ShardSet) -> int:
    """Bytes that the file has at most, packed or not."""
    return (len(shards) + 1) * row_bytes(shards.skeleton.num_joints)


def _schema(shards: ShardSet) -> pa.Schema:
    keypoints = pa.list_(pa.float32(), 3 * shards.skeleton.num_joints)
    return pa.schema({"instance": pa.int64(), "keypoints": keypoints})


def _unpacked(raw: bytes, shards: ShardSet) -> F32:
    """The keypoints; DamagedError where they are not whole, or not of these people."""
    shape = shards.keypoints.shape
    try:
        rows, size, values = unpacked(raw)
        if rows != len(shards) or size > _most(shards) or max(values.values(), default=0) > math.prod(shape):
            raise DamagedError("other columns or another number of people")
        file = pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
        if not file.schema_arrow.equals(_schema(shards)):
            raise DamagedError("other columns or another number of people")
        table = file.read()
        instance, flat = table["instance"].to_numpy(), table["keypoints"].combine_chunks().flatten().to_numpy()
    except (BadParquetError, pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(str(error)) from None
    if not np.array_equal(instance, shards.instance):
        raise DamagedError("other people")
    if flat.shape != (math.prod(shape),) or not np.isfinite(flat).all():
        raise DamagedError("values are missing or not finite")
    return flat.reshape(shape)  # type: ignore[no-any-return]
