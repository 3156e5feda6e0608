import numpy as np
import pytest

from sentio.core.errors import InputError
from sentio.tasks.metrics.verification import best_threshold, pair_distances, roc, verify

#: the worked example of the sheet `metric_early_exits`, section 6.9
DISTANCES = np.array([0.2, 0.4, 0.5, 0.9, 1.1, 1.3])
SAME = np.array([True, True, False, True, False, False])


def test_the_threshold_of_the_worked_example():
    threshold, accuracy = best_threshold(DISTANCES, SAME)
    assert accuracy == pytest.approx(5 / 6)
    assert threshold == pytest.approx(0.45)
    shuffled = np.random.default_rng(0).permutation(6)
    assert best_threshold(DISTANCES[shuffled], SAME[shuffled]) == (threshold, accuracy)


def test_the_threshold_is_the_best_of_all():
    generator = np.random.default_rng(1)
    for _ in range(30):
        distances = generator.integers(1, 8, 20) / 4
        same = generator.random(20) < 0.5
        threshold, accuracy = best_threshold(distances, same)
        assert ((distances < threshold) == same).mean() == accuracy
        tried = [((distances < t) == same).mean() for t in np.arange(0.1, 3, 0.125)]
        assert accuracy == max(tried)


def test_the_threshold_parts_distances_with_no_number_between_them():
    distances, same = np.array([1.0, np.nextafter(1.0, 2.0)]), np.array([True, False])
    threshold, accuracy = best_threshold(distances, same)
    assert ((distances < threshold) == same).all() and accuracy == 1.0


def test_pairs_that_are_all_alike():
    assert best_threshold(np.array([0.5, 0.5]), np.array([False, False])) == (0.25, 1.0)
    assert best_threshold(np.array([0.5, 1.0]), np.array([True, True])) == (1.5, 1.0)
    assert best_threshold(np.zeros(2), np.array([True, True])) == (1.0, 1.0)


def test_each_fold_is_judged_by_the_threshold_of_the_others():
    distances = np.array([1.0, 3.0, 1.0, 3.0, 4.0, 6.0])
    same = np.array([True, False] * 3)
    found = verify(distances, same, np.array([0, 0, 1, 1, 2, 2]))
    assert found.thresholds == (2.0, 2.0, 2.0)
    assert found.folds == (1.0, 1.0, 0.5)
    assert found.accuracy == pytest.approx(5 / 6)
    assert found.deviation == pytest.approx(np.std([1, 1, 0.5]))


def test_roc_of_the_worked_example():
    false, true, area = roc(DISTANCES, SAME)
    assert false.tolist() == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert true.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
    # The share of (same, other) pairs of which the same is nearer.
    nearer = np.mean([a < b for a in DISTANCES[SAME] for b in DISTANCES[~SAME]])
    assert area == pytest.approx(nearer)
    assert roc(np.ones(4), np.array([True, False, True, False]))[2] == 0.5


def test_distances_of_embeddings():
    first, second = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [0.0, 2.0]])
    assert pair_distances(first, second).tolist() == [0.0, 1.0]
    assert pair_distances(first, second, normalise=False).tolist() == [5.0, 2.0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: best_threshold(DISTANCES, SAME[:3]), "Verification needs distances"),
        (lambda: best_threshold(DISTANCES[:0], SAME[:0]), "at least one"),
        (lambda: best_threshold(DISTANCES * np.nan, SAME), "NaN or infinite"),
        (lambda: verify(DISTANCES, SAME, np.zeros(6, int)), "at least two folds"),
        (lambda: roc(DISTANCES, SAME | True), "pairs of the same person and pairs of two"),
        (lambda: pair_distances(np.zeros((2, 3)), np.zeros((2, 4))), "pair up"),
        (lambda: pair_distances(np.full((2, 3), np.nan), np.zeros((2, 3))), "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
