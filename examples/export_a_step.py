"""A network's step in one file, run without PyTorch, a stream in memory of its own beside many that share."""

import tempfile
from pathlib import Path

import numpy as np
import torch

import sentio
from sentio import edge
from sentio.streaming.step_graph import export_step

torch.manual_seed(0)
torch.set_num_threads(1)
net = sentio.create_network("tiny-cnn", classes=10).eval()
stream = sentio.stream(net, frozen=True)
file = export_step(stream, Path(tempfile.mkdtemp()) / "step.onnx")

step = edge.ExportedStep(file, threads=1)
print(f"{file.stat().st_size / 1000:.0f} kB; {step.hop} frames a step, {step.warm_up} steps to warm up")

sound = np.random.default_rng(0).standard_normal((step.warm_up + 4, 1, *step.shape)).astype(np.float32)
own, state = step.in_place(), None
for x in sound:
    output, valid = own.step(x)
    expected = stream.step(torch.from_numpy(x), state)
    state = expected.state
difference = np.abs(output - expected.output.numpy()).max() / np.abs(output).max()
print(f"differs from PyTorch's by {difference:.0e}")

many = edge.StreamBatch(step)
many.join("door", own.state)  # the same stream goes on in company
many.join("yard")
for name in many.names:
    many.push(name, sound[0, 0])
for name, answer in many.run().items():
    left = isinstance(answer.output, edge.Warming)
    print(name, f"answers in {answer.output.steps_left} steps" if left else "answers")
