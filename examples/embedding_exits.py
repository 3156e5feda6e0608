"""Who is it? Exits that give the last layer's embedding early, one gallery for all of them.

The "faces" are patterns drawn here: a person is one, and each picture of it another light, place and noise.
"""

import numpy as np
import torch

import sentio
from sentio.core.frame_budget import exit_within
from sentio.core.model import Model
from sentio.core.staged import Staged
from sentio.core.torch_row import TorchRow
from sentio.tasks.embedding import EmbeddingTask
from sentio.tasks.gallery import Gallery
from sentio.tasks.pairs import exit_distances, fit_identification, fit_verification, verify_pairs
from sentio.techniques.embedding_exits import fit_embedding_exits

SIDE, PERSONS = 16, 40
torch.manual_seed(0)
generator = np.random.default_rng(0)
patterns = np.kron(generator.normal(size=(PERSONS, 3, 5, 5)), np.ones((4, 4)))


def pictures(who: np.ndarray) -> np.ndarray:
    down, across = generator.integers(0, 5, (2, len(who)))
    cut = [patterns[p, :, y : y + SIDE, x : x + SIDE] for p, y, x in zip(who, down, across, strict=True)]
    light = generator.uniform(0.5, 1.5, (len(who), 1, 1, 1))
    return (light * np.stack(cut) + 0.4 * generator.normal(size=(len(who), 3, SIDE, SIDE))).astype(np.float32)


# A network that tells the first thirty persons apart; what its last layer is given is the embedding.
classifier = sentio.create_network("resnet8", classes=30, width=8)
optimizer = torch.optim.Adam(classifier.parameters(), 0.01)
for _ in range(60):
    who = generator.integers(0, 30, 64)
    loss = torch.nn.functional.cross_entropy(
        classifier(torch.from_numpy(pictures(who))), torch.from_numpy(who)
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
stages = {name: classifier.stage(name) for name in classifier.stage_names[:-1]}
net = Staged({**stages, "head": pool}, input_shapes=(3, SIDE, SIDE)).eval()

net = sentio.add_exits(net, "bag-of-features", at=["layer1", "layer2"], classes=32, codewords=32)
fitted = fit_embedding_exits(net, pictures(generator.integers(0, 30, 500)), iterations=50)
print({name: f"distance {found.loss:.3f}" for name, found in fitted.items()})

# Ten persons that the network has never seen: a few pictures of each are enrolled, from the last layer.
model = Model(TorchRow(net), EmbeddingTask(dimension=32), costs=sentio.profile(net).costs)
who = np.repeat(np.arange(30, 40), 30)
images = pictures(who)
outputs = model.outputs(images)
gallery = Gallery(32)
for person in range(30, 40):
    gallery.enrol(f"person {person}", outputs["final"][who == person][:5])
gallery.save("people.npz")
model.task.gallery = Gallery.load("people.npz")
rest = np.flatnonzero(np.arange(len(who)) % 30 >= 5)
fit_on, probes = rest[::2], rest[1::2]
names = [f"person {person}" for person in who]

policy = fit_identification(
    model.task, {name: o[fit_on] for name, o in outputs.items()}, [names[i] for i in fit_on], max_error=0.1
)
answers = model.answer(images[probes], policy=policy)
right = [
    gallery.names[p] == names[i] for p, i in zip(model.task.choice(answers.outputs), probes, strict=True)
]
left = {name: answers.exit_names().count(name) for name in model.exit_names}
print(f"identified: {np.mean(right):.0%} right, left at {left}")

first, second = generator.permutation(len(who)).reshape(2, -1)
first = np.where(
    np.arange(len(first)) % 2, first, (second // 30) * 30 + generator.integers(0, 30, len(second))
)
same, half = who[first] == who[second], len(first) // 2
sides = [{name: o[part[:half]] for name, o in outputs.items()} for part in (first, second)]
thresholds, margins = fit_verification(exit_distances(*sides), same[:half], max_error=0.1)
model.task = EmbeddingTask(dimension=32, thresholds=thresholds, margins=margins)
found = verify_pairs(model, images[first[half:]], images[second[half:]])
left = {name: found.exit_names().count(name) for name in model.exit_names}
print(f"pairs: {np.mean(found.same == same[half:]):.0%} right, left at {left}")

frame = 3 * model.costs.ms[-1]
print({faces: exit_within(model.costs, frame, faces).exit for faces in (1, 3, 4, 9)})
