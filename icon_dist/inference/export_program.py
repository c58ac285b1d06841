"""A trained model as one program for other runtimes: ONNX, or a ``torch.export`` program (``.pt2``).

What a user of the file would have to copy from here is inside it: channel order, normalization, decoding, and the
refinement of an OPEC-Net. The flip test is outside. A program counts only once its runtime gives torch's joints.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from icon_dist.codec import Codec
from icon_dist.datasets.synthetic import render
from icon_dist.errors import CheckpointError, needed_for, plural
from icon_dist.inference.rtmlib_heatmaps import RtmlibHeatmaps
from icon_dist.models import PoseNet
from icon_dist.types import Outputs

INPUT = "image"
OUTPUTS = {"joints": ("joints", "scores"), "rtmlib": ("heatmaps", "joints", "scores")}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-2  # input px
NOISE = 1e-5  # of a peak: more than the rounding of any runtime

Run = Callable[[Tensor], tuple[Tensor, ...]]


class JointsProgram(nn.Module):
    """uint8 RGB crops to joints in px of the crop, and scores: the peaks of the heatmaps."""

    def __init__(self, model: PoseNet, codec: Codec, *, decode: str, refine_below: float) -> None:
        super().__init__()
        self.model, self.codec = model, codec
        self.method, self.refine_below = decode, refine_below

    def forward(self, image: UInt8[Tensor, "N H W 3"]) -> tuple[Float[Tensor, "N K 2"], Float[Tensor, "N K"]]:
        """Return the joints in px of the crops, and their scores, of uint8 RGB crops."""
        return self.decode(self.model(image))

    def decode(self, out: Outputs) -> tuple[Float[Tensor, "N K 2"], Float[Tensor, "N K"]]:
        """Joints and scores, as ``inference.predictor`` reads them."""
        xy, scores = self.codec.decode(out.heatmaps, method=self.method)
        if out.joints is not None:
            xy = torch.where(scores[..., None] < self.refine_below, out.joints[-1], xy)
        return xy, scores

    def certain(self, image: UInt8[Tensor, "N H W 3"], *, within: float = TOLERANCE / 2) -> Bool[Tensor, "N K"]:
        """Joints that stay ``within`` so many px when the heatmaps are shaken by more than a runtime rounds.

        Of two peaks of equal height any runtime may take either.
        """
        out = self.model(image)
        maps = out.heatmaps
        methods = {self.method} if out.joints is None else {self.method, "dark"}  # a refinement starts from DARK's
        sure = torch.ones(maps.shape[:2], dtype=torch.bool)
        generator = torch.Generator().manual_seed(0)
        for method in sorted(methods):
            still, _ = self.codec.decode(maps, method=method)
            for _ in range(3):
                noise = torch.rand(maps.shape, generator=generator) * 2 - 1
                shaken = maps + NOISE * maps.abs().amax((2, 3), keepdim=True) * noise
                sure &= (self.codec.decode(shaken, method=method)[0] - still).abs().amax(-1) < within
        return sure


class RtmlibProgram(nn.Module):
    """BGR crops (float, 0..255) as of ``rtmlib.ViTPose`` with ``mean=None``, to maps that it reads as the joints.

    The joints and their scores come after, in px of the crop; rtmlib reads the first output only.
    """

    def __init__(self, joints: JointsProgram) -> None:
        super().__init__()
        self.joints, self.heatmaps = joints, RtmlibHeatmaps(joints.codec.input_hw)

    def forward(
        self, image: Float[Tensor, "N 3 H W"]
    ) -> tuple[Float[Tensor, "N K a b"], Float[Tensor, "N K 2"], Float[Tensor, "N K"]]:
        """Return maps that ``rtmlib.ViTPose`` decodes to the joints, the joints in px of the crop, and their scores.

        ``image`` is a batch of BGR crops in 0..255, which are rounded to whole numbers. The maps are a x b pixels of
        two px of the crop each.
        """
        rgb = image.flip(1).permute(0, 2, 3, 1)
        xy, scores = self.joints(rgb.round().clamp(0, 255).to(torch.uint8))
        return self.heatmaps(xy, scores), xy, scores


def require_packages(kind: str) -> None:
    """A ClusterError that says what to install, where a package is missing that writes or runs ``.onnx``."""
    if kind == ".onnx":
        with needed_for("icon-dist export", *PACKAGES):
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and onnxscript log and warn of while they export: it is about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def convert(program: nn.Module, example: Tensor, *, kind: str, outputs: tuple[str, ...]) -> bytes:
    """The bytes of a ``.onnx`` or ``.pt2`` file, of any batch size. ``example`` is an input of two or more crops."""
    with quiet():
        program(example)  # builds the constants that are kept from call to call, outside of the graph
        exported = torch.export.export(program, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
        if kind == ".pt2":
            sink = io.BytesIO()
            torch.export.save(exported, sink)
            return sink.getvalue()
        converted = torch.onnx.export(
            exported, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=list(outputs)
        )
        assert converted is not None
        proto = converted.model_proto
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
        data: bytes = proto.SerializeToString()
        return data


def opened(data: bytes, *, kind: str) -> Run:
    """The program in these bytes, as its runtime on this machine's CPU runs it."""
    with quiet():
        if kind == ".pt2":
            module = torch.export.load(io.BytesIO(data)).module()
            return lambda image: tuple(module(image))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda image: tuple(map(torch.from_numpy, session.run(None, {INPUT: image.numpy()})))


