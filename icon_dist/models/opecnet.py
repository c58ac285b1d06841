"""OPEC-Net (Qiu et al., "Peeking into occluded joints", ECCV 2020): joints refined by an image-guided progressive GCN.

The base estimator finds joints by heatmaps. The cascaded feature adaptation (CFA) reads three maps of its features,
coarse to fine, and says where to look for each joint. The graph network (IGP-GCN) starts from the base's joints and
scores, takes in the features found there stage by stage, and after each stage gives the joints again.

The paper names the modules; sizes are facts of its authors' code (github.com/lingtengqiu/OPEC-Net, ``engineer/``):

- CFA (``common/HM.py``): 3x3 convolutions to 256, 128, 128 channels at stride 16, 8, 4, then ReLU. On the way to the
  next finer one a 2x2 transposed convolution and ReLU, weighted by a squeeze-and-excitation gate over both, added to
  the base's map. At the end a 3x3 convolution to K heatmaps. All with bias, none with batch norm.
- Where features are read (``SemGCN_Attention.py``, ``helper.py``): the mean under the softmax of the CFA's heatmaps
  (integral regression). A variant (``SeGCN_FC.py``) reads the places from a perceptron over all pixels, 6.3 M
  parameters for one size of input: not built.
- GCN (``SemGCN_Attention.py``): (x, y, score) -> 128; a residual block of 128; then three of 128+256=384,
  384+128=512, 512+128=640, each with the features of one more scale, each followed by a graph convolution to (x, y).
- The base's joints enter without a gradient, coordinates from -1 to 1 over the input.
- The loss (``core/train.py``) is in ``losses/refined_joints.py``, the evaluation (``core/eval.py``) in
  ``inference/predictor.py``.

Parameters of CFA + GCN: 2,210,956 + 1,900,742 as published (12 joints; the base is FastPose, a SE-ResNet101 with maps
of 512, 256, 128 channels). SimpleBaseline's transposed convolutions have 256 each, and so has the CFA's second:
1,984,270 + 1,901,678 for CrowdPose, 1,987,729 + 1,903,070 for COCO, 1,986,576 + 1,902,542 for MPII. A test counts
them layer by layer.

Choices: the base trains along, with its heatmap loss (the authors' command freezes it; their variant ``Alpha`` trains
it without). A head gives what to add to the base's joints, theirs the joints: training starts from the base. The base's
joints are read by DARK (theirs: with a quarter offset), so that the graph need not learn what decoding knows. It has
the skeleton's bones and limbs (theirs: 12 joints and 12 edges of CrowdPose). Features are read without a half pixel.
HRNet may be the base too. The paper's CoupleGraph, which joins the graphs of two people, is not in the
public code, nor here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from icon_dist.codec.decode import decode
from icon_dist.errors import ConfigError
from icon_dist.models import hrnet, resnet
from icon_dist.models.blocks import init_from_scratch
from icon_dist.models.graph_convolution import GraphConv, NormedGraphConv, ResidualGraphConv, listening
from icon_dist.models.heads import Heads, Source
from icon_dist.models.pose import PoseNet
from icon_dist.tensors.constants import constant
from icon_dist.types import Outputs

PREFIX = "opecnet_"
NAMES = tuple(PREFIX + name for name in (*resnet.NAMES, *hrnet.NAMES))
STRIDES = (16, 8, 4)  # of the maps that the CFA reads and makes
ADAPTED = (256, 128, 128)  # channels that it makes
NODE = 128  # features of a joint before any are read from the image


def build(name: str, heads: Heads) -> OPECNet | None:
    """The named model, or None if this file does not know the name."""
    base = name.removeprefix(PREFIX)
    layout = hrnet.layout_of(base)
    if base == name or (layout is None and base not in resnet.LAYOUTS):
        return None
    if not heads.bones:
        raise ConfigError(f"model.backbone={name}: the skeleton has no bones and no limbs to make a graph of")
    if layout is not None:
        return OnHRNet(name, heads, layout)
    block, counts = resnet.LAYOUTS[base]
    return OnResNet(name, heads, block=block, counts=counts)


class OPECNet(PoseNet):
    """The refinement, before a base estimator in the order of classes; the base's parameters keep their names."""

    widths: tuple[int, int, int]  # of the base's maps at the three strides, in channels of the map under its heatmaps

    def add_heads(self, channels: int, sources: Mapping[str, Source]) -> None:
        """Add the CFA and the graph network, then the heads of the base (see PoseNet.add_heads)."""
        # Before the heads, of which the projection comes last (PoseNet.add_heads).
        self.cascade = FeatureCascade([channels * width for width in self.widths], joints=self.heads.joints)
        self.graph = ProgressiveGraph(ADAPTED, joints=self.heads.joints, bones=self.heads.bones)
        # Compiled, it would build its matrices anew at every step. Here, because it imports torch._dynamo.
        self.read_base = torch.compiler.disable(decode)  # type: ignore[no-untyped-call]
        super().add_heads(channels, sources)

    def forward(self, image: UInt8[Tensor, "N H W 3"], pixels: Int64[Tensor, "N pixels"] | None = None) -> Outputs:
        """Return the base's outputs, with ``joints`` [4, N, K, 2] in input px.

        The first are where the CFA looks for each joint, the others the joints after each of the three stages of the
        graph; the last is the result. They are computed in float32 under autocast too.
        """
        encoded = self.encode(self.normalize(image))
        outputs = self.apply_heads(encoded, pixels)
        adapted, searched = self.cascade(encoded.pyramid)
        # fp32 also under autocast: bf16 has 8 bits for a coordinate.
        with torch.autocast(image.device.type, enabled=False):
            where = centroids(searched.float()) * self.stride
            features = [read(m.float(), where, stride=s) for m, s in zip(adapted, STRIDES, strict=True)]
            xy, score = self.read_base(outputs.heatmaps.detach(), method="dark", sigma=self.heads.sigma)
            middle = constant(image.shape[2], image.shape[1], like=xy) / 2
            base = xy * self.stride / middle - 1
            stages = self.graph(base, score, features)
        outputs.joints = torch.stack([where, *((base + stage + 1) * middle for stage in stages)])
        return outputs


