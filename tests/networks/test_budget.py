"""The search for the largest member under a budget."""

from dataclasses import dataclass

import pytest
import torch

import sentio
from sentio.core import registry
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.profiling import profile
from sentio.networks import budget
from sentio.networks.budget import Member, families, largest_within

torch.set_num_threads(1)


@dataclass(frozen=True)
class Published:
    alpha: float
    t0: int
    params: int  # as the paper counts them
    macs: int
    ram: int


#: The EUSIPCO paper's nine networks, a row for each t0.
NINE = [
    [
        Published(0.20, 2, 4_779, 795_520, 34_020),
        Published(0.35, 2, 12_479, 2_248_506, 60_480),
        Published(0.50, 2, 24_507, 4_705_084, 90_720),
    ],
    [
        Published(0.20, 4, 8_893, 1_590_660, 56_880),
        Published(0.35, 4, 23_797, 4_496_342, 101_120),
        Published(0.50, 4, 47_349, 9_409_208, 151_680),
    ],
    [
        Published(0.20, 6, 13_007, 2_385_800, 85_320),
        Published(0.35, 6, 35_115, 6_744_178, 151_680),
        Published(0.50, 6, 70_191, 14_113_332, 227_520),
    ],
]
LIMITS = [None, 1_000, 4_779, 9_000, 24_000, 60_000, 101_120, 1_600_000, 2_300_000, 5_000_000, 20_000_000]


def chosen(**limits):
    best = largest_within(NINE, {name: limit for name, limit in limits.items() if limit is not None})
    return best and (best.alpha, best.t0)


def test_the_sheets_choices_among_the_published_nine():
    assert chosen(params=24_000, ram=101_120) == (0.35, 4)
    assert chosen(params=24_000, macs=2_300_000, ram=101_120) == (0.35, 2)
    assert chosen(params=4_778) is None
    assert chosen(params=4_779, macs=795_520, ram=34_020) == (0.20, 2)
    assert chosen() == (0.50, 6)


@pytest.mark.parametrize("params", LIMITS)
@pytest.mark.parametrize("ram", LIMITS)
def test_the_choice_is_the_largest_of_all_that_fit(params, ram):
    for macs in LIMITS:
        limits = {"params": params, "macs": macs, "ram": ram}
        fitting = [
            net
            for row in NINE
            for net in row
            if all(limit is None or getattr(net, name) <= limit for name, limit in limits.items())
        ]
        best = max(fitting, key=lambda net: (net.macs, net.params), default=None)
        assert chosen(**limits) == (best and (best.alpha, best.t0))


def test_the_network_is_within_all_limits_and_costs_what_was_counted():
    limits = {"params": 30_000, "macs": 5_000_000, "ram": 100_000}
    net = sentio.fit_budget("phinet", **limits, classes=50)
    found = profile(net, measure=False)
    member = Member("phinet", net.spec["options"], (1, 126, 40))
    assert (found.parameters, found.macs) == (member.params, member.macs)
    assert all(getattr(member, name) <= limit for name, limit in limits.items())
    # A good part of a budget is used.
    assert max(getattr(member, name) / limit for name, limit in limits.items()) > 0.85
    with torch.no_grad():
        assert net.eval()(net.example(2)).shape == (2, 50)
    assert next(net.parameters()).device.type == "cpu"


def test_a_higher_limit_never_gives_less_work(monkeypatch):
    small = {"alpha": [0.1, 0.2, 0.35, 0.5], "t0": [2.0, 4.0, 6.0]}
    monkeypatch.setitem(budget.SCALING, "phinet", small)
    shape = (1, 40, 16)
    work = [
        profile(sentio.fit_budget("phinet", params=params, shape=shape), measure=False).macs
        for params in (2_000, 4_000, 8_000, 16_000, 32_000, 64_000)
    ]
    assert work == sorted(work)
    assert work[0] < work[-1]


