"""Windows that are appended to without a copy: what they give, and that no state sees another's units."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import sentio
from sentio.nn.streaming_buffers import append, joined, order, pays


def units(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(1, 1, -1).expand(2, 3, -1).contiguous()


def test_it_is_a_concatenation_for_as_long_as_it_goes_on() -> None:
    kept = plain = units(0, 0, 0, 0)
    for number in range(1, 40):
        window, kept = append(kept, units(number), 2)
        expected = torch.cat((plain, units(number)), 2)
        plain = expected[:, :, 1:]
        torch.testing.assert_close(window, expected, rtol=0, atol=0)
        torch.testing.assert_close(kept, plain, rtol=0, atol=0)


def test_most_steps_move_nothing() -> None:
    kept, places = units(*range(100)), set()
    for number in range(100):
        _, kept = append(kept, units(number), 2)
        places.add(kept.untyped_storage().data_ptr())
    assert len(places) <= 5


def test_an_old_state_stays_and_can_be_stepped_again() -> None:
    _, first = append(units(1, 2, 3), units(4), 2)
    before = first.clone()
    window, second = append(first, units(5), 2)
    other, third = append(first, units(6), 2)
    torch.testing.assert_close(first, before)
    torch.testing.assert_close(window, units(2, 3, 4, 5))
    torch.testing.assert_close(other, units(2, 3, 4, 6))
    torch.testing.assert_close(append(second, units(7), 2)[1], units(4, 5, 7))
    torch.testing.assert_close(append(third, units(8), 2)[1], units(4, 6, 8))


def test_a_copy_of_a_state_does_not_write_into_the_first() -> None:
    _, first = append(units(1, 2, 3), units(4), 2)
    second = copy.deepcopy(first)
    third = append(first, units(5), 2)[1]
    torch.testing.assert_close(append(second, units(6), 2)[1], units(3, 4, 6))
    torch.testing.assert_close(third, units(3, 4, 5))


def test_threads_that_step_one_state_at_once_each_get_their_own() -> None:
    _, first = append(units(*range(500)), units(500), 2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: append(first, units(number), 2)[1], range(1000, 1064)))
    assert [int(kept[0, 0, -1]) for kept in found] == list(range(1000, 1064))


def test_what_inference_mode_has_made_is_copied_outside_of_it() -> None:
    with torch.inference_mode():
        _, kept = append(units(1, 2, 3), units(4), 2)
    torch.testing.assert_close(append(kept, units(5), 2)[1], units(3, 4, 5))


def test_gradients_and_small_windows_take_a_copy() -> None:
    assert not pays(torch.zeros(1, 64, 1024))  # gradients are on
    with torch.no_grad():
        assert pays(torch.zeros(1, 64, 1024))
        assert not pays(torch.zeros(1, 1, 8))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_widely_dilated_stream_equals_its_clip_and_can_fork(frozen: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, dilation=(70, 1), padding=(0, 1)), nn.ReLU()).eval()
    stream = sentio.stream(net, example=torch.zeros(1, 8, 141, 16), frozen=frozen)
    x = torch.randn(2, 8, 330, 16)
    state, outputs, forks = None, [], []
    for t in range(330):
        if t == 200:
            fork = state
        output, valid, state = stream.step(x[:, :, t], state)
        if valid.all():
            outputs.append(output)
    for t in range(200, 330):  # again from what was kept in the middle
        output, _, fork = stream.step(x[:, :, t], fork)
        forks.append(output)
    with torch.no_grad():
        expected = net(x)
    torch.testing.assert_close(torch.cat(outputs, 2), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat(forks, 2), expected[:, :, -130:], rtol=1e-5, atol=1e-5)


def test_axes_lie_in_memory_as_the_reader_wants_them() -> None:
    lies = order(0, 3, 2, 1, axis=2)  # the channels of consecutive units in one piece
    kept = plain = torch.zeros(2, 3, 4, 5)
    for number in range(1, 12):
        x = torch.randn(2, 3, 1, 5) + number
        expected = torch.cat((plain, x), 2)
        window, kept = append(kept, x, 2, lies)
        copied = joined(plain, x, 2, lies)
        for found in (window, copied):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            assert found.stride()[1:3] == (1, 3)
        plain = expected[:, :, 1:]
