"""Really trained small networks, and ways to hide or spoil what they learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rtk.attacks import pgd
from rtk.data import open_dataset
from rtk.threat import Threat


def plain_cnn() -> nn.Module:
    """Two convolutions and two linear layers, no norm."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(build: Callable[[], nn.Module], threat: Threat | None, *, images: int, epochs: int, lr: float) -> nn.Module:
    """A network trained on the first images of `fashion`; with a threat, on its PGD-3 examples after two epochs."""
    split = open_dataset("fashion").split("train")
    x, y = split.images(torch.arange(images)), split.labels[:images]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        for epoch in range(epochs):
            for index in torch.randperm(images).split(128):
                batch, labels = x[index], y[index]
                if threat is not None and epoch >= 2:
                    attack = pgd(threat, steps=3, step_size=threat.eps / 2)
                    batch = attack(net, batch, labels, seed=int(index[0]))
                optimizer.zero_grad()
                functional.cross_entropy(net(batch), labels).backward()
                optimizer.step()
    return net.eval().requires_grad_(False)


class Wrapped(nn.Module):
    """A network with something before or after it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class LargeLogits(Wrapped):
    """Logits times 1000: the softmax of float32 is saturated, and the gradient of the cross-entropy is zero."""

    def forward(self, images: Tensor) -> Tensor:
        return 1000 * self.net(images)


class QuantisedInput(Wrapped):
    """Eight grey levels; rounding has a gradient of zero everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net((7 * images).round() / 7)


class ShatteredInput(Wrapped):
    """A ripple of 0.01 on every pixel: it changes no prediction much, and every gradient completely."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images + 0.01 * torch.sin(images * 2000))


class InputNoise(Wrapped):
    """Gaussian noise on every pixel, drawn again for each forward pass."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images + 0.2 * torch.randn_like(images))


class Reseeded(Wrapped):
    """Noise that is the same in each forward pass, because the network sets the global seed."""

    def forward(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        return self.net(images + 0.2 * torch.randn_like(images[:1]))


class Probabilities(Wrapped):
    """The softmax of the logits."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(1)


class BatchStatistics(Wrapped):
    """Images are centred on the mean of their batch, as BatchNorm in training mode does."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - 0.5 * images.mean(0) + 0.1).clamp(0, 1))


class NanForBright(Wrapped):
    """NaN logits for the brighter half of the images."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean((1, 2, 3)) > 0.3
        return torch.where(bright[:, None], torch.nan, self.net(images))


class Remembers(Wrapped):
    """Writes into a buffer in evaluation mode."""

    def __init__(self, net: nn.Module):
        super().__init__(net)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.get_buffer("seen").add_(len(images))
        return self.net(images)


class Purifies(Wrapped):
    """Moves the image towards its most likely class before it classifies it."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = images.detach().clone().requires_grad_()
            confidence = self.net(variable).logsumexp(1).sum()
            (gradient,) = torch.autograd.grad(confidence, variable)
        return self.net((images + 0.02 * gradient.sign()).clamp(0, 1))


class Detached(Wrapped):
    """Classifies without a graph: an attack has no gradient to follow."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).detach()


class Constant(Wrapped):
    """Does not look at the images."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(torch.zeros_like(images))


class BatchNormLive(Wrapped):
    """BatchNorm that normalises with the statistics of the batch, and updates them, in evaluation mode too."""

    def __init__(self, net: nn.Module):
        super().__init__(net)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        self.norm.train()
        return self.net(0.3 * self.norm(images) + 0.3)


class Fails(Wrapped):
    """Does not take images of this size."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.flatten(1))


class FewClasses(Wrapped):
    """Has another number of classes than the data."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, :7]


class Integers(Wrapped):
    """Returns classes in the place of logits."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).argmax(1)


class Standardised(Wrapped):
    """Normalises images as if their pixels reached 255."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images / 255)
