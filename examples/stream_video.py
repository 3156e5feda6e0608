"""Shapes that move across the picture, one frame at a time.

A small X3D learns on clips which way a square moves, and then watches a stream: each frame costs a frame.
The answer follows a change of direction once the window has seen enough of it.
"""

import torch
from torch.nn.functional import cross_entropy

import sentio
from sentio.core.counting import count

LABELS = ("left", "right")
FRAMES, SIDE = 8, 32


def moving(directions: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
    """A bright square on noise that moves two pixels a frame: (batch, 1, frames, SIDE, SIDE)."""
    video = 0.1 * torch.randn(len(directions), 1, frames, SIDE, SIDE, generator=generator)
    starts = torch.randint(SIDE, (len(directions), 2), generator=generator)
    for row, direction in enumerate(directions.tolist()):
        for frame in range(frames):
            left = (starts[row, 0].item() + (2 * direction - 1) * 2 * frame) % SIDE
            columns = [(int(left) + offset) % SIDE for offset in range(6)]
            top = int(starts[row, 1]) % (SIDE - 6)
            video[row, 0, frame, top : top + 6, columns] = 1.0
    return video


torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
net = sentio.create_network(
    "x3d-s",
    classes=2,
    in_channels=1,
    frames=FRAMES,
    side=SIDE,
    width=8,
    blocks=[1, 1, 1, 1],
    hidden=32,
    dropout=0.0,
    squeeze="frame",
)
optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(30):
    directions = torch.randint(2, (12,), generator=generator)
    loss = cross_entropy(net.train()(moving(directions, FRAMES, generator)), directions)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

stream = sentio.stream(net.eval())
clip = count(net, net.example()).total
print(f"clip {clip:,} MACs, frame {stream.macs().total:,}, delay {stream.delay} frames")

there_and_back = torch.cat([moving(torch.tensor([way]), 24, generator) for way in (1, 0)], dim=2)
state = None
for frame in range(there_and_back.shape[2]):
    output, valid, state = stream.step(there_and_back[:, :, frame], state)
    if valid.all() and frame % 4 == 3:
        print(f"frame {frame:2d}: {LABELS[int(output.argmax())]} {output.softmax(1).max().item():.2f}")
