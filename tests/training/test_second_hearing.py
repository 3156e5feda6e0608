"""Windows of a training part through another front end: which belongs to which, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from sentio.core import registry
from sentio.core.errors import ConfigError
from sentio.data.features import FeatureSet
from sentio.training.second_hearing import heard_through


def log_mel(**options):
    return registry.build("frontend", "log-mel", rate=8000, n_fft=256, hop_length=128, n_mels=8, **options)


def windows(rows, middles, values=None):
    rows, middles = np.array(rows), np.array(middles)
    inputs = np.arange(len(rows)) if values is None else np.array(values)
    times = np.stack([middles - 0.5, middles + 0.5], axis=1)
    return FeatureSet(inputs, np.zeros(len(rows)), rows, np.zeros(len(rows), bool), {}, (), times)


def test_each_window_gets_the_nearest_of_its_recording():
    ours = windows([1, 1, 3], [0.5, 1.5, 0.5])
    theirs = windows([1, 1, 1, 2, 3], [0.51, 1.0, 1.49, 0.5, 0.7], [10, 11, 12, 20, 30])
    asked = []
    found = heard_through(
        log_mel(window=0.5), log_mel(window=1.0), ours, lambda frontend: (asked.append(frontend), theirs)[1]
    )
    assert found.tolist() == [10, 12, 30]
    # Windows as far apart as ours, which are a window apart where nobody says, and as long as they were.
    assert (asked[0].settings()["hop"], asked[0].settings()["window"]) == (1.0, 0.5)


def test_a_recording_that_it_gives_nothing_of():
    with pytest.raises(ConfigError, match="gives no window of a recording that is trained on"):
        heard_through(
            log_mel(window=1.0), log_mel(window=1.0), windows([4], [0.5]), lambda _: windows([5], [0.5])
        )


def test_a_front_end_of_something_else():
    images = registry.build("frontend", "image", height=8, width=8)
    with pytest.raises(ConfigError, match="cannot take what is trained on by"):
        heard_through(images, log_mel(window=1.0), windows([0], [0.5]), lambda _: windows([0], [0.5]))