class OnResNet(OPECNet, resnet.ResNet):
    """The maps are those of the three transposed convolutions."""

    widths = (1, 1, 1)


class OnHRNet(OPECNet, hrnet.HRNet):
    """The maps are the branches of stage 3, one stage before the heatmaps."""

    widths = (4, 2, 1)


class FeatureCascade(nn.Module):
    """The CFA: three maps of the base, coarse to fine, to three for the graph, and heatmaps of where to read them."""

    def __init__(self, base: Sequence[int], *, joints: int) -> None:
        super().__init__()
        widths = zip(base, ADAPTED, strict=True)
        self.adapt = nn.ModuleList(nn.Conv2d(i, o, kernel_size=3, padding=1) for i, o in widths)
        finer = list(zip(ADAPTED, base[1:], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, kernel_size=2, stride=2) for i, o in finer)
        self.gate = nn.ModuleList(Gate(o) for _, o in finer)
        self.heatmaps = nn.Conv2d(ADAPTED[-1], joints, kernel_size=3, padding=1)
        init_from_scratch(self)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[list[Tensor], Float[Tensor, "N K h w"]]:
        """Return the three adapted maps and the heatmaps (logits) of where to read them.

        ``maps`` are the base's at strides 16, 8 and 4; the adapted maps have the same sizes and 256, 128 and 128
        channels, the heatmaps have stride 4.
        """
        adapted: list[Tensor] = [F.relu(self.adapt[0](maps[0]))]
        for adapt, up, gate, finer in zip(self.adapt[1:], self.up, self.gate, maps[1:], strict=True):
            adapted.append(F.relu(adapt(gate(F.relu(up(adapted[-1])), finer))))
        return adapted, self.heatmaps(adapted[-1])


class Gate(nn.Module):
    """``g * x + finer``; ``g`` in 0..1 per channel, from the means of both maps (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid()
        )

    def forward(self, x: Float[Tensor, "N D a b"], finer: Float[Tensor, "N D a b"]) -> Float[Tensor, "N D a b"]:
        """Return ``g * x + finer``, with one factor ``g`` per image and channel."""
        gain: Tensor = self.fc(torch.cat([x.mean((2, 3)), finer.mean((2, 3))], 1))
        return x * gain[..., None, None] + finer


class ProgressiveGraph(nn.Module):
    """The IGP-GCN: joints (x, y in -1..1) and scores to one offset of every joint per scale of features."""

    def __init__(self, features: Sequence[int], *, joints: int, bones: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        edges = listening(joints, bones)
        widths = [NODE + sum(features[: i + 1]) for i in range(len(features))]
        self.start = NormedGraphConv(3, NODE, joints=joints, edges=edges)
        self.pose = ResidualGraphConv(NODE, joints=joints, edges=edges)
        self.blocks = nn.ModuleList(ResidualGraphConv(w, joints=joints, edges=edges) for w in widths)
        heads = [GraphConv(w, 2, joints=joints, edges=edges) for w in widths]
        for head in heads:  # offsets start at nearly nothing: the joints are the base's
            nn.init.normal_(head.weight, std=0.001)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def forward(
        self, xy: Float[Tensor, "N K 2"], score: Float[Tensor, "N K"], features: list[Tensor]
    ) -> list[Float[Tensor, "N K 2"]]:
        """Return one offset of all joints per stage, in the units of ``xy`` (-1..1 over the input).

        ``features`` are one tensor [N, K, D] per stage, coarse to fine, read from the image where the joints may be. A
        stage sees those of all stages before it.
        """
        nodes = self.pose(self.start(torch.cat([xy, score[..., None]], -1)))
        offsets = []
        for block, head, seen in zip(self.blocks, self.heads, features, strict=True):
            nodes = block(torch.cat([seen, nodes], -1))
            offsets.append(head(nodes))
        return offsets


def centroids(logits: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K 2"]:
    """Mean position under the softmax over the pixels, in heatmap px (integral regression; Sun et al., ECCV 2018)."""
    h, w = logits.shape[2:]
    mass = logits.flatten(2).softmax(-1).view_as(logits)
    x, y = (torch.arange(size, device=logits.device, dtype=logits.dtype) for size in (w, h))
    return torch.stack([mass.sum(2) @ x, mass.sum(3) @ y], -1)


def read(features: Float[Tensor, "N D a b"], xy: Float[Tensor, "N K 2"], *, stride: int) -> Float[Tensor, "N K D"]:
    """Bilinear at ``xy`` (input px), pixel i at ``stride * i``; what lies beyond the last pixel repeats it."""
    last = constant(features.shape[3] - 1, features.shape[2] - 1, like=xy)
    grid = 2 * xy / stride / last - 1
    found = F.grid_sample(features, grid[:, None], align_corners=True, padding_mode="border")
    return found[:, :, 0].transpose(1, 2)
