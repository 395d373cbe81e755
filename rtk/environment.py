"""The machine and the versions that a result was made with."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from . import files
from .errors import BadValue, RtkError
from .processes import current, launched
from .results import facts

PACKAGES = ("torch", "torchvision", "torchattacks", "robustbench", "timm", "pluggy", "numpy")


def version() -> str:
    """Version of the installed rtk."""
    return metadata.version("rtk")


def device(asked: str) -> torch.device:
    """Resolve auto, cpu, cuda or cuda:N; where torchrun has started several processes, each has a GPU of its own.

    Raises:
        BadValue: a GPU that is not there, or one for several processes.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.device(asked)
    if found.type != "cuda":
        return found
    if launched() and found.index is not None:
        raise BadValue(f"--device {asked}: several processes need a GPU each.", "--device cuda")
    index = found.index or (int(os.environ["LOCAL_RANK"]) if launched() else 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        hint = f"--nproc-per-node {count} or fewer, or --device cpu" if launched() and count else "--device auto"
        raise BadValue(f"--device {asked}: this machine has {count} usable CUDA devices.", hint)
    return torch.device("cuda", index)


def make_deterministic() -> None:
    """Same seed, same bits, also on a GPU, where the fastest kernels of cuBLAS and cuDNN add in no fixed order.

    Some of torch's own have no other form there, such as the gradient of bilinear resizing.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it is first used
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def describe(used: torch.device) -> dict[str, Any]:
    """Versions, processor, device and, where there are several, the processes that train together, as JSON."""
    return {
        "python": platform.python_version(),
        "platform": sys.platform,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(used),
        "device_name": torch.cuda.get_device_name(used) if used.type == "cuda" else _processor(),
        "packages": {name: _version(name) for name in PACKAGES},
        **current().describe(),
    }


def continued(kept: Path, here: dict[str, Any]) -> dict[str, Any]:
    """What `describe` says here and, as "earlier", what was different where the work was begun before it went on here.

    Args:
        kept: file with what this returned for the part before; there is none before the first.
    """
    try:
        before = files.read_json(kept) if kept.exists() else None
    except RtkError:  # damaged; it is about to be written anew
        before = None
    if not isinstance(before, dict):
        return here
    (now,), (last, *parts) = facts(here), facts(before)
    earlier: list[dict[str, Any]] = []
    for part in (*parts, {}):
        then = {**last, **part}
        different = {name: then.get(name) for name in {**then, **now} if then.get(name) != now.get(name)}
        if different and different not in earlier:
            earlier.append(different)
    return {**here, "earlier": earlier} if earlier else here


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor()
    except OSError:
        return platform.processor()
