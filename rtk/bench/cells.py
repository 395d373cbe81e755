"""A cell of a benchmark: one fine-tuning run, known by everything that can change its number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import files
from ..errors import RtkError
from ..registry import Registry
from ..request import Request, build
from ..suite import PROTOCOL
from .spec import Settings, Spec, expand


@dataclass(frozen=True)
class Cell:
    """One fine-tuning run of a benchmark."""

    settings: Settings
    request: Request

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that can change the number; options that only say where it is computed cannot."""
        return files.digest(identity(self.request))

    @cached_property
    def configuration(self) -> str:
        """The key but for the seed: cells that share it are repetitions of each other."""
        found = identity(self.request)
        del found["request"]["options"]["seed"]
        return files.digest(found)

    @property
    def name(self) -> str:
        """Of its folder."""
        data = Path(self.request.dataset.split(":")[-1]).stem or "data"
        return f"{self.request.strategy.name}-{data}-{self.key[:12]}"

    def __str__(self) -> str:
        return str(self.settings)


def cells_of(spec: Spec) -> list[Cell]:
    """The cells of a benchmark, each checked as `rtk finetune` checks it; none stands twice.

    Raises:
        RequestError: a cell cannot be run as asked; the message names it. Nothing heavy was imported.
        PluginError: a strategy cannot be loaded.
    """
    registry = Registry()
    checked = [Cell(settings, _request(settings, registry)) for settings in expand(spec)]
    return list({cell.key: cell for cell in checked}.values())


def identity(request: Request) -> dict[str, Any]:
    """Everything that can change the number of a run: options, the strategy's code, files and the protocol.

    The images of `folder:PATH` are known by their path alone.
    """
    return {
        "request": request.describe(),
        "strategy_source": request.source_sha256,
        "protocol": PROTOCOL,
        "files": [files.unchanged_sha256(path) if path.is_file() else None for path in _inputs(request)],
    }


def _request(settings: Settings, registry: Registry) -> Request:
    options = {key: value for key, value in settings.all.items() if key != "strategy"}
    try:
        return build(settings.all["strategy"], {}, options, registry)
    except RtkError as problem:
        problem.message = f"Cell '{settings}': {problem.message}"
        raise


def _inputs(request: Request) -> Iterable[Path]:
    """The files that a request names."""
    options = request.options
    if options.weights not in (None, "random"):
        yield Path(options.weights).expanduser()
    for uri, kind, file in ((options.backbone, "run", "model.safetensors"), (request.dataset, "npz", "")):
        scheme, _, rest = uri.partition(":")
        if scheme == kind:
            yield Path(rest).expanduser() / file
