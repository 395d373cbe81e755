"""Make the embedded backbone `rtk:fashion-resnet` from a finished run of adversarial training.

    rtk finetune --strategy at --backbone rtk:fashion-resnet --weights random --dataset fashion-mnist --data-root DATA \
        --epochs 20 --lr 0.1 --weight-decay 5e-4 --schedule cosine --warmup 1 --attack-steps 5 --augment none \
        --images 2000 --out RUN
    python benchmarks/embedded_backbone.py RUN

DATA/FashionMNIST/raw holds the unpacked idx files of Fashion-MNIST (Debian package dataset-fashion-mnist). The run
trains on the official training split alone; val and test of the embedded data `fashion` come from the official test
split, so the network has seen neither.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from rtk import files, results

ASSETS = Path(__file__).parent.parent / "rtk" / "assets"
NAME = "fashion-resnet"


def main() -> None:
    """Copy the weights of a run into the package, with a description that says where they come from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of the finished run")
    run = parser.parse_args().run
    result = results.read(run / "result.json")
    weights = ASSETS / f"{NAME}.safetensors"
    shutil.copyfile(run / "model.safetensors", weights)
    spec = files.read_json(run / "backbone.json")["spec"]
    options = result.strategy["config"]
    scores = result.rows[-1].scores
    description = {
        "architecture": spec["architecture"],
        "classes": spec["classes"],
        "mean": spec["mean"],
        "std": spec["std"],
        "size": spec["size"],
        "threat": result.threat,
        "dataset": "fashion",
        "sha256": files.sha256(weights),
        "licence": "MIT",
        "recipe": {
            "strategy": result.strategy["name"],
            "dataset": result.dataset["uri"],
            "seed": result.seed,
            **options,
        },
        "figures": {item: {"correct": score.correct, "n": score.n} for item, score in scores.items()},
    }
    files.write_json(ASSETS / f"{NAME}.json", description)
    print(json.dumps(description, indent=2))


if __name__ == "__main__":
    main()
