"""The nouns of the package, and THE shape legend that every annotation uses.

======  ===============================================================================
letter  meaning
======  ===============================================================================
N       person instances in this rank's micro-batch
G       gathered instances, ``world * N``, in rank-major order
K       joints of the skeleton
P       limb pairs of the skeleton
C       token classes: K (joints, SKCC) or P (limb pairs, PRCC)
R       refinements of the joints, the last is the best
T       points read around one joint (the pixel set; T = 1 is point mode)
S       keys per class
A       queries
m       embedding dimensions
H W     network input, pixels
h w     heatmaps, pixels (stride 4)
he we   embedding map, pixels (stride 4 or 16)
======  ===============================================================================

``xy`` is ``[..., 2]`` with x first, in pixels of the named frame; sizes are ``hw`` = (height, width) or
``wh`` = (width, height) and say which. Pixel centers sit on integers (the HRNet convention), everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

Json = dict[str, Any]  # an object of a JSON file or document
PERSON = 1  # category id of people in COCO-format files, where a set names none


@dataclass(frozen=True)
class Skeleton:
    """The joints of a dataset and what is fixed by them."""

    name: str
    joints: tuple[str, ...]  # K names, in annotation order
    flips: tuple[tuple[int, int], ...]  # joints that change places in a mirrored image
    limbs: tuple[tuple[int, int], ...]  # the P pairs of PRCC (paper Eq. 2)
    bones: tuple[tuple[int, int], ...]  # lines to draw
    sigmas: tuple[float, ...]  # K OKS constants
    visible_at: int  # smallest raw v that counts as visible for contrast: COCO 2, CrowdPose 1, MPII 1
    upper: tuple[int, ...]  # half-body groups; empty = no half-body augmentation
    lower: tuple[int, ...]
    metric: str  # coco | crowdpose | pckh | pck: which evaluation scores it
    torso: tuple[int, int] = (0, 0)  # reference length of PCK

    @property
    def num_joints(self) -> int:
        """K, the number of joints."""
        return len(self.joints)

    @property
    def mirrored(self) -> list[int]:
        """For every joint the one that a mirror shows in its place."""
        return mirror_order(self.num_joints, self.flips)


def percent(name: str, score: float) -> float:
    """The score ``name`` in percent, as people read it: AP and AR are kept in 0..1, PCK and PCKh are percent already.

    -1, which stands for nothing to count, stays. A name may begin with that of a student, of a set, or of both.
    """
    return 100 * score if re.fullmatch(r"((net2|mean)_)?(.*/)?A[PR]( .*)?", name) and score != -1 else score


def score_text(name: str, score: float | None) -> str:
    """The score ``name`` in percent with one decimal; a dash where nothing was counted."""
    return "-" if score is None or score == -1 else f"{percent(name, score):.1f}"


def mirror_order(joints: int, flips: Iterable[tuple[int, int]]) -> list[int]:
    """The numbers of the joints, those of each pair exchanged."""
    order = list(range(joints))
    for a, b in flips:
        order[a], order[b] = b, a
    return order


@dataclass(frozen=True)
class Instance:
    """One annotated person, in pixels of the original photo. Raw visibility is kept."""

    id: int
    image_id: int
    file: str  # relative to the images folder
    wh: tuple[int, int]  # of the photo
    box: tuple[float, float, float, float]  # x, y, w, h; unpadded, cleaned
    area: float  # for OKS, px^2
    keypoints: NDArray[np.float32]  # [K, 3] x, y, raw v
    score: float = 1.0  # of the box: 1 for ground truth


class TruthImage(TypedDict):
    """An image of a COCO-format file."""

    id: int
    file_name: str
    width: int
    height: int
    crowdIndex: NotRequired[float]  # CrowdPose's


class Label(TypedDict):
    """What a COCO-format file says of a person; px."""

    category_id: int
    bbox: list[float]  # x, y, w, h
    area: float
    keypoints: list[float]  # x, y, raw v of every joint in turn
    num_keypoints: int  # with v > 0
    iscrowd: int  # 0 | 1
    head: NotRequired[float]  # MPII's head size


class TruthPerson(Label):
    """An annotation of a COCO-format file."""

    id: int
    image_id: int


class Category(TypedDict):
    """A kind of instances of a COCO-format file."""

    id: int
    name: str


class Truth(TypedDict):
    """COCO-format ground truth as plain data, without masks: what ``truth.json.gz`` of a shard set holds."""

    images: list[TruthImage]
    annotations: list[TruthPerson]
    categories: NotRequired[list[Category]]  # where they are not COCO's one
    notes: NotRequired[list[str]]  # what was put right while reading


@dataclass(frozen=True)
class Annotations:
    """What a dataset reader returns."""

    skeleton: Skeleton
    instances: list[Instance]  # people to train on, sorted by id
    truth: Truth  # what predictions are scored against
    folder: str = ""  # that the photos are named from, where the annotation file itself says it
    split: str = ""  # which of its parts was read, of a file that lists several


class Origin(TypedDict):
    """What a model says of the shard set that it was trained on."""

    dataset: str
    split: str
    people: int
    licence: str | None
    index: NotRequired[str]  # of a set in a union: sha256 of its index
    sets: NotRequired[list[Origin]]  # of a union: its sets


class SplitRecord(TypedDict):
    """What a checkpoint says of the split that it was trained with."""

    share: float
    seed: int
    labelled: int  # people
    sha256: str  # fingerprint of these


@dataclass
class Batch:
    """Crops at network input size, as they travel from a loader process to the device. uint8, RGB."""

    image: UInt8[Tensor, "N H W 3"]
    joints: Float[Tensor, "N K 2"]  # xy, input px
    labelled: Bool[Tensor, "N K"]  # v > 0: counts for the heatmap loss
    visible: Bool[Tensor, "N K"]  # the dataset's rule: counts for contrast
    instance: Int64[Tensor, " N"]  # person id, unique in the dataset
    image_id: Int64[Tensor, " N"]  # of the photo, which other people may share
    row: Int64[Tensor, " N"]  # row of the shard index; -1 = padding, to be ignored
    to_photo: Float[Tensor, "N 2 3"]  # affine: input px -> original photo px

    def to(self, device: str, *, non_blocking: bool = False) -> Batch:
        """The batch on a device; ``non_blocking`` copies from pinned memory while the host goes on."""
        return Batch(**{k: v.to(device, non_blocking=non_blocking) for k, v in vars(self).items()})

    def pin_memory(self) -> Batch:
        """A copy in pinned memory, from which a GPU copies without the host."""
        return Batch(**{k: v.pin_memory() for k, v in vars(self).items()})

    def pad(self, gone: Bool[Tensor, " N"]) -> None:
        """Make these places padding: the shapes stay, and nobody learns anything from them."""
        self.image[gone] = 0
        self.joints[gone] = 0
        self.labelled[gone] = False
        self.visible[gone] = False
        self.instance[gone] = -1
        self.image_id[gone] = -1
        self.row[gone] = -1


@dataclass(frozen=True)
class Pixels:
    """Some pixels of the maps of a batch, in an image all different."""

    place: Int64[Tensor, "N pixels"]  # in the flattened map
    hw: tuple[int, int]  # he and we of the map


@dataclass
class Outputs:
    """What a pose model returns. ``embedding`` is unit norm over m; outside training only ``heatmaps`` exist, and
    ``joints`` of a model that refines them.

    With ``pixels`` the model was asked for these alone, and ``embedding`` is [N, m, 1, pixels].

    ``feature`` is the encoder map (D channels) that both heads depend on: the one that the projection head reads, the
    finest if it reads several. ``tap`` is the same map seen by the projection head alone. With ``retain_grad()`` on
    both, one ordinary backward leaves the contrastive gradient in ``tap.grad`` and the sum of both in ``feature.grad``.
    """

    heatmaps: Float[Tensor, "N K h w"]
    embedding: Float[Tensor, "N m _ _"] | None = None
    feature: Float[Tensor, "_ D he we"] | None = None  # in a semi-supervised step of the labelled people alone
    tap: Float[Tensor, "_ D he we"] | None = None
    joints: Float[Tensor, "R N K 2"] | None = None  # input px
    pixels: Pixels | None = None


@dataclass
class KeySet:
    """The keys that queries are compared with: this step's gathered tokens, the bank, or both."""

    features: Float[Tensor, "C S m"]  # unit norm where valid, and nowhere longer: e^s is multiplied by 0 there
    valid: Bool[Tensor, "C S"]
    instance: Int64[Tensor, "C S"]


@dataclass(frozen=True, eq=False)
class DeviceStep:
    """A step's number and what follows from it as tensors, which a CUDA graph reads anew at each replay."""

    number: Int64[Tensor, ""]
    keys: dict[int, Int64[Tensor, ""]]  # of random draws, by what they are for
    scale: Float[Tensor, ""]  # weight of contrast in the loss


def number_of(step: int | DeviceStep) -> int | Int64[Tensor, ""]:
    """The number of a step, as an int or as the tensor that a graph reads."""
    return step.number if isinstance(step, DeviceStep) else step


@dataclass(frozen=True)
class Predictions:
    """Poses of one evaluation, one row a box, in pixels of the original photo."""

    instance: NDArray[np.int64]  # [n] annotation id (ground-truth boxes) or row of the box file
    image_id: NDArray[np.int64]  # [n]
    keypoints: NDArray[np.float32]  # [n, K, 3] x, y, joint score
    box_score: NDArray[np.float32]  # [n]
    area: NDArray[np.float32]  # [n] of the padded box, prod(scale * 200): for OKS-NMS

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
        """Those rows, by number or by a mask."""
        return Predictions(**{name: column[rows] for name, column in vars(self).items()})
