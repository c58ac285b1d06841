"""What an index unpacks to is known before it is: forged footers and pages, which say less than they hold."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icon_dist import datasets
from icon_dist.errors import DataError
from icon_dist.shards import shard_set
from icon_dist.shards.parquet_size import MOST_FOOTER, BadParquetError, unpacked
from tests.adversarial.fuzz import spoil
from tests.adversarial.hostile import payload

COCO = datasets.load_skeleton("coco")
PEOPLE = 200


def table(people: int = PEOPLE) -> pa.Table:
    schema = shard_set.index_schema(17)
    columns = []
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.array(np.ones(people * field.type.list_size)).cast(field.type.value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
        elif pa.types.is_string(field.type):
            columns.append(pa.array([f"{i:064x}" for i in range(people)]))
        else:
            columns.append(pa.array(np.arange(people)).cast(field.type))
    return pa.table(columns, schema=schema)


def written(content: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(content, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"compression": "none"},
        {"use_dictionary": False},
        {"data_page_version": "2.0"},
        {"row_group_size": 64, "data_page_size": 512, "write_page_checksum": True, "write_page_index": True},
    ],
)
def test_a_sound_file_unpacks_to_what_its_writer_says(options: dict[str, object]) -> None:
    raw = written(table(), **options)
    rows, size, values = unpacked(raw)
    meta = pq.read_metadata(io.BytesIO(raw))
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    headers = sum(group.total_byte_size for group in groups) - size  # the writer counts them as well
    assert 0 <= headers < 200 * 14 * 10 * len(groups)
    widths = {field.name: getattr(field.type, "list_size", 1) for field in shard_set.index_schema(17)}
    assert (rows, values) == (PEOPLE, {name: PEOPLE * width for name, width in widths.items()})
    assert len(shard_set.read_index("x", raw, COCO, room=PEOPLE)["key"]) == PEOPLE


def patched(raw: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Another footer."""
    length = int.from_bytes(raw[-8:-4], "little")
    footer = change(raw[-8 - length : -8])
    return raw[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is not a parquet file"),
        (b"PAR1PAR1", "is not a parquet file"),
        (b"PAR1" + b"\xff" * 4 + b"PAR1", "says that its footer has 4294967295 bytes"),
        (patched(written(table()), lambda f: f + bytes(MOST_FOOTER)), "says that its footer has"),
        (patched(written(table()), lambda f: f[: len(f) // 2]), "has a footer or pages that are none"),
        (patched(written(table()), lambda _: b""), "has a footer or pages that are none"),
        (patched(written(table()), lambda f: b"\x1c" * len(f)), "nested too deeply|none"),
        (payload.parquet([payload.node(b"r", 1), payload.leaf(b"x")], rows=2**60), "says that it has 11529"),
        (payload.parquet([payload.node(b"r", 1), payload.leaf(b"x")], claim=10**9), "none"),
    ],
)
def test_what_is_no_parquet(raw: bytes, says: str) -> None:
    with pytest.raises(BadParquetError, match=says):
        unpacked(raw)


@pytest.mark.parametrize(
    "schema",
    [
        [payload.node(b"r", 5000), *[payload.leaf(b"x")] * 5000],
        [payload.node(b"r", 1), *[payload.node(b"a", 1)] * 5000, payload.leaf(b"x")],
        [payload.node(b"r", 2**31 - 1), payload.leaf(b"x")],
    ],
)
def test_columns_without_end(schema: list[bytes]) -> None:
    with pytest.raises((DataError, OSError), match=r"columns differ|too deeply|Malformed|has 500\d columns"):
        shard_set.read_index("x", payload.parquet(schema), COCO, room=PEOPLE)


def test_pages_that_hold_more_than_the_footer_says() -> None:
    """A page of 64 MB in some kilobytes, whose footer is that of a small one."""
    content = table()
    long = content.set_column(4, "key", pa.array(["k" * (64 << 20)] + ["k"] * (PEOPLE - 1)))
    raw = written(long, compression="zstd", use_dictionary=False, write_statistics=False)
    assert len(raw) < 100_000
    with pytest.raises(DataError, match="unpacks to more than 200 people take"):
        shard_set.read_index("x", raw, COCO, room=PEOPLE)


def test_runs_that_hold_more_than_the_rows() -> None:
    """Equal values cost nothing: a list of millions for one person."""
    schema = shard_set.index_schema(17)
    loose = pa.schema(
        [field.with_type(pa.list_(pa.float32())) if field.name == "keypoints" else field for field in schema]
    )
    columns = table().columns
    columns[10] = pa.array([[1.0] * 5_000_000] + [[1.0]] * (PEOPLE - 1), pa.list_(pa.float32()))
    raw = written(pa.table(columns, schema=loose), compression="zstd")
    assert unpacked(raw)[2]["keypoints"] == 5_000_000 + PEOPLE - 1
    with pytest.raises(DataError, match="columns differ"):
        shard_set.read_index("x", raw, COCO, room=PEOPLE)


def test_random_damage_ends_no_process() -> None:
    """pyarrow ends it where size statistics in the footer are nonsense and somebody asks for a column's facts."""
    raw = written(table(), compression="zstd", row_group_size=PEOPLE)
    length = int.from_bytes(raw[-8:-4], "little")
    refused = 0
    for seed in range(150):
        rng = random.Random(seed)
        damaged = bytearray(raw)
        if seed % 3 == 0:
            damaged = bytearray(spoil.data(raw, rng))
        else:
            at = rng.randrange(len(raw) - 8 - length, len(raw) - 8) if seed % 3 == 1 else rng.randrange(4, len(raw) - 8)
            damaged[at] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        try:
            shard_set.read_index("x", bytes(damaged), COCO, room=PEOPLE)
        except (DataError, ValueError, KeyError, OSError, pa.ArrowException):  # what open_shards explains
            refused += 1
    assert refused > 70
