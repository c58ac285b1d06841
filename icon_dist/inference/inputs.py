"""What a user wants the poses of: photos, folders of them, and videos, found and looked at before any work."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icon_dist import storage
from icon_dist.checkpoints.manifest import FOLDER
from icon_dist.errors import ConfigError, DataError, IconError, note, raise_all, shorten, shown
from icon_dist.images import photo
from icon_dist.inference import video
from icon_dist.inference.estimator import require_side
from icon_dist.inference.video import Video

VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"}
SUFFIXES = VIDEOS | {  # of what a folder is looked through for; a file that is named by itself may have any
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".gif", ".heic", ".heif", ".avif"),  # refused by name, rather than passed over in silence
}


@dataclass(frozen=True)
class Source:
    """One photo or video."""

    place: str  # path or s3://
    wh: tuple[int, int]  # px, upright
    turned: bool = False  # by EXIF
    highest: int = 0  # value, of a photo of 16 bits a channel
    video: Video | None = None

    @property
    def name(self) -> str:
        """The file name, without folders."""
        return PurePosixPath(self.place).name

    @property
    def images(self) -> int:
        """How many images it is: 1, or the frames that the video's header tells of."""
        return max(1, self.video.frames) if self.video else 1

    @property
    def output(self) -> str:
        """The name of the drawn photo or video."""
        return PurePosixPath(self.place).stem + (".mp4" if self.video else ".jpg")


NOT_INPUTS = {  # that people give among the photos
    ".json": "a JSON file, no photo; boxes are given with --boxes FILE.json",
    ".onnx": "an ONNX file, no photo; a detector is given with --boxes DETECTOR.onnx",
    ".safetensors": "a model, no photo; the model comes first, and one is used at a time",
}


def find(given: Sequence[str]) -> list[str]:
    """The files that were given, and those of the folders that were, in order.

    DataError where there are none, ConfigError for what belongs elsewhere on the command line.
    """
    places: list[str] = []
    for one in given:
        if text := NOT_INPUTS.get(PurePosixPath(one).suffix.lower()):
            raise ConfigError(f"{shorten(one)}: {text}")
        place = storage.absolute(one)
        folder = _folder(place, one)
        places += [place] if folder is None else folder
    if twice := [place for place, times in Counter(places).items() if times > 1]:
        raise ConfigError(f"{twice[0]}: is given twice; give it once")
    return places


def _folder(place: str, given: str) -> list[str] | None:
    """The photos and videos in a folder, by the numbers in their names and the name; None if ``place`` is a file."""
    if storage.is_remote(place):
        names = storage.listing(place)
        if not names:
            return None
    elif os.path.isdir(place):
        try:
            names = os.listdir(place)
        except OSError as error:
            raise DataError(f"{given}: {error.strerror}; make the folder readable") from None
    else:
        return None
    visible = [name for name in names if not name.startswith(".") and "/" not in name]
    chosen = [name for name in visible if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if not chosen and FOLDER in {name.partition("/")[0] for name in names}:
        raise ConfigError(f"{given}: a run, no photos; the model comes first, and one is used at a time")
    if not chosen:
        below = " (its folders are not looked into; give them)" if _has_folders(place, names) else ""
        raise DataError(f"{given}: no photos or videos in this folder{below}; give a folder of photos")
    return [storage.join(place, name) for name in sorted(chosen, key=_natural)]


def _natural(name: str) -> tuple[str, str]:
    """What names are ordered by, so that frame 10 follows frame 9."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name


def _has_folders(place: str, names: Iterable[str]) -> bool:
    return any("/" in name or os.path.isdir(os.path.join(place, name)) for name in names)


def survey(places: Sequence[str], *, skip_bad: bool, progress: Callable[[int, int], None]) -> list[Source]:
    """Every photo and the first frame of every video, looked at: all that cannot be read are in one DataError.

    With ``skip_bad`` they are left out, each named in a note, unless none is left.
    """
    found: list[Source] = []
    faults: list[IconError] = []
    for done, place in enumerate(places):
        progress(done, len(places))
        try:
            found.append(_look(place))
        except IconError as error:
            faults.append(error)
    if faults and (not skip_bad or not found):
        hint = "; --skip-bad passes over what cannot be read" if found else ""
        try:
            raise_all(faults)
        except IconError as error:
            error.args = (f"{error}{hint}",)
            raise
    for fault in faults:
        note(f"passed over: {fault}")
    return found


def _look(place: str) -> Source:
    try:
        head = storage.read(place, 0, video.HEAD)
        if video.is_video(head):
            if storage.is_remote(place):
                raise DataError(f"{place}: a video is read from a disk only; copy it there")
            seen = video.probe(place)
            return Source(place, seen.wh, video=seen)
        if head and PurePosixPath(place).suffix.lower() in VIDEOS and not photo.is_photo(head):
            raise DataError(f"{place}: not a video that can be read ({video.READ} can); convert or replace the file")
        data = photo.read(place)
    except FileNotFoundError:
        raise DataError(f"{place}: no such photo, video or folder; check the path") from None
    header = photo.header(data, name=place)
    require_side(header.stored_wh, name=place)
    turned = header.orientation != 1
    return Source(place, header.wh("apply"), turned=turned, highest=photo.highest(data, header, name=place))


def require_outputs(sources: Sequence[Source], given: Sequence[str], out: str, *, result: str, force: bool) -> None:
    """ConfigError if results would replace an input, each other, or with no ``force`` what is in the folder ``out``."""
    target = storage.absolute(out)
    _require_apart(sources, given, out)
    by_output: dict[str, Source] = {}
    for source in sources:
        if (other := by_output.setdefault(source.output, source)) is not source:
            text = f"{source.place}: would be drawn to {source.output} like {other.place}"
            raise ConfigError(f"{text}; predict them one after the other with two -o, or rename one")
    storage.require_place(storage.join(target, result))
    there = sorted({result, *by_output} & _names(target), key=lambda name: (name != result, name))
    storage.require_new(f"-o {out}", *(storage.join(target, name) for name in there), force=force)


def _require_apart(sources: Sequence[Source], given: Sequence[str], out: str) -> None:
    target = _real(storage.absolute(out))
    for one in given:
        folder = _real(storage.absolute(one))
        if not storage.is_remote(folder) and not os.path.isdir(folder):
            continue
        if target == folder or target.startswith(f"{folder.rstrip('/')}/"):
            raise ConfigError(f"-o {out}: lies inside the input {shown(one)}; give an -o elsewhere")
    if source := next((s for s in sources if _real(s.place).rpartition("/")[0] == target), None):
        raise ConfigError(f"-o {out}: is the folder of the input {source.place}; give an -o elsewhere")


def _real(place: str) -> str:
    return place if storage.is_remote(place) else os.path.realpath(place)


def _names(out: str) -> set[str]:
    if storage.is_remote(out):
        return set(storage.listing(out))
    return set(os.listdir(out)) if Path(out).is_dir() else set()
