"""ViTPose (Xu et al., NeurIPS 2022): a plain vision transformer and two transposed convolutions.

Facts from the public code (github.com/ViTAE-Transformer/ViTPose, ``mmpose/models/backbones/vit.py``): patches of 16 px
with a padding of 2, learned position embeddings whose first row, that of a class token which is not there, is added to
every patch, pre-norm blocks, GELU, LayerNorm with an epsilon of 1e-6, a norm at the end. Parameter names are those of
``VitPoseForPoseEstimation`` of the package transformers, where its ``head.conv`` is our ``final_layer``.

``vit_s`` is ViTPose-S: 12 heads of 32 channels. DINO's ViT-S has 6 heads of 64: ``vit_s6``. Weights do not tell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from icon_dist.models.batch_norm import BatchNorm2d
from icon_dist.models.drop_path import crop_keys, survivors
from icon_dist.models.heads import Heads, Source
from icon_dist.models.pose import Encoded, PoseNet

PATCH, PADDING = 16, 2  # px
CENTER = (PATCH - 1) / 2 - PADDING  # of the first patch, px of the input
DECONV = 256  # channels of the head
EPSILON = 1e-6  # of LayerNorm
DEPTH = 12
POSITIONS = "backbone.embeddings.position_embeddings"
KERNEL = "backbone.embeddings.patch_embeddings.projection.weight"


class Layout(NamedTuple):
    """The size of a transformer."""

    width: int
    heads: int  # of attention
    depth: int = DEPTH  # blocks

    @property
    def per_head(self) -> int:
        """Channels of an attention head."""
        return self.width // self.heads


LAYOUTS = {"vit_s": Layout(384, 12), "vit_s6": Layout(384, 6), "vit_b": Layout(768, 12)}
NAMES = tuple(LAYOUTS)


def build(name: str, heads: Heads) -> PoseNet | None:
    """The named model, or None if this file does not know the name."""
    return VisionTransformer(name, heads, LAYOUTS[name]) if name in LAYOUTS else None


class VisionTransformer(PoseNet):
    """Patches of stride 16 through ``depth`` blocks, then up to 4.

    The projection head reads the patches after the last norm (``default``) or the map under the heatmaps (``deconv``).
    """

    def __init__(self, name: str, heads: Heads, layout: Layout) -> None:
        super().__init__(name, heads)
        self.layout = layout
        self.grid = (heads.input_hw[0] // PATCH, heads.input_hw[1] // PATCH)
        self.backbone = Backbone(layout, patches=math.prod(self.grid), drop_path=heads.drop_path)
        self.head = Upsampler(layout.width)
        self.add_heads(DECONV, {"default": Source(layout.width, PATCH, origin=CENTER), "deconv": Source(DECONV, 4)})

    def encode(self, x: Float[Tensor, "N 3 H W"]) -> Encoded:
        """Return the feature maps of a normalized batch of images ``x``.

        ``shared`` is the map of patches, of ``width`` channels at stride 16; ``final`` has 256 channels at stride 4.
        """
        patches = self.backbone(x).transpose(1, 2).unflatten(2, self.grid)
        return Encoded(final=self.head(patches), shared=(patches,))

    def layers_after(self, parameter: str) -> int:
        """Return how many layers follow that of a parameter.

        The embeddings are a layer, each block is one, and the last norm and the heads together are the last.
        """
        if parameter.startswith("backbone.embeddings."):
            return self.layout.depth + 1
        if parameter.startswith("backbone.encoder.layer."):
            return self.layout.depth - int(parameter.split(".")[3])
        return 0

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """Return position embeddings of another input size, or kernels of another patch size, as this model needs."""
        if name == POSITIONS and value.ndim == 3:
            return resized_positions(value, self.grid)
        if name == KERNEL and value.ndim == 4 and value.shape[2] == value.shape[3] != PATCH:
            return resized_kernel(value)
        return value


class Backbone(nn.Module):
    """Normalized images to the features of their patches."""

    def __init__(self, layout: Layout, *, patches: int, drop_path: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(layout.width, patches=patches)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(layout) for _ in range(layout.depth))})
        self.layernorm = nn.LayerNorm(layout.width, eps=EPSILON)
        self.rates = [drop_path * i / max(1, layout.depth - 1) for i in range(layout.depth)]  # of the public code
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d) and part.bias is not None:
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N patches D"]:
        """Return the features of all patches, row by row, after the last norm."""
        keys = crop_keys(x) if self.training and self.rates[-1] else None
        x = self.embeddings(x)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for i, (block, rate) in enumerate(zip(layers, self.rates, strict=True)):
            x = block(x, [1.0, 1.0] if keys is None else both(keys, block=i, rate=rate))
        out: Tensor = self.layernorm(x)
        return out


def both(keys: Int64[Tensor, " N"], *, block: int, rate: float) -> list[Float[Tensor, "N 1 1"]]:
    """Return what to multiply the two branches of a block by (see drop_path.survivors)."""
    return [survivors(keys, branch=2 * block + i, rate=rate) for i in range(2)]


class Embeddings(nn.Module):
    """Images to patches that know where they are."""

    def __init__(self, width: int, *, patches: int) -> None:
        super().__init__()
        projection = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH, padding=PADDING)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})
        self.position_embeddings = nn.Parameter(torch.empty(1, patches + 1, width))
        nn.init.normal_(self.position_embeddings, std=0.02)

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N patches D"]:
        """Return the patches of the images, row by row."""
        patches: Tensor = self.patch_embeddings["projection"](x).flatten(2).transpose(1, 2)
        return patches + self.position_embeddings[:, 1:] + self.position_embeddings[:, :1]


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and around it a sum."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        width = layout.width
        self.attention = Attention(width, heads=layout.heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.layernorm_before = nn.LayerNorm(width, eps=EPSILON)
        self.layernorm_after = nn.LayerNorm(width, eps=EPSILON)

    def forward(
        self, x: Float[Tensor, "N patches D"], weights: list[float] | list[Tensor]
    ) -> Float[Tensor, "N patches D"]:
        """Return the patches after this block, whose two branches are multiplied by ``weights``."""
        x = x + weights[0] * self.attention(self.layernorm_before(x))
        inner = F.gelu(self.mlp["fc1"](self.layernorm_after(x)))
        out: Tensor = x + weights[1] * self.mlp["fc2"](inner)
        return out


class Attention(nn.Module):
    """Every patch looks at all."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Float[Tensor, "N patches D"]) -> Float[Tensor, "N patches D"]:
        """Return what each patch takes from the others."""
        query, key, value = (
            self.attention[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        taken = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = self.output["dense"](taken)
        return out


class Upsampler(nn.Module):
    """Four times the size by two transposed convolutions, as in SimpleBaseline."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(width, DECONV, kernel_size=4, stride=2, padding=1, bias=False)
        self.batchnorm1 = BatchNorm2d(DECONV)
        self.deconv2 = nn.ConvTranspose2d(DECONV, DECONV, kernel_size=4, stride=2, padding=1, bias=False)
        self.batchnorm2 = BatchNorm2d(DECONV)
        for deconv in (self.deconv1, self.deconv2):
            nn.init.normal_(deconv.weight, std=0.001)

    def forward(self, x: Float[Tensor, "N _ _ _"]) -> Float[Tensor, "N _ _ _"]:
        """Return 256 channels at four times the size of ``x``."""
        x = F.relu(self.batchnorm1(self.deconv1(x)))
        return F.relu(self.batchnorm2(self.deconv2(x)))


def resized_positions(
    value: Float[Tensor, "1 rows D"], grid: tuple[int, int]
) -> Float[Tensor, "1 rows_here D"] | Float[Tensor, "1 rows D"]:
    """Return position embeddings, the first row a class token's, for ``grid`` (height, width) of patches.

    Bicubic, as in the public code. Theirs are of a square, or of a height of 4/3 of the width; else they stay.
    """
    patches = value.shape[1] - 1
    if patches == math.prod(grid):
        return value
    for shape in (1.0, 4 / 3):
        width = round(math.sqrt(patches / shape))
        height = round(shape * width)
        if patches and height * width == patches:
            there = value[:, 1:].float().mT.reshape(1, -1, height, width)
            here = F.interpolate(there, size=grid, mode="bicubic", align_corners=False)
            return torch.cat([value[:, :1].float(), here.flatten(2).mT], 1)
    return value


def resized_kernel(kernel: Float[Tensor, "D 3 p p"]) -> Float[Tensor, "D 3 q q"]:
    """Return kernels for patches of 16 px that answer a patch made larger to 16 px as ``kernel`` answers the patch.

    FlexiViT's pseudo-inverse (Beyer et al., CVPR 2023, Eq. 4): with B what resizes a patch, <B x, w'> = <x, w>.
    """
    size = kernel.shape[-1]
    each = torch.eye(size * size).view(
        -1, 1, size, size
    )  # every patch of one pixel, of all of which resizing is linear
    resize = F.interpolate(each, size=(PATCH, PATCH), mode="bilinear", align_corners=False).flatten(1)  # B transposed
    here: Tensor = kernel.float().flatten(2) @ torch.linalg.pinv(resize).mT
    return here.view(*kernel.shape[:2], PATCH, PATCH)
