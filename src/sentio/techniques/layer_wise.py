"""Layer-wise training: segment by segment, each with the exit at its end."""

from __future__ import annotations

from sentio.core.anytime import FINAL
from sentio.core.cutting import CutNetwork
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.techniques.phases import Phase


@register("technique", "layer-wise", paper="Bakhtiarnia et al., Neural Networks 2022, section 2")
def build(net: MultiExit, /) -> list[Phase]:
    """Up to the first exit with that exit, then frozen; then the next segment with the next exit, and so on.

    Exits behind the same stage are trained together with the segment that ends there.

    Raises:
        ConfigError: the network was cut by graph; its stages do not train on their own.
    """
    if isinstance(net.backbone, CutNetwork):
        raise ConfigError(
            "Layer-wise training takes stages that train on their own, and this network was cut from a whole "
            "by its graph; train it end-to-end or classifier-wise"
        )
    phases = []
    names = net.stage_names
    done = 0
    for stage in dict.fromkeys(spec.after for spec in net.specs):
        end = names.index(stage) + 1
        branches = tuple(spec.name for spec in net.specs if spec.after == stage)
        exits = (*branches, FINAL) if stage == names[-1] else branches
        phases.append(Phase(f"up to {stage}", names[done:end], branches, dict.fromkeys(exits, 1.0)))
        done = end
    if names[done:]:
        phases.append(Phase("up to the end", names[done:], (), {FINAL: 1.0}))
    return phases
