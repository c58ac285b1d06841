"""Annotations of people. Adding a dataset = one file here with ``SKELETON`` and ``read``.

``read`` takes (annotations, *, images, drop_invalid) and whatever of ``skeleton`` and ``headboxes`` the set needs.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import cast

from icon_dist.datasets.custom import find_skeleton
from icon_dist.datasets.skeleton import skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import ConfigError
from icon_dist.types import Annotations, Skeleton

__all__ = ["load_skeleton", "names", "read", "skeleton_from_dict", "skeleton_to_dict"]


def names() -> list[str]:
    """Datasets that :func:`read` knows: the modules here that have a ``read`` of their own."""
    return [m.name for m in pkgutil.iter_modules(__path__) if _is_dataset(m.name)]


def read(
    name: str,
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    skeleton: str | Path | None = None,
    headboxes: str | Path | None = None,
    drop_invalid: bool = False,
) -> Annotations:
    """Read and validate ``annotations`` as dataset ``name``; with ``images``, every photo must be there.

    ``drop_invalid`` leaves bad entries out, plural in one warning, instead of raising a DataError on the first.
    """
    if not _is_dataset(name):
        raise ConfigError(f"dataset {name!r}: unknown; there are {', '.join(names())}")
    reader = _import(name).read
    options = {k: v for k, v in {"skeleton": skeleton, "headboxes": headboxes}.items() if v is not None}
    for option in options:
        if option not in inspect.signature(reader).parameters:
            raise ConfigError(f"dataset {name} has no use for {option}={options[option]}; leave it out")
    return cast(Annotations, reader(annotations, images=images, drop_invalid=drop_invalid, **options))


def load_skeleton(name_or_yaml: str | Path) -> Skeleton:
    """The skeleton of a dataset, one that ships as YAML (``lsp``), or the one in a YAML file."""
    name = str(name_or_yaml)
    if _is_dataset(name) and hasattr(_import(name), "SKELETON"):
        return cast(Skeleton, _import(name).SKELETON)
    return find_skeleton(name_or_yaml)


def _is_dataset(name: str) -> bool:
    """Read off the source: a misspelt name should not import whatever else lives here."""
    here = Path(__file__).parent
    files = [
        file for file in (here / f"{name}.py", here / name / "__init__.py") if name.isidentifier() and file.is_file()
    ]
    return any("\ndef read(" in file.read_text(encoding="utf-8") for file in files)


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
