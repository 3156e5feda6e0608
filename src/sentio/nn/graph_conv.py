"""Convolution over a graph of joints, landmarks or edges, and the block of spatio-temporal graph networks.

Maps are ``(batch, channel, time, person * vertex)``, the vertices of one person side by side. So persons
share all weights, and what is known of maps (exits, temporal kernels, pooling) holds for graphs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.nn.streaming import Flow, Form, PerFrame, Plan, streams
from sentio.nn.streaming_joins import Chain, Identity, Sum
from sentio.nn.streaming_windows import Pad

#: what a shared batch norm starts with, so that a block starts as its shortcut
NEAR_ZERO = 1e-6


def spatial_partitions(links: Sequence[tuple[int, int]], vertices: int) -> Tensor:
    """Adjacency of a tree in three parts: each vertex itself, its parent, its children.

    The spatial configuration of Yan et al. (AAAI 2018), normalised by columns: where features are multiplied
    from the right, each vertex receives a mean.

    Args:
        links: (child, parent), counted from 0.
        vertices: how many there are.

    Returns:
        float32 ``(3, vertices, vertices)``; columns of vertices that receive nothing are 0.

    Raises:
        ConfigError: a link leads to a vertex that is not there.
    """
    parts = torch.zeros(3, vertices, vertices, device="cpu")
    parts[0].fill_diagonal_(1.0)
    for child, parent in links:
        if not (0 <= child < vertices and 0 <= parent < vertices):
            raise ConfigError(
                f"Link ({child}, {parent}) leaves the graph: its vertices are 0 to {vertices - 1}"
            )
        parts[1, parent, child] = 1.0
        parts[2, child, parent] = 1.0
    return parts / parts.sum(1, keepdim=True).clamp(min=1.0)


class FixedGraph(nn.Module):
    """The same adjacency for every layer and sample; ``masked`` multiplies it with learned importances.

    S. Yan, Y. Xiong, D. Lin, *Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
    Recognition*, AAAI 2018.

    Args:
        adjacency: ``(map, vertex, vertex)``.
        masked: whether there is a learned factor for each entry, 1 at the start.
    """

    def __init__(self, adjacency: Tensor, *, masked: bool) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency.clone(), persistent=True)
        self.mask = nn.Parameter(torch.ones(adjacency.shape)) if masked else None
        self.maps, self.vertices = adjacency.shape[:2]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input times each map; ``(batch, channel, time, person, vertex)`` each."""
        maps = self.adjacency if self.mask is None else self.adjacency * self.mask
        return [x @ maps[index] for index in range(self.maps)]


class FreeGraph(nn.Module):
    """No adjacency: all entries of the maps are learned. The bilinear mapping of Heidari and Iosifidis, 2021.

    Args:
        vertices: of the graph.
        maps: how many.
        rank: of each map as a product of two narrow matrices; None for a full one.
    """

    def __init__(self, vertices: int, maps: int, *, rank: int | None = None) -> None:
        super().__init__()
        self.maps, self.vertices = maps, vertices
        self.right: nn.Parameter | None = None
        if rank is None:
            self.left = nn.Parameter(torch.full((maps, vertices, vertices), NEAR_ZERO))
        else:
            self.left = nn.Parameter(torch.randn(maps, vertices, rank) * (NEAR_ZERO / rank) ** 0.5)
            self.right = nn.Parameter(torch.randn(maps, rank, vertices) * (NEAR_ZERO / rank) ** 0.5)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input times each map; ``(batch, channel, time, person, vertex)`` each."""
        products = [x @ self.left[index] for index in range(self.maps)]
        if self.right is None:
            return products
        return [product @ self.right[index] for index, product in enumerate(products)]


class AdaptiveGraph(nn.Module):
    """An adjacency that is also learned, and also computed from the sample: ``A + M + softmax(similarity)``.

    L. Shi, Y. Zhang, J. Cheng, H. Lu, *Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based
    Action Recognition*, CVPR 2019.

    Args:
        adjacency: ``(map, vertex, vertex)``.
        in_channels: of the input.
        hidden: channels in which vertices are compared.
        masked: whether there is a learned summand for each entry.
        scope: ``clip`` compares over all frames, for one adjacency a sample; ``frame`` within each frame,
            which can run on a stream.
    """

    def __init__(
        self,
        adjacency: Tensor,
        in_channels: int,
        hidden: int,
        *,
        masked: bool,
        scope: Literal["clip", "frame"],
    ) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency.clone(), persistent=True)
        self.mask = nn.Parameter(torch.full(adjacency.shape, NEAR_ZERO)) if masked else None
        self.maps, self.vertices = adjacency.shape[:2]
        self.scope = scope
        self.theta = nn.ModuleList(nn.Conv2d(in_channels, hidden, 1) for _ in range(self.maps))
        self.phi = nn.ModuleList(nn.Conv2d(in_channels, hidden, 1) for _ in range(self.maps))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input times each map; ``(batch, channel, time, person, vertex)`` each."""
        fixed = self.adjacency if self.mask is None else self.adjacency + self.mask
        products = []
        for index in range(self.maps):
            flat = x.flatten(3)
            left = self.theta[index](flat).unflatten(3, (-1, self.vertices))
            right = self.phi[index](flat).unflatten(3, (-1, self.vertices))
            if self.scope == "clip":  # to (batch, person, vertex, channel * time) and its like
                left = left.permute(0, 3, 4, 1, 2).flatten(3)
                right = right.permute(0, 3, 1, 2, 4).flatten(2, 3)
            else:  # to (batch, time, person, vertex, channel)
                left, right = left.permute(0, 2, 3, 4, 1), right.permute(0, 2, 3, 1, 4)
            graph = fixed[index] + (left @ right / left.shape[-1]).softmax(-2)
            if self.scope == "clip":
                rows = x.permute(0, 3, 1, 2, 4).flatten(2, 3)
                product = (rows @ graph).unflatten(2, (x.shape[1], -1)).permute(0, 2, 3, 1, 4)
            else:
                product = (x.permute(0, 2, 3, 1, 4) @ graph).permute(0, 3, 1, 2, 4)
            products.append(product)
        return products


