"""Errors of the user, named and gathered."""

from __future__ import annotations

import pytest

from icon_dist.errors import DataError, IconError, StoppedError, gathering, naming


def test_a_stop_is_no_error_of_the_data() -> None:
    """What names and gathers errors lets a stop pass, with its exit code."""
    found: list[IconError] = []
    with pytest.raises(StoppedError) as stopped, gathering(found), naming("data.train"):
        raise StoppedError("stopped by Ctrl-C", exit_code=130)
    assert (str(stopped.value), stopped.value.exit_code, found) == ("stopped by Ctrl-C", 130, [])
    with gathering(found), naming("data.train", "; or leave it"):
        raise DataError("cut")
    assert [(type(error), str(error)) for error in found] == [(DataError, "data.train: cut; or leave it")]
