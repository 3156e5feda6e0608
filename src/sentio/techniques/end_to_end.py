"""End-to-end training: one loss over all exits, every parameter trained."""

from __future__ import annotations

from collections.abc import Mapping

from sentio.core.anytime import FINAL
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.techniques.phases import Phase, loss_weights


@register("technique", "end-to-end", paper="BranchyNet, Teerapittayanon et al., ICPR 2016")
def build(net: MultiExit, /, *, weights: float | Mapping[str, float] = 1.0) -> list[Phase]:
    """All parameters on the weighted sum of all exits' losses.

    The loss is ``l_final + sum_b weights[b] * l_b``. An exit of weight 0 is left out: it is not computed and
    its parameters stay as they are.

    Args:
        net: the network.
        weights: of the early exits' losses, one for all or by exit.

    Raises:
        UnknownNameError, ConfigError: the weights do not fit the exits.
    """
    weight = {name: value for name, value in loss_weights(net, weights).items() if value > 0}
    return [Phase("end-to-end", net.stage_names, tuple(weight), {**weight, FINAL: 1.0})]
