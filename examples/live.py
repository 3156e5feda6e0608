"""What is heard and what somebody does, from two live streams, printed as it changes.

Both sources are simulated: a microphone that gives blocks of a tenth of a second, and a pose tracker that
gives three poses in that time. Two small networks learn first, from clips; then each takes what comes.

Needs: sentio[torch].
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sentio
from sentio.audio.frontend import LogMel
from sentio.audio.torch_frontend import TorchLogMel
from sentio.data.simulate.events import EVENTS, dry
from sentio.data.simulate.skeletons import skeleton_clip, skeleton_sequence
from sentio.streaming.batch import SingleStream, Warming
from sentio.vision.skeletons import SkeletonFrontEnd, normalised

RATE = 8000
SOUNDS, ACTIONS = ("quiet", "rain", "siren"), ("squat", "stand", "wave")
FRAMES = 30

torch.manual_seed(0)
rng = np.random.default_rng(0)


def sound(name, seconds):
    """A room's noise, with something in it."""
    heard = rng.normal(0, 0.01, round(seconds * RATE))
    if name != "quiet":
        event = dry(EVENTS[name], rng, RATE)
        heard += rng.uniform(0.1, 0.3) * np.resize(event, len(heard))
    return torch.from_numpy(heard.astype(np.float32))


def second(name):
    """Any second of a sound that goes on, since a stream does not wait for its beginning."""
    start = rng.integers(2 * RATE)
    return sound(name, 3.0)[start : start + RATE]


def pose_frames(poses):
    """(coordinate, time, joint, person): told from the body, and turned by the first pose alone."""
    return torch.from_numpy(normalised(poses)).permute(3, 0, 2, 1)


def watched(name):
    """Any second of somebody who goes on doing it."""
    start = rng.integers(2 * FRAMES)
    return pose_frames(skeleton_clip(name, frames=3 * FRAMES, rng=rng))[:, start : start + FRAMES]


def train(net, inputs, targets, epochs):
    optimiser = torch.optim.AdamW(net.parameters(), 0.01)
    for _ in range(epochs):
        for rows in torch.randperm(len(targets)).split(16):
            optimiser.zero_grad()
            cross_entropy(net(inputs[rows]), targets[rows]).backward()
            optimiser.step()
    return net.eval()


def layers(channels, width):
    return nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d(2)


targets = torch.arange(96) % len(SOUNDS)
clips = torch.stack([second(SOUNDS[target]) for target in targets])[:, None]
log_mel = TorchLogMel(LogMel(rate=RATE, n_fft=256, hop_length=160, n_mels=24, center=False))
head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(SOUNDS)))
# This norm centres the decibels, or the zeros that convolutions pad with would be a loud edge.
norm = nn.BatchNorm2d(1)
listener = train(nn.Sequential(log_mel, norm, *layers(1, 8), *layers(8, 16), *head), clips, targets, 15)

targets = torch.arange(96) % len(ACTIONS)
frontend = SkeletonFrontEnd(frames=FRAMES, persons=1)
poses = torch.stack([watched(ACTIONS[target]) for target in targets])
options = {"classes": len(ACTIONS), "persons": 1, "channels": (12, 16), "strides": (1, 1), "padded": False}
watcher = sentio.create_network("st-gcn", **options)
watcher.input_shapes = frontend.input_shapes
watcher = train(watcher, poses, targets, 15)

# Frozen: each stream takes the weights in the form in which a step is fastest. An answer is about a second.
ears = SingleStream(sentio.stream(listener, example=clips[:1], frozen=True))
eyes = SingleStream(sentio.stream(watcher, frozen=True))
print(f"sound {ears.stream.hop / RATE * 1000:.0f} ms at a time, poses one at a time")

microphone = torch.cat([sound(name, 3.0) for name in ("quiet", "siren", "quiet", "rain")])
tracker = pose_frames(skeleton_sequence(["stand", "wave", "squat", "stand"], frames=90, rng=rng))
# Between two squats somebody stands for a moment: what is said has to hold for half a second.
HOLD = 0.5
shown, since = {}, {}
for tenth in range(120):
    pieces = {
        "heard": (ears, SOUNDS, microphone[None, tenth * RATE // 10 : (tenth + 1) * RATE // 10]),
        "seen": (eyes, ACTIONS, tracker[:, tenth * 3 : (tenth + 1) * 3]),
    }
    for how, (stream, names, units) in pieces.items():
        for answer in stream.push(units):
            if isinstance(answer.output, Warming):
                continue
            score, best = answer.output.softmax(0).max(0)
            now, name = (tenth + 1) / 10, names[best] if score > 0.7 else None
            if how not in since or since[how][0] != name:
                since[how] = name, now
            elif name and shown.get(how) != name and now - since[how][1] >= HOLD:
                shown[how] = name
                print(f"{now:5.1f} s  {how:5}  {name}")
