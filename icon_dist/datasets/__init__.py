"""Annotations of people. Adding a dataset = one file here with ``SKELETON`` and ``read``.

``read`` takes (annotations, *, images, drop_invalid) and whatever else of the options of :func:`read` the set needs.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import cast

from icon_dist.datasets.derived_skeleton import find_skeleton
from icon_dist.datasets.skeleton import skeleton_from_dict, skeleton_to_dict
from icon_dist.errors import ConfigError
from icon_dist.types import Annotations, Skeleton

__all__ = ["load_skeleton", "names", "read", "skeleton_from_dict", "skeleton_to_dict"]


MODULES = {"labelstudio": "label_studio"}  # sets whose module is named otherwise


def names() -> list[str]:
    """Datasets that :func:`read` knows: the modules here that have a ``read`` of their own."""
    called = {module: name for name, module in MODULES.items()}
    return [called.get(m.name, m.name) for m in pkgutil.iter_modules(__path__) if _is_dataset(m.name)]


def read(
    name: str,
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    skeleton: str | Path | Skeleton | None = None,
    headboxes: str | Path | None = None,
    split: str | None = None,
    sigmas: tuple[float, ...] = (),
    exif: str | None = None,
    drop_invalid: bool = False,
) -> Annotations:
    """Read and validate ``annotations`` as dataset ``name``; with ``images``, every photo must be there.

    ``skeleton`` and ``sigmas`` are for sets whose joints are not known beforehand, ``split`` for files that list
    several, ``exif`` (apply or ignore) for those whose labels are fractions of a photo that may be turned.
    ``drop_invalid`` leaves bad entries out, plural in one warning, instead of raising a DataError on the first.
    """
    if not _is_dataset(name):
        raise ConfigError(f"dataset {name!r}: unknown; there are {', '.join(names())}")
    given = {"skeleton": skeleton, "headboxes": headboxes, "split": split, "sigmas": sigmas or None}
    options = {k: v for k, v in given.items() if v is not None}
    for option in options:
        if not takes(name, option):
            raise ConfigError(f"dataset {name} has no use for {option}={options[option]}; leave it out")
    if exif is not None and takes(name, "exif"):
        options["exif"] = exif
    reader = _import(name).read
    return cast(Annotations, reader(annotations, images=images, drop_invalid=drop_invalid, **options))


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
