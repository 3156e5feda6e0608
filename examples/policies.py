"""One network, six policies: where each sends the samples of a batch, and what that costs."""

from collections import Counter

import numpy as np
import torch

import sentio

torch.manual_seed(0)
net = sentio.create_network("dcase2024-baseline", classes=10)
net = sentio.add_exits(net, "pooled-linear", at=["block2", "block4"], classes=10)
x = net.backbone.example(batch=8)
costs = sentio.profile(net, threads=1).costs  # multiply-accumulates, and milliseconds on this machine
macs, ms = dict(zip(costs.names, costs.macs, strict=True)), dict(zip(costs.names, costs.ms, strict=True))
usual = float(np.median(net.predict(x, sentio.Fixed("block2")).confidence))  # the weights are random

for policy in (
    sentio.Fixed("final"),
    sentio.Confidence({"block2": usual}),
    sentio.Ensemble({"block2": usual}),
    sentio.Patience(1),
    sentio.Budget(macs["block4"]),
    sentio.Deadline(len(x) * ms["block2"]),
):
    answers = net.predict(x, policy, costs=costs)
    spent = sum(macs[name] for name in answers.exit_names()) / len(x)
    print(f"{policy}: {dict(Counter(answers.exit_names()))}")
    print(f"   {spent / 1e6:.1f} M MACs a sample, the last answer after {answers.ms.max():.1f} ms")
