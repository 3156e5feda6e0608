"""A network as stages, with exits: take answers as they come, and let sure samples leave."""

import torch

import sentio
from sentio.core.torch_row import TorchRow
from sentio.tasks.classification import Classification

torch.manual_seed(0)
net = sentio.create_network("dcase2024-baseline", classes=10)
net = sentio.add_exits(net, "pooled-linear", at=["block2", "block4"], classes=10).eval()
x = net.backbone.example(batch=8)

with torch.inference_mode():
    for step in net.anytime(x):
        sure = step.output.softmax(dim=1).amax(dim=1) > 0.102
        print(f"{step.exit:8} answers {len(step.samples)} samples, {int(sure.sum())} leave")
        step.drop(sure)

answers = net.predict(x, sentio.Confidence(0.102))
print("the same under a policy:", answers.exit_names())

model = sentio.Model(TorchRow(net), Classification([f"scene {number}" for number in range(10)]))
with model.background(x) as running:  # in another thread, for whoever does not know when it has to answer
    running.wait(seconds=0.05)
    newest = running.stop()
print("interrupted after 50 ms:", "no answer yet" if newest is None else f"answered by {newest.exit}")
