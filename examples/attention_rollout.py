"""Where a small transformer has learned to look: it names a short sound at any time and pitch."""

import torch
from torch.nn.functional import cross_entropy

from sentio.core.staged import create_network
from sentio.nn.attention_rollout import class_token_map
from sentio.nn.patchout import draw_patchout

generator = torch.Generator().manual_seed(0)
# Two tones, a click and a slide on 16 frames x 16 bands.
low, high, click, slide = torch.zeros(4, 16, 16)
low[:, 2:5], high[:, 11:14], click[2:5] = 3, 3, 3
slide += 3 * sum(torch.diag(torch.ones(16 - abs(k)), k) for k in (-1, 0, 1))
SOUNDS = torch.stack([low, high, click, slide])


def clips(number):
    """Noise with one sound, as log-mels (time, frequency); which sound, and in which of 6 x 4 patches."""
    x = 0.5 * torch.randn(number, 1, 96, 64, generator=generator)
    sounds, places = (torch.randint(n, (number,), generator=generator) for n in (4, 24))
    for clip, sound, place in zip(x, sounds, places.tolist(), strict=True):
        time, frequency = 16 * (place // 4), 16 * (place % 4)
        clip[0, time : time + 16, frequency : frequency + 16] += SOUNDS[sound]
    return x, sounds, places


torch.manual_seed(0)
options = {"size": (96, 64), "patch": 16, "stride": 16, "dim": 32, "layers": 2, "heads": 4, "classes": 4}
net = create_network("vit-small", **options)
optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
for _ in range(60):
    x, sounds, _ = clips(32)
    loss = cross_entropy(net(x), sounds)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

net.eval()
x, sounds, places = clips(200)
with torch.no_grad():
    print(f"{(net(x).argmax(1) == sounds).float().mean():.0%} of 200 clips named right")
heat = class_token_map(net, x)  # (clip, time, frequency)
found = heat.flatten(1).argmax(1) == places
print(f"in {found.float().mean():.0%} the class token looks most at the patch with the sound, of 24")

keep = draw_patchout((6, 4), time=3, batch=200, generator=generator)
half = class_token_map(net, {"main": x, "keep": keep})
print(
    f"with patchout {keep.shape[1]} patches are seen, {int(half[0].isnan().sum())} are missing from the map"
)
