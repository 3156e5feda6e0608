"""Learned positions, joint and disentangled, and tables for another grid."""

import pytest
import torch

from sentio.core.errors import InputError
from sentio.nn.positions import DisentangledPositions, JointPositions, resize_grid

torch.set_num_threads(1)


def test_numbers_of_both_kinds():
    joint, apart = JointPositions((9, 12), 1, 5), DisentangledPositions((9, 12), 1, 5)
    assert sum(p.numel() for p in joint.parameters()) == 109 * 5
    assert sum(p.numel() for p in apart.parameters()) == (21 + 1) * 5


def test_raster_order_is_time_then_frequency():
    apart = DisentangledPositions((9, 12), 1, 5)
    table = apart((9, 12))
    assert torch.equal(table[2 * 12 + 7], apart.time[2] + apart.frequency[7])
    assert torch.equal(apart.joint()((9, 12)), table)
    assert torch.equal(apart.joint().special, apart.special)


def test_a_disentangled_grid_has_rank_two_per_channel():
    torch.manual_seed(0)
    apart = DisentangledPositions((9, 12), 1, 5).double()
    ranks = [torch.linalg.matrix_rank(channel).item() for channel in apart.joint().grid.unbind(-1)]
    assert ranks == [2] * 5
    joint = JointPositions((9, 12), 1, 5).double()
    assert torch.linalg.matrix_rank(joint.grid[..., 0]).item() == 9


def test_a_shorter_clip_takes_the_first_times_or_any_in_training():
    torch.manual_seed(0)
    apart = DisentangledPositions((9, 2), 1, 3).eval()
    slices = [(apart.time[i : i + 4, None] + apart.frequency).flatten(0, 1) for i in range(6)]
    assert all(torch.equal(apart((4, 2)), slices[0]) for _ in range(5))
    apart.train()
    drawn = [apart((4, 2)) for _ in range(60)]
    starts = [[torch.equal(table, each) for each in slices].index(True) for table in drawn]
    assert set(starts) == set(range(6))


def test_other_grids_are_refused():
    with pytest.raises(InputError, match=r"makes 8x12 patches \(time x frequency\).*for 9x12"):
        JointPositions((9, 12), 1, 5)((8, 12))
    with pytest.raises(InputError, match="makes 10x12 patches"):
        DisentangledPositions((9, 12), 1, 5)((10, 12))


def test_a_shorter_axis_is_cut_around_its_middle():
    grid = torch.arange(101 * 12 * 2.0).reshape(101, 12, 2)
    assert torch.equal(resize_grid(grid, (9, 12)), grid[46:55])
    assert torch.equal(resize_grid(grid, (101, 12)), grid)


def test_a_longer_axis_is_interpolated():
    grid = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
    assert resize_grid(grid, (4, 1)).flatten().tolist() == [0, 0.25, 0.75, 1]
    both = resize_grid(torch.rand(10, 4, 3), (6, 8))
    assert both.shape == (6, 8, 3)
