"""The embedded hand signs with brightness and contrast of the embedded clothes: python matched_signs.py FILE.npz

Hands are dark on bright walls, clothes bright on black. Turned over and scaled to the mean and spread of `fashion`, the
signs' statistics are nearer to those that BatchNorm has stored in `rtk:fashion-resnet`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtk.data import open_dataset


def main() -> None:
    """Write x_train, y_train (with the validation images), x_test and y_test."""
    clothes = open_dataset("fashion").split("train").images(slice(2000))
    signs = open_dataset("signs")
    seen = signs.split("train").images(slice(None))
    arrays: dict[str, Any] = {}
    for name, parts in (
        ("train", [signs.split("train"), signs.split("val")]),
        ("test", [signs.split("test")]),
    ):
        images = torch.cat([part.images(slice(None)) for part in parts])
        matched = ((seen.mean() - images) / seen.std() * clothes.std() + clothes.mean()).clamp(0, 1)
        arrays[f"x_{name}"] = (matched * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        arrays[f"y_{name}"] = torch.cat([part.labels for part in parts]).numpy()
    np.savez(Path(sys.argv[1]), **arrays)


if __name__ == "__main__":
    main()
