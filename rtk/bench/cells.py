"""A cell of a benchmark: one fine-tuning run, known by its options, the files that they name and its strategy's code.

Versions and device are not part of it, so that a benchmark goes on after an upgrade; tables say where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..config import Config, resolve
from ..errors import BadValue, RtkError
from ..options import PLACE
from ..registry import Registry
from ..request import Request, RunOptions, build
from ..suite import PROTOCOL
from .spec import Settings, Spec, expand

SHARED = frozenset(RunOptions.model_fields)
"""Names of the options that every run has."""


@dataclass(frozen=True)
class Cell:
    """One fine-tuning run of a benchmark.

    Attributes:
        configuration: SHA-256 of everything that is asked for but the seed: cells that share it are repetitions of
            each other.
        key: SHA-256 of the seed too; options that only say where it is computed are in neither.
        name: of its folder.
        code: SHA-256 of the strategy's source, as it was when the cell was planned; None where it has no file.
    """

    settings: Settings
    request: Request
    configuration: str
    key: str
    name: str
    code: str | None

    def __str__(self) -> str:
        return str(self.settings)


def cells_of(spec: Spec) -> list[Cell]:
    """The cells of a benchmark, each checked as `rtk finetune` checks it; none stands twice.

    Raises:
        RequestError: a cell cannot be run as asked; the message names it. Nothing heavy was imported.
        PluginError: a strategy cannot be loaded.
    """
    plan = _Plan()
    found: dict[str, Cell] = {}
    for settings in expand(spec):
        cell = plan.cell(settings)
        if (other := found.setdefault(cell.key, cell)) is not cell:
            _check_same(other.settings, settings)
    return list(found.values())


def _check_same(one: Settings, other: Settings) -> None:
    """Refuse two cells that differ in where they are computed alone: they are one, and one of them would be left out.

    Raises:
        BadValue: they do.
    """
    for name in sorted(PLACE & SHARED):
        values = one.all.get(name), other.all.get(name)
        if values[0] != values[1]:
            raise BadValue(
                f"Cells '{one}' and '{other}' are the same run: {name} says where it is computed, not what.",
                f"one {name} under [options], or a spec for each",
            )


class _Plan:
    """Makes cells; what many of them have in common is resolved, checked and hashed once.

    Whether a strategy's own options are allowed does not depend on those that every run has, nor these on the seed.
    """

    def __init__(self) -> None:
        self.registry = Registry()
        self.requests: dict[str, tuple[Request, str, str | None]] = {}
        self.configs: dict[str, tuple[Config, str]] = {}

    def cell(self, settings: Settings) -> Cell:
        """The cell with these options."""
        given = dict(settings.all)
        strategy, seed = given.pop("strategy"), given.pop("seed")
        own = {name: given.pop(name) for name in list(given) if name not in SHARED}
        request, first, code = self._request(settings, f"{strategy} {given}")
        config, second = self._config(settings, request, f"{strategy} {own}", own)
        configuration = files.digest([first, second])
        key = files.digest([configuration, seed])
        data = Path(request.dataset.split(":")[-1]).stem or "data"
        request = Request(request.strategy, request.plugin, config, request.options.model_copy(update={"seed": seed}))
        return Cell(settings, request, configuration, key, f"{strategy}-{data}-{key[:12]}", code)

    def _request(self, settings: Settings, known: str) -> tuple[Request, str, str | None]:
        """With the options that every run has, their digest, and the code; its own are those of the first such cell."""
        if known not in self.requests:
            request = self._checked(settings)
            code = request.source_sha256
            self.requests[known] = request, files.digest(_identity(request, code)), code
        return self.requests[known]

    def _config(self, settings: Settings, request: Request, known: str, own: dict[str, Any]) -> tuple[Config, str]:
        """The strategy's own options, and their digest."""
        if known not in self.configs:
            kind = request.strategy.config_type
            try:
                config = resolve(kind, own)
            except RtkError:
                config = self._checked(settings).config  # says more, and names the cell
            self.configs[known] = config, files.digest(config.model_dump(mode="json"))
        return self.configs[known]

    def _checked(self, settings: Settings) -> Request:
        options = {name: value for name, value in settings.all.items() if name != "strategy"}
        try:
            return build(settings.all["strategy"], {}, options, self.registry)
        except RtkError as problem:
            problem.message = f"Cell '{settings}': {problem.message}"
            raise


def _identity(request: Request, code: str | None) -> dict[str, Any]:
    """What can change the number of a run but the strategy's own options and the seed: code, files and the protocol.

    The images of `folder:PATH` are known by their path alone.
    """
    described = request.describe()
    return {
        "strategy": request.strategy.name,
        "options": {name: value for name, value in described["options"].items() if name != "seed"},
        "strategy_source": code,
        "protocol": PROTOCOL,
        "files": [files.unchanged_sha256(path) if path.is_file() else None for path in _inputs(request)],
    }


def _inputs(request: Request) -> Iterable[Path]:
    """The files that a request names."""
    options = request.options
    if options.weights not in (None, "random"):
        yield Path(options.weights).expanduser()
    for uri, kind, file in ((options.backbone, "run", "model.safetensors"), (request.dataset, "npz", "")):
        scheme, _, rest = uri.partition(":")
        if scheme == kind:
            yield Path(rest).expanduser() / file
