"""Cut a network of somebody else's into stages, and give it exits. Needs: pip install 'sentio[hub]'."""

import torch
from transformers import ResNetConfig, ResNetForImageClassification

import sentio

torch.manual_seed(0)
config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_labels=10)
resnet = ResNetForImageClassification(config).eval()
x = torch.randn(2, 3, 64, 64)

stages = [f"resnet.encoder.stages.{i}" for i in range(2)]
net = sentio.stage(resnet, at=stages, example={"pixel_values": x})
print("boundaries:", net.boundary_shapes())
with torch.inference_mode():
    print("largest difference:", (net({"pixel_values": x}) - resnet(x).logits).abs().max().item())

net = sentio.add_exits(net, "sl-vit", at=stages[:1], classes=10, dim=16, heads=2)
print(sentio.profile(net, {"pixel_values": x[:1]}, measure=False).table())
