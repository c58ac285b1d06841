"""Annotations of people. Adding a dataset = one file here with ``SKELETON`` and ``read``.

``read`` takes (annotations, *, images, drop_invalid) and whatever else of the options of :func:`read` the set needs.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TypedDict, Unpack, cast

from icon_dist.datasets.derived_skeleton import find_skeleton
from icon_dist.datasets.skeleton import skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import ConfigError
from icon_dist.types import Annotations, Skeleton

__all__ = ["load_skeleton", "names", "read", "skeleton_from_dict", "skeleton_to_dict"]


MODULES = {"labelstudio": "label_studio"}  # sets whose module is named otherwise


class Options(TypedDict, total=False):
    """What some sets need besides; None and () are as good as nothing."""

    skeleton: str | Path | Skeleton | None  # where the joints are not known beforehand
    sigmas: tuple[float, ...]  # of such joints
    headboxes: str | Path | None  # of MPII, for PCKh
    split: str | None  # of a file that lists several
    exif: str | None  # apply | ignore, where labels are fractions of a photo that may be turned


def names() -> list[str]:
    """Datasets that :func:`read` knows: the modules here that have a ``read`` of their own."""
    called = {module: name for name, module in MODULES.items()}
    return [called.get(m.name, m.name) for m in pkgutil.iter_modules(__path__) if _is_dataset(m.name)]


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
    if not _is_dataset(name):
        raise ConfigError(f"dataset {name!r}: unknown; there are {', '.join(names())}")
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
    if _is_dataset(name) and hasattr(_import(name), "SKELETON"):
        return cast(Skeleton, _import(name).SKELETON)
    return find_skeleton(name_or_yaml)


def _is_dataset(name: str) -> bool:
    """Read off the source: a misspelt name should not import whatever else lives here."""
    here, module = Path(__file__).parent, MODULES.get(name, name)
    files = (here / f"{module}.py", here / module / "__init__.py") if module.isidentifier() else ()
    return any("\ndef read(" in file.read_text(encoding="utf-8") for file in files if file.is_file())


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{MODULES.get(name, name)}")
