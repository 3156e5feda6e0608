"""A map taken apart and put together again."""

import pytest
import torch

from sentio.nn.unfolding import fold, unfold

torch.set_num_threads(1)


@pytest.mark.parametrize(("size", "patch"), [((4, 6), 2), ((6, 4), 2), ((6, 9), 3), ((2, 2), 2)])
def test_folding_undoes_unfolding_exactly(size, patch):
    torch.manual_seed(0)
    x = torch.randn(3, 5, *size)
    sequences = unfold(x, patch)
    assert sequences.shape == (3 * patch**2, size[0] * size[1] // patch**2, 5)
    assert torch.equal(fold(sequences, size, patch), x)


def test_a_sequence_is_one_cell_of_every_patch():
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert unfold(x)[..., 0].tolist() == [
        [0, 2, 4, 12, 14, 16],
        [1, 3, 5, 13, 15, 17],
        [6, 8, 10, 18, 20, 22],
        [7, 9, 11, 19, 21, 23],
    ]
