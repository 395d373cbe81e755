"""`timm:NAME`: classification models of timm, e.g. timm:resnet18 or timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k."""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import nn

from ..errors import BadBackbone, UnknownName
from ..threat import Threat
from .naming import Converter
from .source import Source, Spec, check_published, need, timm_converter

_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmSource(Source):
    """timm's architectures with the normalisation and image size that their weights were trained with."""

    def spec(self, name: str) -> tuple[Spec, Threat | None]:
        config = _config(name)
        data = need("timm.data", "timm").resolve_data_config(pretrained_cfg=config)
        spec = {"family": "timm", "name": name, "native_classes": config.get("num_classes") or 1000}
        spec |= {"mean": list(data["mean"]), "std": list(data["std"]), "size": list(data["input_size"][-2:])}
        return spec, None

    def build(self, spec: Mapping[str, Any]) -> nn.Module:
        timm = need("timm", "timm")
        _config(spec["name"])  # refuses unknown names in a sentence
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(spec["name"], pretrained=False, num_classes=spec["native_classes"])

    def locate(self, spec: Mapping[str, Any]) -> Path:
        name = spec["name"]
        config = _config(name)
        repository, url = config.get("hf_hub_id"), config.get("url")
        if repository:
            return _from_hub(name, repository, config.get("hf_hub_filename"))
        if not url:
            raise BadBackbone(f"timm:{name}: timm has no pre-trained weights for it.", "--weights FILE (or random)")
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
        if not path.is_file():
            raise BadBackbone(f"timm:{name}: its weights are not at {path}.", f"curl -L -o {path} {url}")
        return path

    def converter(self, net: nn.Module) -> Converter | None:
        return timm_converter(net)


def _config(name: str) -> dict[str, Any]:
    """timm's record of a pre-trained model; UnknownName when there is no such model or no such set of weights."""
    timm = need("timm", "timm")
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownName("timm model", architecture, timm.list_models())
    tags = [each.partition(".")[2] for each in timm.list_models(f"{architecture}.*", pretrained=True)]
    if dot and tag not in tags:
        raise UnknownName(f"weights of timm:{architecture}", tag, tags)
    config = need("timm.models", "timm").get_pretrained_cfg(name, allow_unregistered=True)
    return {} if config is None else config.to_dict()


def _from_hub(name: str, repository: str, filename: str | None) -> Path:
    """The weights in the local cache of the hub, or downloaded into it."""
    hub = need("huggingface_hub", "huggingface_hub")
    files = (filename,) if filename else _FILES
    for file in files:
        cached = hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return _checked(name, Path(cached))
    try:
        _check_reachable(hub.constants.ENDPOINT)
        downloaded = Path(hub.hf_hub_download(repository, files[0], etag_timeout=10))
    except Exception as problem:  # offline, no such file, no access: the answer is the same
        reason = (str(problem).splitlines() or [type(problem).__name__])[0][:120]
        raise BadBackbone(
            f"timm:{name}: {files[0]} of the Hugging Face repository {repository} is neither cached nor reachable "
            f"({reason}). Fetch it on a machine with a network, or name the file with --weights FILE.",
            f"huggingface-cli download {repository} {files[0]}",
        ) from None
    return _checked(name, downloaded)


def _checked(name: str, path: Path) -> Path:
    """A file of the hub's cache, which links to a blob that is called by the SHA-256 that the hub states."""
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        check_published(blob, blob.name, f"timm:{name}")
    return path


def _check_reachable(endpoint: str) -> None:
    """Raise OSError at once when there is no network; the hub's own client retries for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise OSError("HF_HUB_OFFLINE is set")
    if "https" not in getproxies():
        host = urlsplit(endpoint)
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
