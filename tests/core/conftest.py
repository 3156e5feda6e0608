"""A layer that takes time by a clock of the test's own."""

import pytest


@pytest.fixture(scope="session")
def takes():
    """``takes(clock, ms, layer)``: the layer, which sets the clock, a list of seconds, on by milliseconds."""
    nn = pytest.importorskip("torch").nn

    class Takes(nn.Module):
        def __init__(self, clock, ms, layer):
            super().__init__()
            self.clock, self.ms, self.layer = clock, ms, layer

        def forward(self, x):
            self.clock.append(self.clock[-1] + self.ms / 1000)
            return self.layer(x)

    return Takes
