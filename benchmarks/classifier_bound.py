"""How little a classifier of bounded spectral norm can lose: python benchmarks/classifier_bound.py RUN [RUN ...]

Logits W z have a norm of at most r = ||W||_2 ||z||. Of C classes the cross-entropy is least when the right logit has as
much of it as it can, and is then log(1 + (C - 1) exp(-r sqrt(C / (C - 1)))). Features z are those of the first 500
validation images, by the mean of their norms; the bias, which is the same for every image, is left out.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from torch.nn import functional

from rtk import results
from rtk.backbones import open_backbone
from rtk.data import open_dataset

COUNT = 500


def main() -> None:
    """One line for each run."""
    print("run: spectral norm, norm of the features, least loss possible; loss of the last epoch, of validation images")
    for place in map(Path, sys.argv[1:]):
        result, backbone = results.read(place / "result.json"), open_backbone(f"run:{place}")
        model, head = backbone.model.eval(), backbone.model.net.get_submodule(backbone.structure.head)
        val = open_dataset(result.dataset["uri"]).split("val")
        with torch.no_grad():
            logits, features = backbone.structure.features(model, val.images(slice(COUNT)))
        assert isinstance(head.weight, torch.Tensor)
        sigma = float(torch.linalg.matrix_norm(head.weight.detach(), 2))
        norm, classes = float(features.flatten(1).norm(dim=1).mean()), logits.shape[1]
        least = math.log1p((classes - 1) * math.exp(-sigma * norm * math.sqrt(classes / (classes - 1))))
        lines = map(json.loads, (place / "log.jsonl").read_text().splitlines())
        trained = [line["loss"] for line in lines if line["event"] == "epoch"][-1]
        found = float(functional.cross_entropy(logits, val.labels[:COUNT]))
        config = result.strategy["config"]
        options = {name: config[name] for name in ("k", "beta", "reuse_statistics", "freeze_affine") if name in config}
        print(
            f"{result.strategy['name']} {options}: {sigma:.2f}, {norm:.2f}, {least:.2f}; {trained:.2f}, {found:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
