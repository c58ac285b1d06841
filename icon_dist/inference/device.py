"""Where torch computes on this machine."""

from __future__ import annotations

import torch

from icon_dist.errors import ConfigError, shorten


def default_device() -> str:
    """The GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def available(name: str) -> str:
    """``name`` itself, such as ``cpu`` or ``cuda:1``; ConfigError if torch cannot compute there."""
    try:
        torch.empty(0, device=name).cpu()  # meta has tensors, but no numbers
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"--device {name}: {shorten(str(error))}; cpu is always there") from None
    return name
