"""Counts people by eye and ear: scenes are made, a small counter is trained, and its densities are drawn."""

import numpy as np
import torch

import sentio
from sentio.audio.frontend import LogMel
from sentio.core.task import Batch
from sentio.data.simulate.crowd import crowd_picture
from sentio.tasks.counting import Counting, counts_of
from sentio.vision.density import density_map
from sentio.vision.density_picture import density_picture, write_png

SIZE = (64, 96)
torch.manual_seed(0)
log_mel = LogMel(rate=16_000, n_fft=512, hop_length=320, n_mels=32, log="ln", offset=0.01)
scenes = [crowd_picture(seed, size=SIZE, people=(0, 20)) for seed in range(32)]
x = {
    "main": torch.from_numpy(np.stack([s.pixels.transpose(2, 0, 1) / 255 - 0.4 for s in scenes])).float(),
    "audio": torch.from_numpy(np.stack([log_mel(s.sound)[None, :48] for s in scenes])).float(),
}
densities = np.stack([density_map(s.points, SIZE, sigma=3.0, side=11) for s in scenes])
truth = torch.tensor([float(s.count) for s in scenes])

net = sentio.create_network("audio-csrnet", size=SIZE, audio_size=(48, 32), width=4, answer="density")
sees_and_hears = [[("visual4", "main"), ("audio4", "audio")]]
net = sentio.add_exits(net, "density-ee", at=["visual4"], names=["V1"], classes=1, answer="density")
net = sentio.add_exits(
    net, "density-ee", at=["audio4"], names=["AV1"], reads=sees_and_hears, classes=1, answer="density"
)
task = Counting(density_scale=20.0, count_weight=0.05)
optimizer = torch.optim.Adam(net.parameters(), 3e-3)
for _ in range(20):
    optimizer.zero_grad()
    batch = Batch(x, {"count": truth, "density": torch.from_numpy(densities)})
    sum(task.loss(output, batch) for output in net(x).values()).backward()
    optimizer.step()

with torch.no_grad():
    outputs = {name: output.numpy() for name, output in net.eval()(x).items()}
for name, output in outputs.items():
    error = task.score(output, {"count": truth.numpy()})["mae"]
    print(f"{name:6} {counts_of(output)[0]:5.1f} of {truth[0]:.0f} in the first scene, MAE {error:.1f}")
maps = {"true": densities[0]} | {name: output[0, 0] for name, output in outputs.items()}
write_png("crowd.png", density_picture(scenes[0].pixels, maps, scale=3))
print("crowd.png: the photo, the true density, and that of", ", ".join(outputs))
