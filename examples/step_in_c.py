"""A network's step as one file of C, compiled and called from Python beside PyTorch's."""

import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import sentio
from sentio import edge
from sentio.core.errors import MissingProgramError
from sentio.exporting.c import compile_c, write_c
from sentio.streaming.step_graph import export_step

torch.manual_seed(0)
torch.set_num_threads(1)
net = sentio.create_network("tiny-cnn", classes=10).eval()
stream = sentio.stream(net, frozen=True)
folder = Path(tempfile.mkdtemp())
source = write_c(export_step(stream, folder / "step.onnx"), folder / "step.c")
print(f"{source.name}: {source.stat().st_size / 1000:.0f} kB, no dependencies")

try:
    step = edge.CompiledStep(compile_c(source))
except MissingProgramError as error:
    print(error)
    raise SystemExit from None

own, state = step.in_place(), None
sound = np.random.default_rng(0).standard_normal((step.warm_up + 50, 1, *step.shape)).astype(np.float32)
times = []
for x in sound:
    begun = perf_counter()
    output, valid = own.step(x)
    between = perf_counter()
    expected = stream.step(torch.from_numpy(x), state)
    times.append((between - begun, perf_counter() - between))
    state = expected.state
difference = np.abs(output - expected.output.numpy()).max() / np.abs(output).max()
ours, theirs = np.median(times[step.warm_up :], axis=0) * 1e6
print(f"a step takes {ours:.0f} µs, PyTorch's {theirs:.0f}; the answers differ by {difference:.0e}")

# Called for many streams at once, and from a state of ONNX Runtime's or PyTorch's streams.
kept = step.from_named({name: value.numpy() for name, value in state.items()})
many = edge.StreamBatch(step)
many.join("door", kept)
many.join("yard")
for name in many.names:
    many.push(name, sound[0, 0])
for name, answer in many.run().items():
    left = isinstance(answer.output, edge.Warming)
    print(name, f"answers in {answer.output.steps_left} steps" if left else "answers")
