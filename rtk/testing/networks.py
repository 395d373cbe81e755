"""Small real networks, one for each kind of normalisation layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..backbones import Backbone, Classifier, SmallResNet, inspect

WIDTHS = (8, 8, 12, 16)
OVERFLOW = (1e-45,) * 3  # the smallest positive float32: an image divided by it is infinite


class _Attention(nn.Module):
    """A transformer block (Vaswani et al. 2017) that normalises first: attention in two heads, then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, width) to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """Patches of 4x4, three transformer blocks, mean over tokens, linear classifier; takes any size of image."""

    def __init__(self, classes: int, width: int = 16):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*(_Attention(width) for _ in range(3)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), H and W multiples of 4, to logits (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def _with_groups(net: nn.Module) -> nn.Module:
    """`net` with every BatchNorm replaced by a GroupNorm of two groups."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, nn.GroupNorm(2, module.num_features))
    return net


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "batch": lambda classes: SmallResNet(widths=WIDTHS, classes=classes),
    "layer": SmallViT,
    "group": lambda classes: _with_groups(SmallResNet(widths=WIDTHS, classes=classes)),
}


def backbone(norm: str, classes: int, shape: tuple[int, int], *, new_head: bool, overflows: bool = False) -> Backbone:
    """A network with random weights, always the same.

    Args:
        norm: "batch", "layer" or "group".
        shape: (height, width) of the images.
        overflows: every image is divided by so small a number that all logits are NaN.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETWORKS[norm](classes)
    plain = Classifier(net).eval()
    structure = inspect(plain, torch.zeros(1, 3, *shape))
    model = Classifier(net, mean=(0.0,) * 3, std=OVERFLOW).eval() if overflows else plain
    return Backbone(f"small {norm}-norm network", model, classes, None, {}, structure, new_head, None)
