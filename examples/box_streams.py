"""Many streams in one step call on a box without PyTorch; their state survives a restart."""

import numpy as np
import torch
from torch import nn

import sentio
from sentio import edge
from sentio.core import registry
from sentio.core.torch_row import TorchRow
from sentio.tasks.classification import Classification

# At home: a network with an exit, exported with its steps. The front end measures nothing by the whole clip.
torch.manual_seed(0)
ears = registry.build("frontend", "log-mel", window=0.2, rate=8000, n_fft=256, hop_length=80, n_mels=8)
first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()]
second = [nn.Conv2d(4, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
stages = {"ears": nn.Sequential(*first), "mind": nn.Sequential(*second)}
net = sentio.Staged(stages, input_shapes=ears.input_shapes)
net = sentio.add_exits(net, "pooled-linear", at=["ears"], names=["early"], classes=3)
task = Classification(["door", "rain", "steps"])
model = sentio.Model(TorchRow(net), task, frontend=ears, policy=sentio.Confidence(0.4))
written = sentio.export(model, "box", stream=sentio.stream(net, hop=4))
print(f"written; probabilities differ from PyTorch by at most {written.difference:.0e}")

# On the box: nothing below needs PyTorch. A step takes 320 samples of every stream, and answers.
box = edge.load("box", threads=1)
stream = box.stream(samples=True)
batch = edge.StreamBatch(stream)
sound = np.random.default_rng(0)
for block in range(16):
    if block in (0, 1, 4):
        batch.join(f"microphone {len(batch)}")
    for name in batch.names:
        batch.push(name, sound.normal(0, 0.1, 250).astype(np.float32))
    for name, answer in batch.run().items():
        if isinstance(answer.output, edge.Warming):
            print(block, name, f"warms up, {answer.output.steps_left} steps left")
        else:
            print(block, name, task.labels[int(answer.output.argmax())], "from exit", answer.exit)

edge.save_state("microphone.npz", batch.leave("microphone 0"))
state = edge.load_state("microphone.npz")
output, valid, state, *_ = stream.step(sound.normal(0, 0.1, (1, stream.hop)), state)
print("after a restart:", task.labels[int(output[0].argmax())], "after", int(state["steps"][0]), "steps")
