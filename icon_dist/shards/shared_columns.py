"""The columns of a shard set in files that all ranks of a host map: one copy in its memory, not one a rank.

They lie in a temporary folder that nobody else can enter, and lose their names as soon as all ranks have mapped them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icon_dist import distributed
from icon_dist.errors import StorageError
from icon_dist.shards.shard_set import ShardSet, Texts
from icon_dist.storage import tempdirs


@dataclass(frozen=True)
class StoredSet:
    """A shard set whose columns lie in files: small enough to be told to other ranks."""

    folder: str
    columns: dict[str, tuple[str, tuple[int, ...]]]  # type and shape, by the name of the file
    others: dict[str, Any]  # fields of the set that are no columns


def once_a_host(read: Callable[[], ShardSet]) -> ShardSet:
    """The set that ``read`` opens; of several ranks the first of each host does, and all map its columns.

    StorageError where the temporary folder has no room for them.
    """
    if distributed.world_size() == 1:
        return read()
    folders: list[tempdirs.Folder] = []

    def stored() -> StoredSet:
        shards = read()
        folders.append(tempdirs.Folder("columns"))
        return _store(shards, Path(folders[0].name))

    shards = _load(distributed.from_first_of_host(stored, host=tempdirs.reached_from_here()))
    distributed.gather_objects(None)  # all have mapped them
    for folder in folders:
        folder.cleanup()
    return shards


def _store(shards: ShardSet, folder: Path) -> StoredSet:
    """Write the columns."""
    columns = {name: value for name, value in vars(shards).items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in vars(shards).items() if name not in {*columns, "key"}}
    _, offsets, letters = pa.concat_arrays([shards.key.column]).buffers()
    columns |= {"offsets": np.frombuffer(offsets, np.int32), "letters": np.frombuffer(letters, np.uint8)}
    try:
        for file, column in columns.items():
            (folder / file).write_bytes(column.data)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}; set TMPDIR to a folder with more space") from None
    return StoredSet(str(folder), {file: (column.dtype.str, column.shape) for file, column in columns.items()}, others)


def _load(stored: StoredSet) -> ShardSet:
    """The set as it was; a process that writes to a column gets pages of its own."""
    columns: dict[str, Any] = {
        file: np.asarray(np.memmap(Path(stored.folder) / file, kind, "c", shape=shape))
        for file, (kind, shape) in stored.columns.items()
    }
    offsets, letters = (pa.py_buffer(columns.pop(file)) for file in ("offsets", "letters"))
    keys = pa.StringArray.from_buffers(len(columns["instance"]), offsets, letters)
    return ShardSet(**stored.others, **columns, key=Texts(keys))
