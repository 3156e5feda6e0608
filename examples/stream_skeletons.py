"""A small ST-GCN learns four actions of a simulated figure, then follows another figure frame by frame.

Needs: sentio[torch].
"""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import sentio
from sentio.core.staged import create_network
from sentio.data.simulate.skeletons import skeleton_clip, skeleton_sequence
from sentio.vision.skeletons import SkeletonFrontEnd, normalised

ACTIONS = ("squat", "stand", "walk", "wave")
FRAMES = 30

torch.manual_seed(0)
rng = np.random.default_rng(0)
frontend = SkeletonFrontEnd(frames=FRAMES, persons=1)
targets = torch.arange(80) % len(ACTIONS)
clips = [skeleton_clip(ACTIONS[target], frames=FRAMES, rng=rng) for target in targets]
inputs = torch.from_numpy(np.concatenate([frontend.prepare(clip).inputs for clip in clips]))

# No padding and no stride in time: then a stream's answer is that of the clip network, for each frame.
net = create_network(
    "st-gcn", classes=len(ACTIONS), persons=1, channels=(12, 24), strides=(1, 1), padded=False
)
net.input_shapes = frontend.input_shapes
optimiser = torch.optim.AdamW(net.parameters(), 0.01)
for _ in range(25):
    for rows in torch.randperm(len(targets)).split(20):
        optimiser.zero_grad()
        cross_entropy(net(inputs[rows]), targets[rows]).backward()
        optimiser.step()
net.eval()

# Each pose is told from the body and turned by the first one alone, so this could come from a camera.
poses = skeleton_sequence(["stand", "wave", "squat", "walk"], frames=60, rng=rng)
frames = torch.from_numpy(normalised(poses)).permute(3, 0, 2, 1)[None]  # (1, coordinate, time, joint, person)

stream = sentio.stream(net)
print(f"a frame at a time; the first answer after {stream.warm_up + 1} frames")
state, answers, shown = None, [], None
for time, frame in enumerate(frames.unbind(2)):
    output, valid, state = stream.step(frame, state)
    if not valid:
        continue
    answers.append(output)
    score, best = output.softmax(1)[0].max(0)
    action = ACTIONS[int(best)]
    if score > 0.8 and action != shown:
        print(f"{time / 30:5.2f} s  {action}")
        shown = action

with torch.no_grad():
    windows = torch.cat([net(frames[:, :, t : t + FRAMES]) for t in range(len(answers))])
print(f"largest difference to the clip network: {(torch.cat(answers) - windows).abs().max():.1e}")
spent, whole = stream.macs().total, sentio.profile(net, frames[:, :, :FRAMES]).macs
print(f"a step costs {spent:,} multiply-accumulates, the clip network {whole:,}")
