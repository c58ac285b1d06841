"""Where torch computes on this machine."""

from __future__ import annotations

import torch

from icon_dist.errors import ConfigError, shorten


def chosen_device(name: str | None, *, option: str = "--device") -> str:
    """``name``, such as ``cpu`` or ``cuda:1``, or without one the GPU if there is one, else the CPU.

    ConfigError, about ``option``, if torch cannot compute there.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name).cpu()  # meta has tensors, but no numbers
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"{option} {name}: {shorten(str(error))}; cpu is always there") from None
    return name
