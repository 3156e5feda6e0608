"""Classifier-wise training: exits on a frozen backbone."""

from __future__ import annotations

from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.techniques.phases import Phase


@register("technique", "classifier-wise", paper="Bakhtiarnia et al., Neural Networks 2022, section 2")
def build(net: MultiExit, /, *, train_backbone: bool = True) -> list[Phase]:
    """The backbone alone first, then every exit on its own loss with the backbone frozen.

    In the second phase the backbone's parameters and buffers stay as they are, bit for bit. The exits share
    no parameters, so the sum of their losses trains each as if alone.

    Args:
        net: the network.
        train_backbone: False where the backbone is trained already and only the exits are wanted.

    Raises:
        ConfigError: there is neither a backbone to train nor an exit.
    """
    branches = tuple(spec.name for spec in net.specs)
    exits = Phase("exits", (), branches, dict.fromkeys(branches, 1.0))
    backbone = Phase("backbone", net.stage_names, (), {FINAL: 1.0})
    if train_backbone:
        return [backbone, exits] if branches else [backbone]
    if not branches:
        raise ConfigError(
            "Nothing would be trained: classifier-wise with train_backbone false trains exits only, and the "
            "network has none; add exits"
        )
    return [exits]