@pytest.mark.parametrize(
    ("family", "limits", "shape"),
    [
        ("phinet-1d", {"macs": 100_000}, (1, 16_000)),
        ("phinet-icassp", {"params": 3_000}, (1, 40, 20)),
        ("bc-resnet", {"params": 12_000}, (1, 40, 32)),
        ("cp-mobile", {"macs": 2_000_000}, (1, 40, 32)),
        ("dcase2024-baseline", {"macs": 2_000_000}, (1, 40, 32)),
        ("tiny-cnn", {"params": 20_000}, (2, 40, 32)),
        ("resnet8", {"ram": 20_000}, (3, 24, 24)),
        ("cnn6", {"params": 200_000}, (1, 40, 32)),
    ],
)
def test_other_families(family, limits, shape):
    net = sentio.fit_budget(family, **limits, shape=shape, classes=3)
    assert net.spec["network"] == family
    assert net.input_shapes == {"main": shape}
    member = Member(family, net.spec["options"], shape)
    assert all(getattr(member, name) <= limit for name, limit in limits.items())
    with torch.no_grad():
        assert net.eval()(net.example(1)).shape == (1, 3)


@pytest.mark.parametrize("family", sorted(budget.SCALING))
def test_no_cost_falls_with_the_width(family):
    """What the search relies on, in one row of each family, small inputs."""
    shape = {"phinet-1d": (1, 12_000)}.get(family, (1, 32, 24))
    row = budget._members(family, shape, 4)[-1][::3]
    for name in ("params", "macs", "ram"):
        costs = [getattr(member, name) for member in row]
        assert costs == sorted(costs), name


def test_what_is_a_family():
    found = families()
    assert {"phinet", "phinet-icassp", "phinet-1d", "dcase2024-baseline", "resnet8", "tiny-cnn"} <= set(found)
    assert "tap-cnn" not in found
    for name in found:
        assert next(iter(budget._scaling(name))) in registry.find("network", name).options()


def test_an_unknown_family():
    with pytest.raises(UnknownNameError, match=r"Unknown family 'phinett'; did you mean 'phinet'\?"):
        sentio.fit_budget("phinett", params=10_000)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("tap-cnn", {"params": 9}, r"'tap-cnn' comes in one size; choose one of: .*phinet"),
        ("phinet", {}, "needs at least one limit: params, macs or ram"),
        ("phinet", {"params": 0}, "needs params to be a number above 0, got 0"),
        ("phinet", {"ram": "64k"}, "needs ram to be a number above 0, got '64k'"),
        ("phinet", {"params": 9_000, "shape": (64, 40)}, r"such as 1x126x40, got shape \(64, 40\)"),
        ("phinet-icassp", {"params": 9_000, "shape": (1, 2, 2)}, "cannot take inputs of shape 1x2x2"),
        ("phinet-1d", {"macs": 100, "shape": (1, 900)}, "cannot take inputs of shape 1x900"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(family, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        sentio.fit_budget(family, **options)
    assert ". " not in str(error.value)


def test_where_nothing_fits_the_smallest_is_named():
    with pytest.raises(ConfigError) as error:
        sentio.fit_budget("phinet", params=1_300, ram=64_000, shape=(1, 40, 20))
    smallest = Member("phinet", {"alpha": 0.1, "t0": 2.0}, (1, 40, 20))
    assert str(error.value) == (
        "No member of family 'phinet' fits params=1,300, ram=64,000 for inputs of shape 1x40x20; "
        f"the smallest has {smallest.params:,} parameters, {smallest.macs:,} MACs and "
        f"{smallest.ram:,} bytes of activations"
    )
    assert smallest.params == 1_372


def test_the_head_of_a_family_stays_its_own():
    found = sentio.fit_budget("sound-resnet", params=116_690)
    assert found.spec["options"] == {"width": 16, "in_channels": 1, "classes": 10}
    own = sentio.create_network("sound-resnet")
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in own.named_parameters()]
