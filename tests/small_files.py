"""Runs of a second on a few real images, and what of them must not depend on what goes wrong around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rtk
from rtk import data, files
from rtk.progress import Silent
from rtk.results import Result

OPTIONS = {
    "epochs": 2,
    "lr": 0.1,
    "batch_size": 16,
    "suite": "clean,pgd20",
    "images": 16,
    "chunk_size": 8,
    "workers": 1,
    "device": "cpu",
}


def few(path: Path, train: int = 80, test: int = 24) -> Path:
    """The first images of `fashion`, as an npz."""
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        part = data.open_dataset("fashion").split(name)
        arrays[f"x_{name}"] = (part.images(torch.arange(count)) * 255).byte().permute(0, 2, 3, 1).numpy()
        arrays[f"y_{name}"] = part.labels[:count].numpy()
    np.savez(path, **arrays)
    return path


def finetune(images: Path, out: Path, progress: Silent | None = None, **options: Any) -> Result:
    """The last block and the classifier, trained on `few`: a checkpoint after every epoch, four chunks of verdicts."""
    given = {**OPTIONS, "k": 1, **options}
    return rtk.finetune("last-k", dataset=f"npz:{images}", out=out, progress=progress, **given)


def bits(run: Path) -> dict[str, Any]:
    """Weights, verdicts and what the strategy reported; not times."""
    found = json.loads((run / "result.json").read_text())
    return {
        "weights": files.sha256(run / "model.safetensors"),
        **{name: found[name] for name in ("report", "rows", "changes", "trained")},
    }
