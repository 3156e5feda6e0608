"""Which SL-ViT branch does best with no more parameters than CNN-EE: a small grid search by training."""

import torch
from torch.nn.functional import cross_entropy

import sentio
from sentio.exits.branch_search import cnn_parameters, search_sl_vit

torch.manual_seed(0)
CLASSES = 4


def pictures(count, seed):
    """A bright bar at one of four angles, in noise."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (count,), generator=generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    angle = label * torch.pi / CLASSES
    shift = torch.rand(count, generator=generator) - 0.5
    across = torch.cos(angle)[:, None, None] * x + torch.sin(angle)[:, None, None] * y
    bar = (-((across - shift[:, None, None]) ** 2) / 0.01).exp()
    return bar[:, None] + 0.6 * torch.randn(count, 1, 32, 32, generator=generator), label


net = sentio.create_network("resnet8", classes=CLASSES, in_channels=1).eval()
(images, labels), (unseen, truth) = pictures(96, seed=1), pictures(96, seed=2)
tap = net.before("layer2")
with torch.no_grad():  # the backbone stays as it is, so its maps are made once
    maps, maps_unseen = tap(images), tap(unseen)


def accuracy(candidate):
    torch.manual_seed(0)
    branch = sentio.add_exits(net, "sl-vit", at=["layer2"], classes=CLASSES, **candidate.options)
    branch = branch.branch("layer2")
    optimizer = torch.optim.Adam(branch.parameters(), 1e-3)
    for _ in range(25):
        optimizer.zero_grad()
        cross_entropy(branch(maps), labels).backward()
        optimizer.step()
    with torch.no_grad():
        return (branch.eval()(maps_unseen).argmax(1) == truth).float().mean().item()


shape = tuple(maps.shape[1:])
print(f"map {shape}, CNN-EE has {cnn_parameters(shape, CLASSES):,} parameters")
found = search_sl_vit(shape, CLASSES, accuracy, patches=[2, 4], heads=[2, 8], dims=range(8, 33, 8))
for each in found:
    print(f"{each.options}  {each.parameters:7,} parameters  {each.macs:9,} MACs  {each.score:.1%}")
assert found[0].score > 1.5 / CLASSES