Graph = FixedGraph | FreeGraph | AdaptiveGraph


class GraphConv(nn.Module):
    """Each frame by itself: ``ReLU(BN(sum_p conv_p(x · G_p)) + shortcut)``, with 1×1 convolutions.

    ``(batch, in_channels, time, person * vertex)`` to the same with ``out_channels``. The shortcut is the
    input where the widths agree, else a 1×1 convolution and a batch norm.

    Args:
        graph: the maps ``G_p``.
    """

    def __init__(self, in_channels: int, out_channels: int, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.convs = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in range(graph.maps))
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
            )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        products = self.graph(x.unflatten(3, (-1, self.graph.vertices)))
        y = self.convs[0](products[0].flatten(3))
        for conv, product in zip(self.convs[1:], products[1:], strict=True):
            y = y + conv(product.flatten(3))
        return self.act(self.bn(y) + self.shortcut(x))


class GraphBlock(nn.Module):
    """A graph convolution, then a convolution over time, with a shortcut around the latter.

    ``(batch, in_channels, time, person * vertex)`` to ``(batch, out_channels, time', person * vertex)``.

    Args:
        graph: of the graph convolution.
        stride: in time.
        kernel: odd length of the temporal kernel.
        padded: whether zeros keep the number of frames; if not, the shortcut loses as many frames at each end
            as the convolution does.
        shortcut: whether there is one; a network's first block has none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        graph: Graph,
        *,
        stride: int = 1,
        kernel: int = 9,
        padded: bool = True,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        side = kernel // 2
        self.crop = 0 if padded else side
        self.spatial = GraphConv(in_channels, out_channels, graph)
        self.conv = nn.Conv2d(
            out_channels, out_channels, (kernel, 1), stride=(stride, 1), padding=(side if padded else 0, 0)
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if shortcut and (in_channels != out_channels or stride != 1):
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=(stride, 1)), nn.BatchNorm2d(out_channels)
            )
        elif shortcut:
            self.shortcut = nn.Identity()
        self.act = nn.ReLU()
        self._init()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(self.spatial(x)))
        if self.shortcut is not None:
            y = y + self.shortcut(x[:, :, self.crop : -self.crop] if self.crop else x)
        return self.act(y)

    def _init(self) -> None:
        """Kaiming by fan-out, the graph's convolutions as one; the block starts as its shortcuts."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        convs = self.spatial.convs
        for conv in convs:
            nn.init.normal_(conv.weight, std=(2.0 / (conv.weight.numel() * len(convs))) ** 0.5)
        nn.init.constant_(self.spatial.bn.weight, NEAR_ZERO)


class GraphInput(nn.Module):
    """Batch norm of each coordinate of each vertex of each person, then persons beside each other.

    ``(batch, channel, time, vertex, person)``, or without the last axis where there is one person, to
    ``(batch, channel, time, person * vertex)``.

    Args:
        channels, vertices, persons: of the input.
    """

    def __init__(self, channels: int, vertices: int, persons: int = 1) -> None:
        super().__init__()
        self.channels, self.vertices, self.persons = channels, vertices, persons
        self.bn = nn.BatchNorm1d(persons * vertices * channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.unsqueeze(-1)
        x = self.bn(x.permute(0, 4, 3, 1, 2).flatten(1, 3))
        x = x.unflatten(1, (self.persons * self.vertices, self.channels))
        return x.permute(0, 2, 3, 1)


class _GraphInputForm(PerFrame):
    """Time stays where it is and the axis of persons goes."""

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.axis != 2 or flow.ndim not in (None, 4, 5):
            raise plan.refusal(
                f"it takes (batch, channel, time, vertex, person), and time is axis {flow.axis}"
            )
        plan.ndim = plan.ndim or flow.ndim or 5
        super().plan(flow, plan)
        return Flow(**{**vars(flow), "ndim": 4})


streams(GraphInput)(_GraphInputForm)


@streams(GraphConv)
def _graph_conv(conv: GraphConv) -> Form:
    graph = conv.graph

    def check(flow: Flow) -> str | None:
        if flow.axis != 2:
            return f"it takes (batch, channel, time, vertex), and time is axis {flow.axis}"
        if isinstance(graph, AdaptiveGraph) and graph.scope == "clip":
            return (
                "its adjacency is computed from the whole clip; build the network with similarity='frame', "
                "which compares vertices within each frame and gives other answers"
            )
        return None

    return PerFrame(conv, check=check, ndim=4)


@streams(GraphBlock)
def _graph_block(block: GraphBlock) -> Form:
    main = Chain(block.spatial, block.conv, block.bn)
    if block.shortcut is None:
        return Chain(main, block.act)
    crop = Pad((0, 0, -block.crop, -block.crop)) if block.crop else Identity()
    return Chain(Sum(main, Chain(crop, block.shortcut)), block.act)
