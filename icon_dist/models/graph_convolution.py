"""Layers over the joints of a person: semantic graph convolutions (Zhao et al., CVPR 2019) as OPEC-Net uses them.

Facts from the public code of OPEC-Net, ``engineer/models/common/semgcn_helper.py``. A graph is a list of directed
edges; nothing is sparse, because a skeleton has at most a few dozen joints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Edges = Sequence[tuple[int, int]]  # (joint, one that it listens to)


def listening(joints: int, bones: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every joint listens to itself and to both ends of its bones: symmetric, sorted, each edge once."""
    both = [(a, b) for bone in bones for a, b in (bone, bone[::-1])]
    return sorted({*both, *((joint, joint) for joint in range(joints))})


class GraphConv(nn.Module):
    """``y_i = a_ii W_0 x_i + sum_j a_ij W_1 x_j + b``; ``a_i`` is a softmax of learned logits over whom i listens to.

    The logits start equal, so that ``a`` starts as the row-normalized adjacency matrix with self-loops.
    """

    _row: Tensor
    _column: Tensor

    def __init__(self, inputs: int, outputs: int, *, joints: int, edges: Edges) -> None:
        super().__init__()
        self.joints = joints
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs))  # of the joint itself, of the others
        self.logits = nn.Parameter(torch.ones(len(edges)))
        self.bias = nn.Parameter(torch.empty(outputs))
        # The public code calls xavier on the 3-d tensor, where torch takes the sizes for a convolution's and the
        # weights start some ten times smaller; here each matrix has its own fan.
        for matrix in self.weight:
            nn.init.xavier_uniform_(matrix, gain=2**0.5)
        nn.init.uniform_(self.bias, -(outputs**-0.5), outputs**-0.5)
        self.register_buffer("_row", torch.tensor([i for i, _ in edges]), persistent=False)
        self.register_buffer("_column", torch.tensor([j for _, j in edges]), persistent=False)

    def attention(self) -> Float[Tensor, "K K"]:
        """``a``; rows sum to 1, zero where there is no edge."""
        nowhere = self.logits.new_full((self.joints, self.joints), -torch.inf)
        return nowhere.index_put((self._row, self._column), self.logits).softmax(1)

    def forward(self, x: Float[Tensor, "N K _"]) -> Float[Tensor, "N K _"]:
        """Return the features [N, K, outputs] of all joints, of their features ``x`` [N, K, inputs]."""
        own, others = self.weight
        attention = self.attention()
        itself = attention.diagonal()
        out: Tensor = itself[:, None] * (x @ own) + (attention - itself.diag_embed()) @ (x @ others) + self.bias
        return out


class NormedGraphConv(nn.Module):
    """Graph convolution, batch norm over people and joints, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, joints: int, edges: Edges) -> None:
        super().__init__()
        self.conv = GraphConv(inputs, outputs, joints=joints, edges=edges)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Float[Tensor, "N K _"]) -> Float[Tensor, "N K _"]:
        """Return the features [N, K, outputs] of all joints, 0 or more, of their features ``x`` [N, K, inputs]."""
        return F.relu(over_nodes(self.norm, self.conv(x)))


class ResidualGraphConv(nn.Module):
    """``relu(norm(x + conv(conv(x))))``, then every joint times a number in 1..2 that the whole pose gives."""

    def __init__(self, width: int, *, joints: int, edges: Edges) -> None:
        super().__init__()
        self.reduce = NormedGraphConv(width, width // 2, joints=joints, edges=edges)
        self.expand = GraphConv(width // 2, width, joints=joints, edges=edges)
        self.norm = nn.BatchNorm1d(width)
        self.attend = nn.Sequential(
            nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, joints), nn.Sigmoid()
        )

    def forward(self, x: Float[Tensor, "N K D"]) -> Float[Tensor, "N K D"]:
        """Return the features of all joints, 0 or more, with the shape of ``x`` (D is the ``width``)."""
        x = F.relu(over_nodes(self.norm, x + self.expand(self.reduce(x))))
        gain: Tensor = self.attend(x.mean(1))
        return x * (1 + gain[..., None])


def over_nodes(norm: nn.BatchNorm1d, x: Float[Tensor, "N K D"]) -> Float[Tensor, "N K D"]:
    """Statistics of each channel over all joints of all people."""
    out: Tensor = norm(x.flatten(0, 1))
    return out.view_as(x)
