"""Graph convolutions as a frozen stream runs them: all maps in one product, norms folded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sentio.nn.graph_conv import AdaptiveGraph, FixedGraph, FreeGraph, GraphConv
from sentio.nn.streaming_frozen import fold, freezes, scale_and_shift
from sentio.nn.streaming_frozen_conv import product


class FrozenGraphConv(nn.Module):
    """What a `GraphConv` computes: the products with its maps side by side as channels of one convolution.

    A shortcut with a convolution is one map more, which leaves vertices where they are.
    """

    def __init__(self, conv: GraphConv) -> None:
        super().__init__()
        graph: Any = conv.graph
        self.vertices, self.count = graph.vertices, graph.maps
        joint = nn.Conv2d(conv.convs[0].in_channels, len(conv.bn.weight), 1, device=conv.bn.weight.device)
        weights = [layer.weight.detach().flatten(1) for layer in conv.convs]
        joint.weight = nn.Parameter(torch.stack(weights, 1))  # (out, map, in)
        joint.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in conv.convs]).sum(0))
        fold(joint, *scale_and_shift(conv.bn))
        weight, bias = joint.weight, joint.bias
        self.shortcut = isinstance(conv.shortcut, nn.Identity)
        if not self.shortcut:
            aside = nn.Conv2d(1, 1, 1)
            aside.weight = nn.Parameter(conv.shortcut[0].weight.detach())
            aside.bias = nn.Parameter(conv.shortcut[0].bias.detach())
            fold(aside, *scale_and_shift(conv.shortcut[1]))
            weight = nn.Parameter(torch.cat((weight, aside.weight.flatten(1).unsqueeze(1)), 1))
            bias = nn.Parameter(bias + aside.bias)
        self.weight, self.bias = nn.Parameter(weight.flatten(1)), bias
        self.adaptive = isinstance(graph, AdaptiveGraph)
        self.register_buffer("maps", self._maps(graph), persistent=False)
        if isinstance(graph, AdaptiveGraph):
            compared = [*graph.theta, *graph.phi]
            self.hidden = graph.theta[0].out_channels
            self.compare = nn.Parameter(torch.cat([layer.weight.detach().flatten(1) for layer in compared]))
            self.compare_bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in compared]))

    def _maps(self, graph: FixedGraph | FreeGraph | AdaptiveGraph) -> Tensor:
        """``(map, vertex, vertex)``, or ``(vertex * map, vertex)`` if no sample changes them."""
        with torch.no_grad():
            if isinstance(graph, FreeGraph):
                maps = graph.left if graph.right is None else graph.left @ graph.right
            elif graph.mask is None:
                maps = graph.adjacency
            elif isinstance(graph, AdaptiveGraph):
                maps = graph.adjacency + graph.mask
            else:
                maps = graph.adjacency * graph.mask
            if self.adaptive:
                return maps.clone()
            if not self.shortcut:
                same = torch.eye(self.vertices, dtype=maps.dtype, device=maps.device)
                maps = torch.cat((maps, same[None]))
            return maps.permute(2, 0, 1).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, time, units = x.shape
        last = x.permute(0, 2, 3, 1)
        people = last.reshape(-1, self.vertices, channels)
        rows = self._adapted(people) if self.adaptive else self._fixed(people)
        y = product(self.weight, self.bias, rows)
        if self.shortcut:
            y += people.flatten(0, 1)
        return torch.relu_(y).view(batch, time, units, -1).permute(0, 3, 1, 2)

    def _fixed(self, x: Tensor) -> Tensor:
        """``(person, vertex, channel)`` to ``(person * vertex, map * channel)``."""
        products = torch.bmm(self.maps.expand(len(x), *self.maps.shape), x)
        return products.view(len(x) * self.vertices, -1)

    def _adapted(self, x: Tensor) -> Tensor:
        persons, vertices = x.shape[:2]
        compared = product(self.compare, self.compare_bias, x.flatten(0, 1))
        left, right = compared.view(persons, vertices, 2, self.count, self.hidden).unbind(2)
        # (person, map, vertex, hidden) and its like
        similar = left.transpose(1, 2) @ right.permute(0, 2, 3, 1)
        graph = self.maps + similar.div_(self.hidden).softmax(-2)
        if not self.shortcut:
            same = torch.eye(vertices, dtype=x.dtype, device=x.device)
            graph = torch.cat((graph, same.expand(persons, 1, vertices, vertices)), 1)
        # (person, vertex * map, vertex)
        products = torch.bmm(graph.permute(0, 3, 1, 2).flatten(1, 2), x)
        return products.view(persons * vertices, -1)


freezes(GraphConv)(FrozenGraphConv)
