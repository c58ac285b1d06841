"""Annotations of people. Adding a dataset = one file here with ``SKELETON`` and ``read``, and its name below.

``read`` takes (annotations, *, images, drop_invalid) and whatever else of the options of :func:`read` the set needs.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import TypedDict, Unpack, cast

from icon_dist.datasets.derived_skeleton import find_skeleton
from icon_dist.datasets.skeleton import skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import ConfigError
from icon_dist.types import Annotations, Skeleton

__all__ = ["MODULES", "load_skeleton", "read", "skeleton_from_dict", "skeleton_to_dict"]

# By the names of the datasets that :func:`read` knows.
MODULES = {name: name for name in ("aic14", "coco", "crowdpose", "custom", "mpii", "synthetic", "wholebody133", "yolo")}
MODULES["labelstudio"] = "label_studio"


class Options(TypedDict, total=False):
    """What some sets need besides; None and () are as good as nothing."""

    skeleton: str | Path | Skeleton | None  # where the joints are not known beforehand
    sigmas: tuple[float, ...]  # of such joints
    headboxes: str | Path | None  # of MPII, for PCKh
    split: str | None  # of a file that lists several
    exif: str | None  # apply | ignore, where labels are fractions of a photo that may be turned


def read(
    name: str,
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    drop_invalid: bool = False,
    **options: Unpack[Options],
) -> Annotations:
    """Read and validate ``annotations`` as dataset ``name``; with ``images``, every photo must be there.

    ``drop_invalid`` leaves bad entries out, counted in one warning, instead of raising a DataError on the first.
    """
    if name not in MODULES:
        raise ConfigError(f"dataset {name!r}: unknown; there are {', '.join(sorted(MODULES))}")
    given = {option: value for option, value in options.items() if value not in (None, ())}
    unused = [option for option in given if not takes(name, option)]
    for option in unused:
        value = given.pop(option)
        if option != "exif":  # which is for the photos of every set
            raise ConfigError(f"dataset {name} has no use for {option}={value}; leave it out")
    reader = _import(name).read
    return cast(Annotations, reader(annotations, images=images, drop_invalid=drop_invalid, **given))


def takes(name: str, option: str) -> bool:
    """Whether the reader of dataset ``name`` has such an option, as the one that ``skeleton`` is for."""
    return option in inspect.signature(_import(name).read).parameters


def load_skeleton(name_or_yaml: str | Path) -> Skeleton:
    """The skeleton of a dataset, one that ships as YAML (``lsp``), or the one in a YAML file."""
    name = str(name_or_yaml)
    if name in MODULES and hasattr(_import(name), "SKELETON"):
        return cast(Skeleton, _import(name).SKELETON)
    return find_skeleton(name_or_yaml)


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{MODULES[name]}")
