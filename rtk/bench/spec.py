"""What a benchmark is asked to do: a TOML file, validated, and multiplied out into the options of its cells.

    name = "mine"
    seeds = [0, 1, 2]          # by default [0]
    baseline = "full"          # the row of a table that its other rows are compared with; by default none
    reported = ["rift-table-1"]     # published tables, or files of RobustBench, to be shown below ours
    time_limit = 7200          # seconds after which a cell is stopped; what it has finished is kept; by default none

    [options]                  # options of `rtk finetune`, for every cell
    images = 500

    [vary]                     # option -> values, multiplied out
    dataset = ["signs", "folder:photos"]

    [[run]]                    # a group of cells
    strategy = "cartl"
    [run.vary]
    beta = [1.0, 0.6, 0.4]

What stands nearer to a cell wins: [run.vary] over [[run]], over [vary], over [options]. Paths are relative to the
folder in which the command is typed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field

from ..config import read_toml, show, written
from ..errors import BadValue, UnknownName

EXAMPLE = "a spec such as benchmarks/quickstart.toml"
CHOSEN = {"seed": "seeds = [0, 1, 2] at the top", "out": "rtk bench run SPEC --out DIR"}
"""Options that the benchmark itself gives to its cells, and how they are asked for."""

KEPT = "spec.toml"
"""The spec in the folder of a benchmark."""

MOST = 10_000
"""Cells of one benchmark."""


def _spelled(options: Any) -> Any:
    """Option names as fields are: `attack-steps` is `attack_steps`."""
    if not isinstance(options, dict):
        return options
    found: dict[str, Any] = {}
    for key, value in options.items():
        name = str(key).replace("-", "_")
        if name in found:
            raise BadValue(f"{name}: stands twice, with a hyphen and with an underscore.", f"{name} = ... once")
        found[name] = value
    return found


Options = Annotated[dict[str, Any], pydantic.BeforeValidator(_spelled)]
Vary = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], pydantic.BeforeValidator(_spelled)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class Group(pydantic.BaseModel):
    """A `[[run]]` table: options of `rtk finetune` for a group of cells, and what varies among them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    vary: Vary = {}

    @property
    def options(self) -> dict[str, Any]:
        """The options that all cells of the group have."""
        found: dict[str, Any] = _spelled(self.model_extra or {})
        return found


class Spec(pydantic.BaseModel):
    """A benchmark as its file states it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seeds: list[Seed] = Field([0], min_length=1)
    baseline: str | None = None
    reported: list[str] = []
    time_limit: float | None = Field(None, gt=0)
    options: Options = {}
    vary: Vary = {}
    run: list[Group] = Field([Group()], min_length=1)


@dataclass(frozen=True)
class Settings:
    """The options of one cell.

    Attributes:
        all: option names with underscores to values, as given to `rtk finetune`; strategy and seed among them.
        own: names of those that a group gives or that vary: what tells cells apart for a reader.
        time_limit: seconds after which the cell is stopped; None for no limit.
    """

    all: Mapping[str, Any]
    own: frozenset[str]
    time_limit: float | None = None

    def __str__(self) -> str:
        named = {key: value for key, value in self.all.items() if key in self.own or key == "seed"}
        named.pop("strategy", None)
        return " ".join([str(self.all.get("strategy")), *(f"{key}={show(value)}" for key, value in named.items())])


def read_spec(path: Path) -> Spec:
    """Read and validate a spec; options are judged later, cell by cell.

    Raises:
        BadValue: no such file, not TOML, or a value that is not allowed.
        UnknownName: a key that a spec does not have.
    """
    try:
        values = read_toml(path)
    except BadValue as problem:
        raise BadValue(problem.message.removeprefix("--config "), EXAMPLE) from None
    try:
        return Spec.model_validate(values)
    except pydantic.ValidationError as problem:
        raise _readable(path, problem) from None


def folder_of(spec: Spec) -> Path:
    """Where a benchmark is run unless another folder is given."""
    return Path("runs") / f"bench-{spec.name}"


def located(path: Path) -> tuple[Path, Path | None]:
    """The file of a benchmark, and the folder of its runs, of which either was named.

    Returns:
        The spec, and the folder where that was named; else None.

    Raises:
        BadValue: a folder without a spec.
    """
    if not path.is_dir():
        return path, None
    if not (path / KEPT).is_file():
        raise BadValue(f"{path}: holds no {KEPT}, so it is not the folder of a benchmark.", "the path of a spec")
    return path / KEPT, path


def expand(spec: Spec) -> list[Settings]:
    """The options of every cell, in the order of the file; the seed varies fastest.

    Raises:
        BadValue: a cell without a strategy, or an option that is the benchmark's to choose.
    """
    found: list[Settings] = []
    for group in spec.run:
        fixed = {key: [value] for key, value in spec.options.items()}
        own = {**spec.vary, **{key: [value] for key, value in group.options.items()}, **group.vary}
        axes = {**fixed, **own}
        for name, instead in CHOSEN.items():
            if name in axes:
                raise BadValue(f"{name}: is no option of a cell; the benchmark chooses it.", instead)
        axes["seed"] = list(dict.fromkeys(spec.seeds))
        if (count := len(found) + math.prod(map(len, axes.values()))) > MOST:
            raise BadValue(f"{count:,} cells: what varies is multiplied out (allowed: {MOST:,}).", "shorter lists")
        for values in itertools.product(*axes.values()):
            settings = Settings(dict(zip(axes, values, strict=True)), frozenset(own), spec.time_limit)
            if not isinstance(settings.all.get("strategy"), str):
                raise BadValue("A cell needs the name of a strategy.", 'strategy = "rift" under [[run]]')
            found.append(settings)
    return found


def _readable(path: Path, problem: pydantic.ValidationError) -> BadValue | UnknownName:
    """The first complaint of pydantic as one line."""
    first = problem.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return UnknownName(
            f"key in {path}", where, Spec.model_fields, "options of `rtk finetune` belong under [options] or [[run]]"
        )
    if first["type"] == "missing":
        return BadValue(f"{path}: {where} is required.", f'{where} = "mine"')
    return BadValue(f"{path}: {where}: {first['msg']}, got {written(first['input'])[:60]!r}.", EXAMPLE)
