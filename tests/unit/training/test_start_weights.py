"""``model.pretrained``: which files are ours is read from a header that anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icon_dist.errors import CheckpointError
from icon_dist.training.start_weights import is_own, read


@pytest.mark.parametrize("metadata", [None, [], "text", 5, {"format": "pt"}])
def test_a_header_with_any_metadata_is_not_ours(tmp_path: Path, metadata: object) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    data = len(header).to_bytes(8, "little") + header
    assert not is_own(data, "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: (cut, or more than|neither names of tensors)"):
        read(str(tmp_path / "w.safetensors"))
