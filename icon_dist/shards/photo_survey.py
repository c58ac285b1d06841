"""Every photo of a set before the first write: bad ones are named, and one rule is found for EXIF and for 16 bits.

Photos whose EXIF says that they are turned need a decision, because annotation tools differ: either the labels are on
the picture as viewers show it, or on the pixels as stored. Where the sides differ, the annotated size tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from icon_dist import storage
from icon_dist.errors import ConfigError, DataError, IconError, note, plural
from icon_dist.images import photo
from icon_dist.images.photo import Conversion, Exif, Header
from icon_dist.shards.tar import size_fault
from icon_dist.types import Annotations, Instance

TOGETHER = 64  # photos that a process looks at before it answers
NAMED = 3  # bad photos in a message
Rule = tuple[Exif, str]  # whether EXIF is applied, and why
MapItems = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # in this process or elsewhere, in any order


@dataclass(frozen=True)
class Look:
    """What one photo is."""

    file: str
    header: Header | None  # None: ``fault`` says why
    highest: int = 0  # value, of a photo of 16 bits a channel
    fault: str = ""


@dataclass(frozen=True)
class Request:
    """The images that one process looks at in one go: their folder (path or s3://), and files relative to it."""

    images: str
    files: tuple[str, ...]


def look(request: Request) -> list[Look]:
    """Return what each image of the request is, in its order.

    An image that is missing or cannot be read has a ``fault`` instead of a header.
    """
    return [_look(request.images, file) for file in request.files]


def _look(images: str, file: str) -> Look:
    place = storage.join(images, file)
    try:
        data = photo.read(place)
        header = photo.header(data, name=place)
        return Look(file, header, photo.highest(data, header, name=place))
    except FileNotFoundError:
        return Look(file, None, fault="no such file, or a folder or a broken link; correct --images")
    except IconError as error:
        return Look(file, None, fault=str(error).removeprefix(f"{place}: "))


def survey(
    whole: Annotations,
    images: str,
    *,
    exif: Exif | None,
    usual: Rule | None,
    drop: bool,
    map_items: MapItems,
    progress: Callable[[int, int], None],
) -> tuple[Annotations, Conversion]:
    """The people whose photos can be used, and how their photos become pixels.

    ``exif`` is what the user asked for. ``usual``: what holds, and why, where annotated sizes do not tell; None: the
    user has to say it. ``drop`` leaves bad photos out, with their people, instead of raising a DataError that names the
    first.
    """
    looks = _looks(whole, images, map_items, progress)
    of_file = {p.file: p for p in whole.instances}
    turned = {one.file: one.header for one in looks if one.header and one.header.orientation != 1}
    rule, reason = (exif, "as asked for") if exif else _rule(turned, of_file, usual=usual)
    faults = {one.file: one.fault for one in looks if one.fault}
    for one in looks:
        if one.header and (fault := size_fault(of_file[one.file], one.header, rule)):
            faults[one.file] = fault
    if faults:
        whole = _without(whole, faults, images=images, drop=drop)
    kept = [one for one in looks if one.file not in faults]
    if count := len(turned.keys() - faults.keys()):
        done = "EXIF is applied" if rule == "apply" else "EXIF is ignored"
        note(f"{plural(count, 'photo is', 'photos are')} turned by EXIF; {done}, {reason} (--exif)")
    return whole, Conversion(rule if count else "ignore", count, _bits(kept))


def _looks(whole: Annotations, images: str, map_items: MapItems, progress: Callable[[int, int], None]) -> list[Look]:
    files = sorted({p.file for p in whole.instances})
    requests = [Request(images, tuple(files[at : at + TOGETHER])) for at in range(0, len(files), TOGETHER)]
    looks: list[Look] = []
    progress(0, len(files))
    for found in map_items(look, requests) if len(requests) > 1 else map(look, requests):
        looks += found
        progress(len(looks), len(files))
    return sorted(looks, key=lambda one: one.file)


def _rule(turned: dict[str, Header], people: dict[str, Instance], *, usual: Rule | None) -> Rule:
    """Whether EXIF is applied if nobody has said so, and why."""
    votes: Counter[str] = Counter()
    for file, header in turned.items():
        upright, stored = header.wh("apply"), header.stored_wh
        if upright != stored:
            votes.update(rule for rule, wh in (("apply", upright), ("ignore", stored)) if wh == people[file].wh)
    if votes["apply"] and not votes["ignore"]:
        return "apply", "as annotated sizes say"  # nobody exchanges width and height by chance
    if usual or not turned:
        return usual or ("ignore", "")
    signs = [f"{number} for {rule}" for rule, number in sorted(votes.items())]
    count = plural(len(turned), "photo is", "photos are")
    raise ConfigError(
        f"{count} turned by EXIF (the first: {min(turned)}); pass --exif apply "
        "if the labels were made on upright pictures, or --exif ignore if on the pixels as stored, as COCO's were"
        + (f" (annotated sizes speak {' and '.join(signs)})" if len(signs) > 1 else "")
    )


def _bits(looks: Sequence[Look]) -> int:
    """How many bits the values of photos of 16 bits a channel have: one number, so that a dark photo stays dark."""
    deep = [one.highest for one in looks if one.highest]
    if not deep:
        return 16
    bits = photo.depth(max(deep))
    used = "the upper 8 bits are used" if bits > 8 else "they are used as they are"
    photos = plural(len(deep), "photo has", "photos have")
    note(f"{photos} 16 bits a channel with values of {bits} bits; {used}")
    return bits


def _without(whole: Annotations, faults: dict[str, str], *, images: str, drop: bool) -> Annotations:
    """The set without its bad photos and everybody in them."""
    gone = {p.image_id for p in whole.instances if p.file in faults}
    kept = [p for p in whole.instances if p.image_id not in gone]
    if not drop or not kept:
        raise DataError(_refusal(faults, images, hint=", or pass --drop-invalid" if kept else ""))
    people = plural(len(whole.instances) - len(kept), "person")
    count = plural(len(faults), "photo")
    note(f"{images}: left out {count} that cannot be used, with {people}: {_first(faults)}")
    truth = whole.truth.copy()
    truth["images"] = [one for one in truth["images"] if one["id"] not in gone]
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] not in gone]
    return Annotations(whole.skeleton, kept, truth)


def _refusal(faults: dict[str, str], images: str, *, hint: str) -> str:
    if len(faults) == 1:
        file, text = next(iter(faults.items()))
        return f"{images}/{file}: {text}{hint}"
    return f"{images}: {len(faults)} photos cannot be used: {_first(faults)}; replace or correct them{hint}"


def _first(faults: dict[str, str]) -> str:
    """What is wrong with the first few photos, without what to do, and how many there are more."""
    reasons = [f"{file}: {text.partition('; ')[0]}" for file, text in sorted(faults.items())[:NAMED]]
    more = len(faults) - len(reasons)
    return "; ".join(reasons) + (f"; and {more} more" if more else "")
