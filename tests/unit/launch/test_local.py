"""What a run in this process says where its GPU has too little memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from icon_dist.config import Config
from icon_dist.errors import ClusterError
from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
TORCH_SAYS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.06 GiB is "
    "free. Of the allocated memory 77.90 GiB is allocated by PyTorch. See documentation for Memory Management"
)


def full(*_: object, **__: object) -> None:
    """A loop on a GPU that has no room."""
    raise torch.OutOfMemoryError(TORCH_SAYS)


def test_a_full_gpu_is_one_line_with_the_fix(tmp_path: Path) -> None:
    config = Config()
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, launcher="local"))
    with pytest.raises(ClusterError) as found:
        launch(config, f"{__name__}:full", Logger(f"{tmp_path}/run"))
    assert str(found.value) == (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.06 GiB is "
        "free. Lower optim.micro_batch; the same command resumes"
    )
