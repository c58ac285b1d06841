"""Any COCO-format json whose skeleton is one small YAML; ``lsp`` is such a set and ships with the package."""

from __future__ import annotations

from pathlib import Path

from icon_dist.datasets.coco_json import read_people
from icon_dist.datasets.skeleton import read_skeleton
from icon_dist.errors import ConfigError
from icon_dist.types import Annotations, Skeleton

SHIPPED = Path(__file__).parent


def find_skeleton(name_or_yaml: str | Path) -> Skeleton:
    """A YAML path, or the name of a skeleton that ships here."""
    shipped = SHIPPED / f"{name_or_yaml}.yaml"
    return read_skeleton(
        shipped if Path(name_or_yaml).name == str(name_or_yaml) and shipped.is_file() else name_or_yaml
    )


def read(
    annotations: str | Path,
    *,
    skeleton: str | Path | None = None,
    images: str | Path | None = None,
    drop_invalid: bool = False,
) -> Annotations:
    """A COCO-format file with the joints of ``skeleton``: a YAML path or a shipped name."""
    if skeleton is None:
        raise ConfigError(f"{annotations}: a custom set needs a skeleton; pass --skeleton FILE.yaml (or a name: lsp)")
    return read_people(annotations, skeleton=find_skeleton(skeleton), images=images, drop_invalid=drop_invalid)
