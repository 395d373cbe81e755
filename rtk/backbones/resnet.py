"""The architecture of the embedded backbones: a BatchNorm residual network small enough for a laptop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016); a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = functional.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return functional.relu(branch + self.shortcut(x))


def _stage(channels_in: int, channels: int, stride: int, depth: int) -> nn.Sequential:
    later = [_BasicBlock(channels, channels, 1) for _ in range(depth - 1)]
    return nn.Sequential(_BasicBlock(channels_in, channels, stride), *later)


class SmallResNet(nn.Module):
    """Stem of stride 2, three stages, global average pooling, linear classifier.

    Args:
        widths: channels of the stem and of the three stages; the defaults make 78,042 parameters.
        depths: blocks of each stage.
        classes: outputs of the classifier `fc`.
        in_channels: channels of the images.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 16, 32, 64),
        depths: Sequence[int] = (1, 1, 1),
        classes: int = 10,
        in_channels: int = 3,
    ):
        super().__init__()
        stem, first, second, third = widths
        self.conv1 = nn.Conv2d(in_channels, stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, first, 1, depths[0])
        self.layer2 = _stage(first, second, 2, depths[1])
        self.layer3 = _stage(second, third, 2, depths[2])
        self.fc = nn.Linear(third, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, in_channels, H, W), H and W at least 8, to logits (N, classes)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
