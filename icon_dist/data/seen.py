"""What a teacher saw of the people of a shard set, kept beside the shards (``semi.cache``).

``teacher-KEY.parquet`` has one row a person, in the order of the index: ``instance``, and ``keypoints``, x and y in
photo px and the peak of every joint; 0 of a person whose image is bad. KEY is a hash of all that the joints depend on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icon_dist import storage
from icon_dist.data.shard import ShardSet
from icon_dist.errors import plain

NAME = re.compile(r"teacher-[0-9a-f]{16}\.parquet")

F32 = NDArray[np.float32]


def uri_of(shards: ShardSet, *facts: object) -> str:
    """Where they are kept; the set is one of the ``facts`` they depend on."""
    key = hashlib.sha256(repr((shards.index_sha256, *facts)).encode()).hexdigest()[:16]
    return storage.join(shards.uri, f"teacher-{key}.parquet")


def read(uri: str, shards: ShardSet, *, warn: Callable[[str], None]) -> F32 | None:
    """Keypoints ``[n, K, 3]``; None if they are not there, or not whole."""
    if not storage.exists(uri):
        return None
    raw = storage.read(uri)
    try:
        table = pq.read_table(pa.BufferReader(raw), page_checksum_verification=True)
        if not np.array_equal(table["instance"].to_numpy(), shards.instance):
            raise ValueError("other people")
        flat = table["keypoints"].combine_chunks().flatten().to_numpy()
        return flat.reshape(shards.keypoints.shape)  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        warn(plain(f"warning: {uri} is damaged ({error}); the teacher looks again"))
        return None


def write(uri: str, keypoints: F32, shards: ShardSet) -> None:
    joints = pa.FixedSizeListArray.from_arrays(pa.array(keypoints.ravel()), 3 * shards.skeleton.num_joints)
    table = pa.table({"instance": shards.instance, "keypoints": joints})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    storage.write(uri, sink.getvalue().to_pybytes())
