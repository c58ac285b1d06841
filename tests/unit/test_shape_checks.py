"""Signatures of the whole package are checked while tests run, whatever the fixtures import first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from icon_dist.codec import affine
from icon_dist.shards import writer


def test_a_wrong_type_in_a_signature_is_an_error() -> None:
    single: Any = np.eye(3, dtype=np.float32)[:2]
    nobody: Any = 3
    with pytest.raises(TypeCheckError, match="outer"):
        affine.compose(single, np.eye(3)[:2])
    with pytest.raises(TypeCheckError, match="people"):
        writer.plan(nobody, per_shard=1, seed=0)
