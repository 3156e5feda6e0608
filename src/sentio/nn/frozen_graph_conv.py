"""Graph convolutions as a frozen stream runs them: all maps in one product, norms folded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sentio.nn.graph_conv import AdaptiveGraph, FixedGraph, FreeGraph, GraphConv
from sentio.nn.streaming_frozen import fold, freezes, scale_and_shift, times


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
        joint.weight = nn.Parameter(torch.stack(weights, 2))  # (out, in, map)
        joint.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in conv.convs]).sum(0))
        fold(joint, *scale_and_shift(conv.bn))
        weight, bias = joint.weight, joint.bias
        self.shortcut = isinstance(conv.shortcut, nn.Identity)
        if not self.shortcut:
            aside = nn.Conv2d(1, 1, 1)
            aside.weight, aside.bias = conv.shortcut[0].weight, conv.shortcut[0].bias
            fold(aside, *scale_and_shift(conv.shortcut[1]))
            weight = nn.Parameter(torch.cat((weight, aside.weight.flatten(1).unsqueeze(2)), 2))
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
        """``(map, vertex, vertex)``; side by side, ``(vertex, map * vertex)``, if no sample changes them."""
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
            return maps.transpose(0, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, time, units = x.shape
        people = x.unflatten(3, (-1, self.vertices))  # (batch, channel, time, person, vertex)
        products = self._adapted(people) if self.adaptive else self._fixed(people)
        y = times(self.weight, self.bias, products.reshape(batch, -1, time * units))
        y = y.view(batch, -1, time, units)
        if self.shortcut:
            y += x
        return torch.relu_(y)

    def _fixed(self, x: Tensor) -> Tensor:
        """``(batch, channel, map, time, person, vertex)``."""
        return (x @ self.maps).unflatten(4, (-1, self.vertices)).permute(0, 1, 4, 2, 3, 5)

    def _adapted(self, x: Tensor) -> Tensor:
        batch, channels, time, persons, vertices = x.shape
        compared = times(self.compare, self.compare_bias, x.reshape(batch, channels, -1))
        left, right = compared.view(batch, 2, self.count, self.hidden, time, persons, vertices).unbind(1)
        # (batch, time, person, map, vertex, hidden) and its like
        similar = left.permute(0, 3, 4, 1, 5, 2) @ right.permute(0, 3, 4, 1, 2, 5)
        graph = self.maps + similar.div_(self.hidden).softmax(-2)
        # (batch, time, person, map, channel, vertex)
        products = x.permute(0, 2, 3, 1, 4).unsqueeze(3) @ graph
        products = products.permute(0, 4, 3, 1, 2, 5)
        return products if self.shortcut else torch.cat((products, x.unsqueeze(2)), 2)


freezes(GraphConv)(FrozenGraphConv)
