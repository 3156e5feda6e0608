"""Where a transformer looks in a second of sound, with all patches and with half of them."""

import numpy as np
import torch

from sentio.core.staged import create_network
from sentio.nn.attention_rollout import class_token_map, on_input
from sentio.nn.patchout import draw_patchout

# Half a second of noise, then a tone, as a log-mel would show them: (time, frequency).
clip = np.random.default_rng(0).normal(-1, 0.1, (100, 128)).astype("float32")
clip[:50] += 1
clip[50:, 40:44] += 3
x = torch.from_numpy(clip)[None, None]

torch.manual_seed(0)
net = create_network("vit-small", classes=10).eval()  # untrained: it looks everywhere about alike
patches = net.stage("patches")
print("grid (time, frequency):", patches.grid)

heat = class_token_map(net, x)
drawn = on_input(heat, clip.shape, patch=12, stride=12)[0]
print(f"of the class token's weight on patches, {heat[0, 4:].sum() / heat.sum():.0%} is on the second half")
print(f"drawn over {int((~drawn.isnan()).sum()):,} of {drawn.numel():,} cells of the input")

keep = draw_patchout(patches.grid, frequency=5, generator=torch.Generator().manual_seed(0))
half = class_token_map(net, {"main": x, "keep": keep})
print(f"with patchout: {keep.shape[1]} patches kept, {int(half.isnan().sum())} missing from the map")
