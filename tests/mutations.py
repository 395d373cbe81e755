"""Break the strategies in eight known ways; for each, some test must fail.

    python tests/mutations.py [NAME ...]

Every mutation changes a copy of the repository, and runs the tests named beside it there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutation:
    """A defect of published code, or one that is easily made: `old` becomes `new` in `file`."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "the wings of TWINS share scale and shift",
        "plugins/twins.py",
        "    frozen = [copy.deepcopy(layer) for layer in batchnorms(model).values()]\n",
        "    frozen = [copy.deepcopy(layer) for layer in batchnorms(model).values()]\n"
        "    for own, layer in zip(frozen, batchnorms(model).values(), strict=True):\n"
        "        own.weight, own.bias = layer.weight, layer.bias\n",
        "tests/test_twins.py",
    ),
    Mutation(
        "the statistics of the frozen wing move",
        "plugins/twins.py",
        "        frozen.training = False ",
        "        frozen.training = layer.training ",
        "tests/test_twins.py",
    ),
    Mutation(
        "the network is attacked in training mode",
        "rtk/attacks/attack.py",
        "        images = images.flatten(1).unflatten(1, images.shape[1:])",
        "        self.model.train()\n        images = images.flatten(1).unflatten(1, images.shape[1:])",
        "tests/test_attacks.py tests/test_twins.py",
    ),
    Mutation(
        "feature distance minimisation detaches the clean branch",
        "plugins/cartl.py",
        "feature_distance(features[0], features[1], config.reduction)",
        "feature_distance(features[0], features[1].detach(), config.reduction)",
        "tests/test_cartl.py",
    ),
    Mutation(
        "spectral normalisation skips nested convolutions",
        "plugins/cartl.py",
        "        for name, layer in model.named_modules()\n        for kind, tensor in kinds.items()\n",
        "        for name, layer in model.named_modules()\n        for kind, tensor in kinds.items()\n"
        '        if name.count(".") < 2\n',
        "tests/test_cartl.py",
    ),
    Mutation(
        "modes are set once, and lost after an evaluation",
        "rtk/train.py",
        "            self.freeze.apply()\n",
        "            if step.number == 0:\n                self.freeze.apply()\n",
        "tests/test_train.py tests/test_last_k.py",
    ),
    Mutation(
        "RiFT takes an alpha that breaks its constraint",
        "plugins/rift.py",
        '    kept = [point for point in curve if point["robust"] >= curve[0]["robust"] - tolerance - 1e-12]\n',
        "    kept = curve\n",
        "tests/test_rift.py",
    ),
    Mutation(
        "the teacher of LwF tracks the student",
        "plugins/lwf.py",
        "_, wanted = run.structure.features(run.source, step.images)",
        "_, wanted = run.structure.features(model, step.images)",
        "tests/test_lwf.py",
    ),
    Mutation(
        "the clean prediction of TRADES is detached",
        "plugins/trades.py",
        "F.log_softmax(clean, 1)",
        "F.log_softmax(clean.detach(), 1)",
        "tests/test_trades.py",
    ),
    Mutation(
        "the divergence of TWINS is divided by the wrong batch size",
        "plugins/twins.py",
        'size = len(natural) if self.config.kl_reduction == "batchmean"',
        'size = 2 * len(natural) if self.config.kl_reduction == "batchmean"',
        "tests/test_twins.py",
    ),
)


def survives(mutation: Mutation) -> bool:
    """Whether the tests pass although the code is broken."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("rtk", "plugins", "tests", "benchmarks"):
            shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "README.md"):
            shutil.copy(REPOSITORY / name, copy / name)
        path = copy / mutation.file
        source = path.read_text(encoding="utf-8")
        assert source.count(mutation.old) == 1, f"{mutation.name}: its text stands {source.count(mutation.old)} times"
        path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
        packages = copy / "packages"  # before what is installed, so that the broken code is what runs
        packages.mkdir()
        (packages / "rtk").symlink_to(copy / "rtk")
        (packages / "rtk_plugins").symlink_to(copy / "plugins")
        command = [sys.executable, "-m", "pytest", "-n0", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True).returncode != 1


def main() -> None:
    """Try the mutations, all or those named; exit with 1 when the tests let one pass."""
    wanted = sys.argv[1:]
    alive = []
    for mutation in MUTATIONS:
        if wanted and not any(word in mutation.name for word in wanted):
            continue
        lives = survives(mutation)
        print(f"{'NOT NOTICED' if lives else 'noticed'}: {mutation.name} ({mutation.tests})", flush=True)
        alive += [mutation.name] * lives
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
