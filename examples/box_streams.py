"""Many streams in one step call on a box without PyTorch; their state survives a restart."""

import numpy as np
import torch
from torch import nn

import sentio
from sentio import edge
from sentio.core.torch_row import TorchRow
from sentio.tasks.classification import Classification

# At home: a network with an exit, exported with its steps.
torch.manual_seed(0)
first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()]
second = [nn.Conv2d(4, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
stages = {"ears": nn.Sequential(*first), "mind": nn.Sequential(*second)}
net = sentio.add_exits(
    sentio.Staged(stages, input_shapes=(1, 16, 8)), "pooled-linear", at=["ears"], names=["early"], classes=3
)
model = sentio.Model(TorchRow(net), Classification(["door", "rain", "steps"]), policy=sentio.Confidence(0.4))
written = sentio.export(model, "box", stream=sentio.stream(net, hop=4))
print(f"written; probabilities differ from PyTorch by at most {written.difference:.0e}")

# On the box: nothing below needs PyTorch.
box = edge.load("box", threads=1)
batch = edge.StreamBatch(box.stream())
sound = np.random.default_rng(0)
for step in range(8):
    if step in (0, 1, 4):
        batch.join(f"microphone {len(batch)}")
    for name in batch.names:
        batch.push(name, sound.standard_normal((1, 4, 8)).astype(np.float32))
    for name, answer in batch.run().items():
        if isinstance(answer.output, edge.Warming):
            print(step, name, f"warms up, {answer.output.steps_left} steps left")
        else:
            print(step, name, box.task.labels[int(answer.output.argmax())], "from exit", answer.exit)

edge.save_state("microphone.npz", batch.leave("microphone 0"))
state = edge.load_state("microphone.npz")
output, valid, state, *_ = box.step(sound.standard_normal((1, 1, 4, 8)), state)
print("after a restart:", box.task.labels[int(output[0].argmax())], "after", int(state["steps"][0]), "steps")
