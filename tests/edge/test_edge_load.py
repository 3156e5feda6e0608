import numpy as np

from sentio import edge
from sentio.core.loading import load


def test_the_edge_loads_exported_stages(artifact, small):
    model = edge.load(artifact, threads=1)
    assert model.runtime == "edge"
    features = small.features(3)
    expected = load(artifact, runtime="edge").answer(features)
    np.testing.assert_array_equal(model.answer(features).outputs, expected.outputs)
