"""How long exits take: of whole answers, as a deadline counts."""

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from sentio.core import answering  # noqa: E402
from sentio.core.multi_exit import add_exits  # noqa: E402
from sentio.core.policy import ExitCosts  # noqa: E402
from sentio.core.staged import Staged  # noqa: E402
from sentio.core.timing import timed_costs  # noqa: E402
from sentio.core.torch_row import TorchRow  # noqa: E402


@pytest.fixture
def clock(monkeypatch):
    found = [0.0]
    for module in ("timing", "answering"):
        monkeypatch.setattr(f"sentio.core.{module}.perf_counter", lambda: found[-1])
    return found


def row(clock, takes, classes=3):
    stages = {"a": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    net = add_exits(Staged(stages, input_shapes={"main": (4,)}), "pooled-linear", at=["a"], classes=classes)
    for (name, stage), ms in zip(list(net.backbone.stages.items()), (1, 4), strict=True):
        net.backbone.stages[name] = takes(clock, ms, stage)
    return TorchRow(net)


def test_the_call_around_the_stages_counts(clock, takes, monkeypatch):
    real = answering.judged

    def that_costs(*arguments):
        clock.append(clock[-1] + 0.002)
        return real(*arguments)

    monkeypatch.setattr(answering, "judged", that_costs)
    costs = timed_costs(row(clock, takes), torch.zeros(1, 4), ExitCosts(("a", "final"), (7, 9)), repeats=3)
    assert costs.names == ("a", "final")
    assert costs.macs == (7, 9)
    assert costs.ms == pytest.approx((3, 9))


def test_exits_of_unlike_shapes_are_timed_by_their_stages(clock, takes):
    costs = timed_costs(row(clock, takes, classes=2), torch.zeros(1, 4), None, repeats=2)
    assert costs.macs == (0, 0)
    assert costs.ms == pytest.approx((1, 5))
