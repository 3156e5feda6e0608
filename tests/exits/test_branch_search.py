"""The search over patch, width and heads: counts, the limit, the order, refusals."""

import pytest
import torch

from sentio.core import registry
from sentio.core.counting import count
from sentio.core.errors import ConfigError
from sentio.exits.branch_search import candidates, cnn_parameters, search_sl_vit

torch.set_num_threads(1)


@pytest.mark.parametrize(("shape", "outputs"), [((12, 12, 18), 7), ((128, 28, 28), 10)])
def test_costs_are_those_of_the_branch(shape, outputs):
    found = candidates(shape, outputs)
    for candidate in found[:: max(1, len(found) // 4)]:
        with torch.device("meta"):
            branch = registry.build("exit", "sl-vit", (shape,), outputs, **candidate.options)
        assert sum(p.numel() for p in branch.parameters()) == candidate.parameters
        assert count(branch, torch.empty(1, *shape, device="meta")).total == candidate.macs


def test_none_is_larger_than_cnn_ee_and_each_is_as_wide_as_goes():
    shape, limit = (128, 28, 28), 779_290
    assert cnn_parameters(shape, 10) == limit
    found = candidates(shape, 10, dims=range(8, 129, 4))
    assert {c.parameters <= limit for c in found} == {True}
    pairs = [(c.patch, c.heads) for c in found]
    assert len(set(pairs)) == len(pairs)
    for c in found:
        wider = candidates(shape, 10, limit=10**9, patches=[c.patch], heads=[c.heads], dims=[c.dim + 4])
        assert c.dim == 128 or wider[0].parameters > limit
    assert [c.macs for c in found] == sorted((c.macs for c in found), reverse=True)


def test_the_papers_choice_is_within_the_limit():
    found = candidates((128, 28, 28), 10, patches=[4], heads=[12], dims=[8, 16, 32])
    assert [(c.options, c.parameters) for c in found] == [({"patch": 4, "dim": 32, "heads": 12}, 591_818)]


def test_the_best_by_score_comes_first_and_of_equals_the_cheaper():
    found = search_sl_vit((8, 8, 8), 3, lambda c: -abs(c.heads - 4), heads=[1, 4, 8], dims=[8, 16])
    assert found[0].heads == 4 and found[0].score == 0
    best = [c for c in found if c.heads == 4]
    assert [c.macs for c in best] == sorted(c.macs for c in best)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert search_sl_vit((8, 8, 8), 3)[0].score is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 1000}, r"has at most 1,000 parameters; the smallest that was looked at has \d"),
        ({"patches": [3]}, "Patches of 3x3 do not divide a 8x8 map"),
        ({"heads": []}, "needs heads of whole numbers from 1 up"),
        ({"dims": [0]}, "needs dims of whole numbers from 1 up"),
    ],
)
def test_searches_without_a_result_are_refused_in_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        candidates((8, 8, 8), 3, **options)
    assert ". " not in str(error.value)
