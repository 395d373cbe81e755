"""End a piece of work at random moments, begin it again each time, and count what it took.

    python tests/killing.py FOLDER SEED KILLS        rift on a few images, again and again until KILLS processes were
                                                     killed and every phase was ended in both ways

Half of the times by SIGKILL, which cannot be answered, and half by SIGTERM, as a scheduler preempts.

A fork of a process that has imported everything is killed, so that a kill costs no start-up; nothing is computed in the
parent, whose threads a fork would not have.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import rtk
from rtk import data
from rtk.errors import AlreadyDone, Interrupted
from rtk.signals import heeded, stopping

PHASES = ("measuring criticality", "training", "interpolating", "evaluating")
JUDGED = {"suite": ("clean", "pgd20"), "images": 48, "chunk_size": 8, "workers": 1, "device": "cpu"}
RIFT = {
    "epochs": 6,
    "criticality_images": 40,
    "attack_steps": 2,
    "ascent_steps": 2,
    "milestones": (3,),
    "batch_size": 16,
    "lr": 0.05,
    "tolerance": 100,
    "module": "least",
    "top": 5,
}


def prepare(folder: Path) -> None:
    """A few real images, and a network that counts as trained on them."""
    images, labels = [], []
    for name, count in (("train", 80), ("test", 48)):
        part = data.open_dataset("fashion").split(name)
        images.append((part.images(torch.arange(count)) * 255).byte().permute(0, 2, 3, 1).numpy())
        labels.append(part.labels[:count].numpy())
    np.savez(folder / "few.npz", x_train=images[0], y_train=labels[0], x_test=images[1], y_test=labels[1])
    rtk.finetune("at", dataset=f"npz:{folder / 'few.npz'}", weights="random", epochs=0, out=folder / "source", **JUDGED)


def finetune(folder: Path, name: str) -> None:
    """Every phase of a run: criticality, training, interpolation, evaluation of two networks."""
    rtk.finetune(
        "rift",
        backbone=f"run:{folder / 'source'}",
        dataset=f"npz:{folder / 'few.npz'}",
        out=folder / name,
        **RIFT,
        **JUDGED,
    )


def finish(work: Callable[[], None], folder: Path, clock: random.Random, kills: int, whole: float) -> Counter[str]:
    """Let `work` be done by processes of which the first `kills` are ended.

    Each lives for a random part of `whole` s, the time that the work takes: mostly for a small one, so that there are
    many, but now and then for long enough to come past whatever does not resume within, on any machine.

    Returns:
        How many processes ended how: "killed while PHASE", "stopped while PHASE" by themselves, "done", "failed".
    """
    ends: Counter[str] = Counter()
    for number in range(10 * kills + 10):
        patience = whole * clock.random() ** 3 if number < kills else None
        process = os.fork()
        if process == 0:
            _child(work)
        if patience is not None:
            time.sleep(patience)
            os.kill(process, clock.choice((signal.SIGKILL, signal.SIGTERM)))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code < 0 or code == Interrupted.exit_code:
            ends[f"{'killed' if code < 0 else 'stopped'} while {phase(folder)}"] += 1
        else:
            ends["failed" if code else "done"] += 1
            return ends
    return ends


def phase(folder: Path) -> str:
    """What a run was at, by what lies in its folder."""
    for path, doing in (("result.json", "ending"), ("model.safetensors", "evaluating")):
        if (folder / path).exists():
            return doing
    work = folder / "work"
    if not work.exists():
        return "beginning"
    if list(work.glob("alpha*")):
        return "interpolating"
    if list(work.glob("*.pt")):
        return "training"
    return "measuring criticality"


def warm() -> None:
    """Import what a run imports on first use."""
    for name in ("rtk.host", "rtk.evaluation.masked", "torchattacks", "scipy.stats", "torch._dynamo"):
        importlib.import_module(name)


def enough(ends: Counter[str], kills: int) -> bool:
    """Whether so many were killed, and every phase was ended in both ways."""
    every = all(ends[f"{how} while {doing}"] for doing in PHASES for how in ("killed", "stopped"))
    return every and sum(count for end, count in ends.items() if end.startswith("killed")) >= kills


def main(folder: Path, seed: int, kills: int) -> None:
    """Once without a kill, into "whole", then with them, into "killed-0", ...; prints how the processes ended."""
    warm()
    folder.mkdir(parents=True, exist_ok=True)
    clock, total = random.Random(seed), Counter[str]()
    finish(lambda: prepare(folder), folder / "source", clock, 0, 0)
    begun = time.monotonic()
    finish(lambda: finetune(folder, "whole"), folder / "whole", clock, 0, 0)
    whole = time.monotonic() - begun
    for number in range(100):
        name = f"killed-{number}"
        ends = finish(partial(finetune, folder, name), folder / name, clock, 20, whole)
        print(
            json.dumps({"seed": seed, "run": name, "seconds uninterrupted": round(whole, 2), "ends": ends}), flush=True
        )
        total += ends
        if ends["failed"] or enough(total, kills):
            return
    sys.exit(f"too few kills: {total}")


def _child(work: Callable[[], None]) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        with stopping(), heeded():
            work()
        code = 0
    except AlreadyDone:  # killed after the result was written: nothing is left to do
        code = 0
    except (Interrupted, KeyboardInterrupt):
        code = Interrupted.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
