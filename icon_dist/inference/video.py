"""Frames of a video file, and a video of drawn frames.

A file counts as a video by its first bytes, never by its name: FFmpeg also reads playlists, which name other files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from icon_dist.errors import DataError, StorageError
from icon_dist.images.image import MAX_PIXELS

HEAD = 4096  # bytes of a file that tell what it is
READ = "MP4, MOV, AVI, MKV, WebM, MPEG, FLV and WMV"
FPS = 25.0  # of a video that does not say its own
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a file is said by us, once


@dataclass(frozen=True)
class Video:
    """What a video file says of itself."""

    path: str
    wh: tuple[int, int]
    fps: float
    frames: int  # as its header says; 0 where it does not


def is_video(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a video: MP4, MOV, AVI, MKV, WebM, MPEG, FLV or WMV."""
    boxed = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
    still = head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
    return (
        (boxed and not still)
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or head[:4] in (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u")
        or (head[:3] == b"FLV" or (head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G"))
    )


def probe(path: str) -> Video:
    """What the video says of itself; a DataError where not even its first frame can be decoded."""
    with _opened(path) as capture:
        there, frame = capture.read()
        if not there or frame is None:
            raise DataError(
                f"{path}: a video without a frame that can be decoded; replace the file, or convert it to MP4"
            )
        height, width = frame.shape[:2]
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} px, more than {MAX_PIXELS} px a frame; make it smaller")
    return Video(path, (width, height), fps if 0 < fps < 1000 else FPS, max(0, int(frames)))


def frame_count(path: str) -> int:
    """The frames of a video as its header says; 0 of what is none."""
    with _opened(path) as capture:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))


def frames(path: str) -> Iterator[NDArray[np.uint8]]:
    """The frames ``[H, W, 3]`` of a video in RGB, one after the other."""
    with _opened(path) as capture:
        while True:
            there, frame = capture.read()
            if not there or frame is None:
                return
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


@contextmanager
def _opened(path: str) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        yield capture
    finally:
        capture.release()


class Writer:
    """An MP4 file on disk that grows by RGB frames of one size."""

    def __init__(self, path: Path, *, wh: tuple[int, int], fps: float) -> None:
        """StorageError where no video can be written at ``path``."""
        self.frames = 0  # so far
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, wh)
        if not self._writer.isOpened():
            raise StorageError(
                f"{path}: OpenCV cannot write an MP4 of {wh[0]} x {wh[1]} px here; make the video smaller"
            )

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame ``[H, W, 3]``; one that no disk has room for is lost without a word."""
        self.frames += 1
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()
