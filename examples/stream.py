"""A network that was trained on clips takes a hop at a time, for many streams at once."""

import torch

import sentio
from sentio.streaming.batch import StreamBatch, Warming

torch.manual_seed(0)
net = sentio.create_network("cnn6", classes=10).eval()
stream = sentio.stream(net, window=64)
print(f"a step takes {stream.hop} frames; the first answer comes after {stream.warm_up + 1} steps")

clip = torch.randn(1, 1, 160, 64)
whole = stream.clip(clip)

batch = StreamBatch(stream)
batch.join("door")
batch.push("door", clip[0, :, :128])
for step in range(8):
    if step == 3:
        batch.join("window")  # later than the other
        batch.push("window", torch.randn(1, 80, 64))
    answers = batch.run()
    for name, answer in answers.items():
        print(step, name, answer.output if isinstance(answer.output, Warming) else "answers")

state = batch.leave("door")  # a dict of tensors: keep it in a file, move it, go on elsewhere
output, valid, state = stream.step(clip[:, :, 128:144], state)
print("difference to the whole clip:", (output - whole[:, 8 - stream.warm_up]).abs().max().item())
