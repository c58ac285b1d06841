"""Web pages of one file that need no network: ``base.html`` is the frame and the look of all."""

from __future__ import annotations

import base64
import functools
from typing import TYPE_CHECKING

from icon_dist.errors import needed_for

if TYPE_CHECKING:
    from jinja2 import Template


@functools.cache
def template(package: str, name: str) -> Template:
    """The template ``name`` beside the modules of ``package``, which extends the base; values are escaped.

    ``image|base64`` is the bytes of a picture as text, for ``data:`` addresses.
    """
    require_pages()
    import jinja2

    folders = [jinja2.PackageLoader(one, package_path="") for one in (package, "icon_dist.drawing")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["base64"] = lambda image: base64.b64encode(image).decode()
    return environment.get_template(name)


def require_pages() -> None:
    """ClusterError now rather than after long work."""
    with needed_for("a page", "jinja2"):
        import jinja2  # noqa: F401
