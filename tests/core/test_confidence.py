import numpy as np
import pytest

from sentio.core.confidence import ENTROPY, MAX_PROBABILITY, classifier_confidence, softmax
from sentio.core.errors import UnknownNameError


def test_softmax_of_known_logits():
    probabilities = softmax(np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]]))
    np.testing.assert_allclose(probabilities, [[0.125, 0.25, 0.625], [1 / 3] * 3], atol=1e-15)


def test_softmax_is_stable_and_keeps_the_dtype():
    logits = np.array([[1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32)
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, [[1.0, 0.0], [0.5, 0.5]])


def test_largest_probability():
    logits = np.log([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]])
    np.testing.assert_allclose(classifier_confidence(logits), [0.7, 0.4])
    np.testing.assert_allclose(classifier_confidence(logits, MAX_PROBABILITY), [0.7, 0.4])


def test_entropy_is_turned_and_scaled_between_0_and_1():
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1e4, -1e4], [0.0, -1e4, -1e4, -1e4]])
    np.testing.assert_allclose(classifier_confidence(logits, ENTROPY), [0.0, 0.5, 1.0], atol=1e-12)


def test_entropy_stays_in_range_in_single_precision():
    logits = np.random.default_rng(0).normal(scale=1e-4, size=(500, 7)).astype(np.float32)
    confidence = classifier_confidence(logits, ENTROPY)
    assert confidence.min() >= 0.0
    assert confidence.max() <= 1.0


def test_one_class_is_certain():
    np.testing.assert_array_equal(classifier_confidence(np.zeros((3, 1)), ENTROPY), np.ones(3))


def test_an_unknown_measure_is_named():
    with pytest.raises(UnknownNameError, match="measure of confidence 'max-prob'; did you mean 'max-probab"):
        classifier_confidence(np.zeros((1, 2)), "max-prob")
