"""OKS-SORT: who is who from frame to frame.

SORT (Bewley et al., ICIP 2016) with poses in place of boxes: every track moves on at its velocity, and the instances of
the next frame are assigned to the tracks so that the sum of object keypoint similarities is the highest. The velocity
is what an alpha-beta filter, a Kalman filter with a constant gain, makes of the moves so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from icon_dist.metrics.oks import oks
from icon_dist.metrics.oks_nms import JOINT_THRESHOLD

F64 = NDArray[np.float64]
GAIN = 0.5  # of the velocity: how much of a surprise it takes up
LEAST = 0.1  # similarity of a pose to where a track is expected; below it is another instance
PATIENCE = 30  # frames for which a track may not be seen before it ends


@dataclass
class _Track:
    number: int
    xy: F64  # [K, 2] px, where it was last
    certain: NDArray[np.bool_]  # [K]
    area: float  # px^2
    velocity: F64  # [2] px a frame
    missed: int = 0  # frames since

    @property
    def expected(self) -> F64:
        """Where its joints are in the next frame, if it moves on as before."""
        return self.xy + self.velocity * (self.missed + 1)


class Tracker:
    """Gives the instances of frame after frame their track numbers, from 1."""

    def __init__(self, sigmas: Float[np.ndarray, " K"]) -> None:
        """``sigmas`` are the skeleton's OKS constants."""
        self._sigmas = sigmas
        self._tracks: list[_Track] = []
        self._count = 0

    def update(
        self, xy: Float[np.ndarray, "n K 2"], scores: Float[np.ndarray, "n K"], boxes: Float[np.ndarray, "n 4"]
    ) -> Int64[np.ndarray, " n"]:
        """The track numbers of the instances of the next frame: joints in px, their scores, boxes x, y, w, h."""
        points, certain = xy.astype(np.float64), scores >= JOINT_THRESHOLD
        certain |= ~certain.any(-1, keepdims=True)  # an instance of which nothing is certain is compared as it is
        areas = boxes[:, 2:].prod(-1)
        of_row = self._assigned(points, certain, areas)
        numbers = np.zeros(len(points), np.int64)
        for row, (pose, sure, area) in enumerate(zip(points, certain, areas.tolist(), strict=True)):
            track = self._tracks[of_row[row]] if row in of_row else self._new(pose, sure, area)
            self._move(track, pose, sure, area)
            numbers[row] = track.number
        seen = set(numbers.tolist())
        for track in self._tracks:
            track.missed = 0 if track.number in seen else track.missed + 1
        self._tracks = [track for track in self._tracks if track.missed <= PATIENCE]
        return numbers

    def _assigned(self, points: F64, certain: NDArray[np.bool_], areas: F64) -> dict[int, int]:
        """Tracks by row, of those that are similar enough."""
        if not self._tracks or not len(points):
            return {}
        similar = np.stack([self._similarities(track, points, certain, areas) for track in self._tracks], -1)
        rows, tracks = linear_sum_assignment(-np.where(similar >= LEAST, similar, 0))
        pairs = zip(rows.tolist(), tracks.tolist(), strict=True)
        return {row: track for row, track in pairs if similar[row, track] >= LEAST}

    def _similarities(self, track: _Track, points: F64, certain: NDArray[np.bool_], areas: F64) -> F64:
        """OKS of every pose with where the track is expected, over the joints that are certain in both."""
        both = certain & track.certain
        area = (areas + track.area) / 2
        expected = np.broadcast_to(track.expected, points.shape)
        return oks(points, expected, area=area, sigmas=self._sigmas, labelled=both)

    def _new(self, pose: F64, certain: NDArray[np.bool_], area: float) -> _Track:
        self._count += 1
        self._tracks.append(_Track(self._count, pose, certain, area, np.zeros(2)))
        return self._tracks[-1]

    def _move(self, track: _Track, pose: F64, certain: NDArray[np.bool_], area: float) -> None:
        both = certain & track.certain
        if both.any():
            surprise = (pose - track.expected)[both].mean(0) / (track.missed + 1)
            track.velocity = track.velocity + GAIN * surprise
        track.xy, track.certain, track.area = pose, certain, area