@dataclass(frozen=True)
class Agreement:
    """How near a program is to torch."""

    largest: float  # difference of a joint, input px
    joints: int  # that were compared
    crops: int
    ms: float  # of the program, a crop

    def __str__(self) -> str:
        compared = f"{plural(self.joints, 'joint')} of {plural(self.crops, 'drawn crop')}"
        return f"it and torch differ by {self.largest:.2g} px at most ({compared}); {self.ms:.1f} ms a crop on this CPU"


def check(
    run: Run, program: nn.Module, joints: JointsProgram, crops: UInt8[Tensor, "N H W 3"], *, name: str
) -> Agreement:
    """Compare on ``crops``, one alone and all together. CheckpointError about ``name`` where the joints differ."""
    image = input_of(program, crops)
    with quiet():
        expected, certain = program(image), joints.certain(crops)
        found = run(image)
        start = time.perf_counter()
        alone = run(image[:1])
        run(image)
        ms = (time.perf_counter() - start) * 1000 / (len(image) + 1)
    if not all(value.isfinite().all() for value in expected):
        raise CheckpointError(
            f"{name}: the model's joints are not finite; nothing was written; take another checkpoint"
        )
    largest = 0.0
    for got, want in ((found, expected), (alone, tuple(value[:1] for value in expected))):
        (xy, scores), (true_xy, true_scores) = got[-2:], want[-2:]
        sure = certain[: len(xy)]
        off = (xy - true_xy).abs().amax(-1)[sure]
        largest = max(largest, off.max().item() if off.numel() else 0.0)
        peak = true_scores.abs().max().clamp(min=1e-3)
        if not (largest < TOLERANCE and ((scores - true_scores).abs() < 1e-3 * peak).all()):
            worst = (scores - true_scores).abs().max().item()
            what = f"its joints are up to {largest:.3g} px and its scores {worst:.2g} from torch's"
            raise CheckpointError(f"{name}: {what}; nothing was written; try another version of onnxruntime or torch")
        if isinstance(program, RtmlibProgram) and not near(got[0], program.heatmaps(xy, scores)):
            raise CheckpointError(f"{name}: its heatmaps are not torch's of these joints; nothing was written")
    return Agreement(largest, int(certain.sum()), len(crops), ms)


def near(maps: Float[Tensor, "N K a b"], expected: Float[Tensor, "N K a b"]) -> bool:
    """Whether each map is the expected one up to rounding."""
    return bool(((maps - expected).abs().amax((2, 3)) <= 1e-3 * expected.abs().amax((2, 3))).all())


def input_of(program: nn.Module, crops: UInt8[Tensor, "N H W 3"]) -> Tensor:
    """RGB crops as ``program`` wants them."""
    if isinstance(program, RtmlibProgram):
        return crops.flip(-1).permute(0, 3, 1, 2).float().contiguous()
    return crops


def drawn_crops(count: int, *, hw: tuple[int, int]) -> UInt8[Tensor, "N H W 3"]:
    """Generated people, whose photos are squeezed to ``hw``."""
    photos = (render(0, number)[0] for number in range(count))
    resized = [cv2.resize(photo, (hw[1], hw[0]), interpolation=cv2.INTER_AREA) for photo in photos]
    return torch.from_numpy(np.stack(resized))


def about_output(kind: str, *, joints: int, hw: tuple[int, int]) -> dict[str, object]:
    """What goes in and comes out, for the file beside the program."""
    height, width = hw
    pixels, place = {"unit": "px of the input, x then y; pixel centers sit on integers"}, ["N", joints]
    outputs: dict[str, object] = {"joints": {"shape": [*place, 2], **pixels}, "scores": {"shape": place}}
    if kind == "rtmlib":
        what = "drawn such that rtmlib.ViTPose reads these joints and scores from it; not the network's own"
        heatmaps = {"shape": [*place, height // 2 + 1, width // 2 + 1], "what": what}
        image = {"shape": ["N", 3, height, width], "dtype": "float32", "range": [0, 255], "channels": "bgr"}
        return {"inputs": {INPUT: image}, "outputs": {"heatmaps": heatmaps, **outputs}}
    image = {"shape": ["N", height, width, 3], "dtype": "uint8", "channels": "rgb"}
    return {"inputs": {INPUT: image}, "outputs": outputs}
