"""Everything that the command line does, from Python.

    result = rtk.finetune("rift", epochs=5)                       # rtk finetune --strategy rift --epochs 5
    found = rtk.evaluate("run:runs/mine", threats="Linf:4/255,8/255")
    model = rtk.load("runs/mine")                                 # a plain module, images in [0, 1] to logits

Options have the names of the command line, with underscores, and take values or text; `rtk finetune --help` lists them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import BadBackbone, BadValue

if TYPE_CHECKING:
    from torch import nn

    from .progress import Progress
    from .results import Evaluation, Result

Layout = Literal["timm", "robustbench"]


def finetune(strategy: str, *, force: bool = False, progress: Progress | None = None, **options: Any) -> Result:
    """Fine-tune, evaluate before and after, and write the run directory; after an interruption the same call goes on.

    Args:
        strategy: a name of `rtk strategies`.
        force: throw away the run that the directory holds.
        progress: shows stages; nothing is shown without it.
        options: those of every run and of the strategy, e.g. backbone, dataset, eps, seed, out, epochs.

    Raises:
        RequestError: the request cannot be met, e.g. since the directory holds a result; nothing was written.
        RunFailed, PluginError: the run broke; what was finished is kept.
        Interrupted: Ctrl-C; what was finished is kept.
    """
    from . import host
    from .request import build

    return host.finetune(build(strategy, options), force=force, progress=progress)


def evaluate(
    target: str | Path, *, force: bool = False, progress: Progress | None = None, **options: Any
) -> Evaluation:
    """Judge one network on test images and write the folder of the evaluation.

    Args:
        target: a run directory, a backbone such as "robustbench:cifar10/Linf/NAME", or a checkpoint file.
        options: those of `rtk evaluate`, e.g. suite, threats, images, seed, out.

    Raises:
        RequestError: the request cannot be met; nothing was written.
        RunFailed: a check failed, so that there is no number, or the evaluation broke; what was finished is kept.
        Interrupted: Ctrl-C; what was finished is kept.
    """
    from . import evaluation

    request = evaluation.build(str(target), options)
    return evaluation.evaluate(request, force=force, progress=progress)


def load(backbone: str | Path, *, weights: str | Path | None = None, trust_checkpoint: bool = False) -> nn.Module:
    """A network as a plain module in evaluation mode, on the CPU.

    Args:
        backbone: a run directory, or e.g. "rtk:fashion-resnet", "robustbench:cifar10/Linf/NAME", "timm:NAME".
        weights: a checkpoint file, instead of the backbone's own.
        trust_checkpoint: run the code that the checkpoint asks for, where it cannot be read without.

    Returns:
        A module from images (N, C, H, W), float32 in [0, 1], to logits (N, classes); normalisation is inside.

    Raises:
        BadBackbone, UnknownName: there is no such network, or its weights do not fit.
    """
    from .backbones import open_backbone

    file = None if weights is None else str(weights)
    return open_backbone(_uri(backbone), weights=file, trust_checkpoint=trust_checkpoint).model


def export(run: str | Path, path: str | Path, layout: Layout | None = None) -> Path:
    """Write the network of a run for another library.

    "timm": safetensors with the names of `timm.create_model(NAME, num_classes=...)`, which loads them with
    `checkpoint_path=` or `load_state_dict`. "robustbench": the file that `robustbench.load_model` reads, a dictionary
    with "state_dict". What is done to images before the network is the library's own, not part of the weights; the
    metadata of timm's file say it ("input"), and what the logits stand for ("class_names").

    Args:
        run: directory of a run.
        layout: by default that of the library which the network comes from.

    Returns:
        `path`.

    Raises:
        BadBackbone: the network is not one of that library.
        BadValue: an unknown layout, or a file that is there.
    """
    import torch
    from safetensors.torch import save

    from . import files
    from .backbones import open_backbone
    from .results import trained_on

    target = Path(path)
    if layout not in (None, "timm", "robustbench"):
        raise BadValue(f"layout: got {layout!r} (allowed: timm | robustbench).")
    if target.exists():
        raise BadValue(f"{target}: is there already.", "another name")
    folder = str(run).removeprefix("run:")
    opened = open_backbone(f"run:{folder}")
    family, name = opened.spec["family"], opened.spec["name"]
    if family not in ("timm", "robustbench") or layout not in (None, family):
        wanted = layout or "timm or robustbench"
        raise BadBackbone(
            f"run:{folder} holds the network {family}:{name}, which is not one of {wanted}.",
            f"rtk.load('{folder}') in Python, or {folder}/model.safetensors with its weights",
        )
    state = {key: value.detach().cpu().contiguous() for key, value in opened.model.native_state().items()}
    if family == "timm":
        known = {"input": opened.model.describe_input(), "class_names": trained_on(Path(folder).expanduser())}
        said = {name: json.dumps(value) for name, value in known.items()}
        files.write(target, lambda file: file.write(save(state, {"format": "pt", **said})))
    else:
        files.write(target, lambda file: torch.save({"state_dict": state}, file))
    return target


def _uri(target: str | Path) -> str:
    """The id of a backbone, also of a run whose folder alone is named."""
    from . import files

    text = str(target)
    return f"run:{text}" if ":" not in text and files.there(text, Path.is_dir) else text
