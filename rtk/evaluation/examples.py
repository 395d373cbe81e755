"""Adversarial images on disk: a part for each chunk, and in the end one file for each item.

The file holds `images` (N, C, H, W) float32 in [0, 1], in the order in which they were judged, `labels` and `indices`
(N,) int64, indices into the test split in the data set's own order, and `robust` (N,) bool, the verdict. Its metadata
say of which network, data, attack and seed they are, and hold a hash of all of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .. import environment, files
from ..backbones import hash_state
from ..errors import BadData
from ..results import Examples
from ..suite import Item

TENSORS = {"images": torch.float32, "labels": torch.int64, "indices": torch.int64, "robust": torch.bool}


@dataclass(frozen=True)
class Saved:
    """A file of examples in memory.

    Attributes:
        images, labels, indices, robust: see the module.
        item: as in a result, "pgd20@Linf:8/255".
        threat: "Linf:8/255".
        identity: of the evaluation, see `identities`.
        content: the hash that the file says to have.
        found: the hash that it has.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    robust: Tensor
    item: str
    threat: str
    identity: dict[str, Any]
    content: str
    found: str


def write_part(folder: Path, item: Item, number: int, images: Tensor) -> None:
    """Keep the examples of one chunk."""
    data = to_safetensors({"images": images.detach().cpu().contiguous()})
    files.write(_part(folder, item, number), lambda file: file.write(data))


def join(
    folder: Path, item: Item, numbers: list[int], rest: Mapping[str, Sequence[int]], identity: dict[str, Any]
) -> Examples:
    """Put the parts of an item into one file and delete them; a file that is there already stays.

    Args:
        numbers: of the chunks, in order.
        rest: labels, indices and robust.
    """
    path = folder / f"{item.file}.safetensors"
    if not path.exists():
        parts = [load_file(_part(folder, item, number))["images"] for number in numbers]
        tensors = {"images": torch.cat(parts), **{name: torch.tensor(values) for name, values in rest.items()}}
        metadata = {
            "item": str(item),
            "threat": str(item.threat),
            "identity": json.dumps(identity, sort_keys=True),
            "rtk": environment.version(),
            "torch": torch.__version__,
        }
        metadata["content"] = _content(tensors, metadata)
        files.write(path, lambda file: file.write(to_safetensors(tensors, metadata)))
    shutil.rmtree(folder / item.file, ignore_errors=True)
    return Examples(file=f"{folder.name}/{path.name}", content=read(path).content)


def read(path: Path) -> Saved:
    """Read a file of examples.

    Raises:
        BadData: missing, truncated, or without the tensors and metadata that a file of examples has.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        for name, dtype in TENSORS.items():
            if tensors[name].dtype != dtype:
                raise ValueError(f"{name} must be {dtype}")
        if tensors["images"].ndim != 4 or not len(tensors["images"]):
            raise ValueError("images must be (N, C, H, W), one or more")
        if any(tensors[name].shape != tensors["images"].shape[:1] for name in list(TENSORS)[1:]):
            raise ValueError("labels, indices and robust must have a value for each image")
        if bool((tensors["indices"] < 0).any()):
            raise ValueError("indices must be 0 or more")
        identity = json.loads(metadata["identity"])
        if not isinstance(identity, dict) or "id" not in identity:
            raise ValueError("identity must be that of an evaluation")
        return Saved(
            **{name: tensors[name] for name in TENSORS},
            item=metadata["item"],
            threat=metadata["threat"],
            identity=identity,
            content=metadata["content"],
            found=_content(tensors, metadata),
        )
    except (OSError, SafetensorError) as problem:
        raise BadData(f"{path}: cannot be read as safetensors ({problem}).") from None
    except Exception as problem:  # whatever foreign bytes make of a library; missing names and values among them
        hint = "rtk verify --images FILE for images of another origin"
        reason = " ".join(str(problem).split())[:200]
        raise BadData(f"{path}: not a file of rtk evaluate --save-examples ({reason}).", hint) from None


def _part(folder: Path, item: Item, number: int) -> Path:
    return folder / item.file / f"{number:05d}.safetensors"


def _content(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    said = {key: value for key, value in metadata.items() if key != "content"}
    return files.digest({"tensors": hash_state(tensors), "metadata": said})
