"""Make an embedded backbone `rtk:NAME` from a finished run of adversarial training from nothing.

    rtk finetune --strategy at --backbone rtk:fashion-resnet --weights random --dataset fashion --epochs 12 --lr 0.1 \
        --weight-decay 5e-4 --schedule cosine --warmup 1 --attack-steps 5 --precision float32 --out RUN
    python benchmarks/embedded_backbone.py RUN

The name is that of the run's backbone. README.md has the command of each of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from rtk import files, results

KEYS = ("architecture", "widths", "depths", "classes", "mean", "std", "size")
ASSETS = Path(__file__).parent.parent / "rtk" / "assets"


def main() -> None:
    """Put the weights of a run into the package, with a description that says where they come from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of the finished run")
    run = parser.parse_args().run
    result = results.read(run / "result.json")
    name = result.backbone["uri"].removeprefix("rtk:")
    weights = ASSETS / f"{name}.safetensors"
    shutil.copyfile(run / "model.safetensors", weights)
    spec = files.read_json(run / "backbone.json")["spec"]
    description = {
        **{key: spec[key] for key in KEYS if key in spec},
        "threat": result.threat,
        "dataset": result.dataset["uri"],
        "sha256": files.sha256(weights),
        "licence": "MIT",
        "recipe": {"strategy": result.strategy["name"], "seed": result.seed, **result.strategy["config"]},
    }
    files.write_json(ASSETS / f"{name}.json", description)
    print(json.dumps(description, indent=2))


if __name__ == "__main__":
    main()
