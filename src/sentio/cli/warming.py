"""What a command does before the first recording, so that it is not told as that recording's time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentio.core.policy import Deadline

if TYPE_CHECKING:
    from sentio.core.model import Model
    from sentio.core.policy import Policy


def warm_up(model: Model, policy: Policy | None) -> None:
    """Load what is loaded at first use, and time the exits where a deadline asks for it.

    Args:
        model: answers about a window of noise, where it hears.
        policy: instead of the model's own.

    Raises:
        ConfigError: the policy does not fit.
    """
    import numpy as np

    from sentio.audio.windows import AudioFrontEnd

    if isinstance(policy or model.policy, Deadline):
        model.time_exits()  # a deadline is about this machine
    if isinstance(model.frontend, AudioFrontEnd):
        noise = np.random.Generator(np.random.PCG64(0)).normal(0, 0.1, model.frontend.window_samples)
        model.predict((noise.astype(np.float32), model.frontend.log_mel.rate), policy=policy)
