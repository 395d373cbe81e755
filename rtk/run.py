"""Everything that a strategy may touch. There is no way from here to test data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import torch
from torch import Tensor, nn

from . import files, processes
from .accuracy import estimate
from .attacks import Attack, frozen, pgd, trades_pgd
from .backbones import Structure
from .charts import Chart, Kind
from .checkpoint import Kept
from .data import Loader, Split
from .errors import BadValue
from .freeze import Freeze, Mode, Statistics
from .memory import Memory
from .observers import Display, EarlyStop, LogFile, Observers, RunInfo
from .once import cut
from .precision import FLOAT32, Choice
from .progress import Progress
from .recipe import Select
from .schedules import Schedule, constant
from .searched import Compile, Searched
from .seeds import derive
from .statistics import Estimate
from .steps import Loss
from .threat import Threat
from .train import Recipe, fit

RESERVED = ("selection", "training_attack", "memory", "charts")
"""What a run reports by itself."""


@dataclass(frozen=True)
class Origin:
    """The earlier run that a backbone `run:DIR` comes from.

    Attributes:
        strategy: its name.
        config: its resolved options.
        report: what it said of itself with `run.report`.
    """

    strategy: str
    config: dict[str, Any]
    report: dict[str, Any]


@dataclass
class Run:
    """One fine-tuning run, as a strategy sees it.

    Attributes:
        source: a frozen copy of the network that the run started from, in evaluation mode.
        structure: ordered blocks, classifier, features and norm audit of the backbone.
        train, val: the training split, and the validation split that was cut from it by a fixed seed. Selecting
            anything (epoch, alpha, module) is done on `val`.
        augment: the augmentation that keeps labels on this data set: "none", "crop" or "crop-flip".
        classes: number of classes.
        new_head: whether the classifier is fresh, because the backbone had other classes.
        threat: the ball of the adversary.
        seed: of this run; derive further seeds with `run.derive("purpose", ...)`.
        device: where the network is.
        directory: of this run; write nothing there yourself, use `log`, `once` and `fit`.
        progress: shows stages; strategies that loop themselves call `run.progress.stage(name, total)`. What looks on at
            the run hears of it here; see `rtk.observers`.
        origin: the run that this one goes on from, when the backbone is `run:DIR`; else None.
        precision: what attacks compute in while the network trains.
        compile: what is made of the network for them.
    """

    source: nn.Module
    structure: Structure
    train: Split
    val: Split
    augment: str
    classes: int
    new_head: bool
    threat: Threat
    seed: int
    device: torch.device
    directory: Path
    progress: Progress
    origin: Origin | None = None
    precision: Choice = FLOAT32
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        self._phases: set[str] = set()
        if isinstance(self.progress, Observers):
            self._observers = self.progress
        else:  # a mere display
            info = RunInfo(self.directory, "", {}, "", "", str(self.threat), self.seed)
            self.progress = self._observers = Observers(info, [LogFile(), Display(self.progress)])

    def derive(self, *keys: str | int) -> int:
        """A seed for the purpose named by `keys`; the same in a resumed run."""
        return derive(self.seed, *keys)

    def attack(
        self,
        *,
        steps: int = 10,
        step_size: float | None = None,
        random_start: bool = True,
        loss: Literal["ce", "kl"] = "ce",
        threat: Threat | None = None,
        exact: bool = False,
    ) -> Attack:
        """PGD within the run's threat; call it as `attack(model, images, labels, seed=step.seed)`.

        It is for training, and computes in the run's precision, on what `rtk.searched` makes of the network; the result
        says both.

        Args:
            step_size: in pixels of [0, 1]; eps / 4 by default.
            random_start: "ce" starts at random in the ball (Linf: uniformly; L2: in a uniform direction at a uniform
                distance), or at the image; "kl" always starts beside the image.
            loss: "ce", the cross-entropy; or "kl", the divergence from the clean prediction that TRADES ascends, always
                in float32: its first gradient is smaller than what bfloat16 rounds away.
            exact: in float32 and on the network as it is, for what is measured.
        """
        if loss == "kl":
            found = trades_pgd(threat or self.threat, steps=steps, step_size=step_size)
        else:
            found = pgd(threat or self.threat, steps=steps, step_size=step_size, random_start=random_start)
        if exact:
            return found
        chosen = self.precision if loss == "ce" else Choice("float32", "the attack of TRADES")
        report = partial(self._report_attack, chosen)
        search = Searched(self.compile, chosen.precision, once=self.once, report=report)
        return replace(found, precision=chosen.precision, search=search)

    def loader(
        self,
        which: Literal["train", "val"] = "train",
        *,
        batch_size: int = 128,
        shuffle: bool = False,
        augment: str = "none",
        name: str = "loader",
    ) -> Loader:
        """Mini-batches of a split on the run's device; `loader.epoch(e)` depends on the run's seed, `name` and e."""
        split = self.train if which == "train" else self.val
        return Loader(
            split, batch_size, shuffle=shuffle, augment=augment, seed=self.derive("loader", name), device=self.device
        )

    def fit(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        epochs: int,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        accumulate: int = 1,
        smallest: int | None = None,
        sections: int = 1,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        schedule: Schedule | None = None,
        trainable: Iterable[str] | Literal["all"] = "all",
        statistics: Statistics | Iterable[str] = "update",
        mode: Mode = "train",
        augment: str = "auto",
        select: Select | Callable[[nn.Module], float] = "last",
        select_steps: int = 10,
        patience: int | None = None,
        selected_by: str = "a score of the strategy",
        judged: Callable[[nn.Module], nn.Module] | None = None,
        once: bool = False,
        name: str = "fine-tune",
    ) -> nn.Module:
        """Minimise `loss(model, step)` over the training split; `model` is trained in place and returned.

        A run that was interrupted goes on from its last checkpoint. One is written after every epoch, unless that would
        take more than a twentieth of the time, and, within an epoch, every few minutes and when Ctrl-C or SIGTERM asks
        the run to end, so that `loss` has to depend on its arguments alone. Under torchrun each process takes its part
        of every step, and the steps are those of one process but for rounding; checkpoints are those of whole epochs.

        Where memory runs out, steps are cut into twice as many parts from then on, as with `accumulate`, and the result
        says so; with BatchNorm that normalises by the batch the run fails and says how many images fit.

        Args:
            loss: called with the network and a `Step`; returns a scalar, a mean over the images of the step.
            batch_size: images per step; an epoch's last step has what is left over.
            accumulate: cut each step into so many parts and sum their gradients, to save memory. Without BatchNorm in
                training mode the sum is that of the whole step, but for rounding and for the noise of attacks.
            smallest: left-over steps of fewer images are skipped; by default 2 where BatchNorm normalises by the batch,
                else 1.
            sections: into how many equal sections, one after another, the loss divides the images of a step. Where
                several processes share a step, each has its part of every section.
            schedule: factor on `lr` as a function of the time in epochs, see `rtk.schedules`.
            trainable: names of the parameters that move, or "all".
            statistics: "update" lets BatchNorm normalise by the batch and move its running statistics; "keep" uses the
                stored ones and leaves them alone; names of modules update just those.
            mode: "train" or "eval" for dropout and stochastic depth.
            augment: "auto" for the data set's own, or "none", "crop", "crop-flip".
            select: the epoch to keep: "last"; the first of the best by "clean" or "robust" (PGD with `select_steps`
                steps) accuracy on the validation split; or by the score, higher is better, that a function gives the
                network. What was selected on, and which epoch, stands in the result.
            patience: end when the score has not risen for so many epochs; None trains them all.
            selected_by: what such a function measures, in words.
            judged: the part of `model` that "clean" and "robust" measure, and that a function is given.
            once: what comes before the first trainable parameter is computed once, not in every epoch, where no epoch
                changes it: without augmentation, with `statistics` "keep" and `mode` "eval", in one process, and
                without `judged`. `loss` is then given the rest of the network, and what that is applied to as the
                images; it may do nothing with the images but apply the network.
            name: of this phase; two phases of one run need two names.

        Raises:
            RunFailed: the loss or a weight is NaN or infinite; says at which step, and what is kept. Or memory ran out.
            BadValue: an unknown parameter name, nothing to train, or a batch size below `smallest`.
        """
        if patience is not None and select == "last":
            raise BadValue(f"{name}: patience needs a score of epochs, and select='last' gives none.")
        if name in self._phases:
            raise BadValue(f"fit: two phases are named '{name}', and the second would go on from the end of the first.")
        chosen = self.augment if augment == "auto" else augment
        trainable = trainable if isinstance(trainable, str) else tuple(trainable)
        here, scorer, applied, judge = self, self, loss, judged or (lambda model: model)
        alike = (chosen, statistics, mode, processes.current().size) == ("none", "keep", "eval", 1)
        if once and alike and judged is None and not Freeze(model, trainable, statistics, mode).by_batch:
            found = cut(model, trainable, [self.loader("train", batch_size=256), self.loader("val", batch_size=256)])
            if found is not None:
                rest, (train, val) = found
                here, applied = replace(self, train=train, val=val), lambda model, step: loss(rest, step)
                if select == "clean":  # whatever else judges is given the network, and images
                    scorer, judge = here, lambda model: rest
        by, score = scorer._selection(select, select_steps, selected_by)
        with self._observers.joined(*([] if patience is None else [EarlyStop(patience)])):
            kept = fit(
                model,
                applied,
                here.loader(batch_size=batch_size, shuffle=True, augment=chosen, name=name),
                Recipe(
                    epochs,
                    lr,
                    momentum,
                    weight_decay,
                    optimizer,
                    schedule or constant(),
                    accumulate,
                    smallest,
                    sections,
                ),
                name=name,
                seed=self.seed,
                checkpoint=self._work(name, "pt"),
                observers=self._observers,
                trainable=trainable,
                statistics=statistics,
                mode=mode,
                select=None if score is None else lambda model: score(judge(model)),
            )
        self._phases.add(name)
        self._report_selection(name, by, kept)
        return model

    def _selection(
        self, select: Select | Callable[[nn.Module], float], steps: int, words: str
    ) -> tuple[str, Callable[[nn.Module], float] | None]:
        """What `select` means, in words, and the score of a network."""
        if select == "last":
            return "nothing: the last epoch", None
        if select == "clean":
            return "clean accuracy", lambda model: self.accuracy(model).value
        if select == "robust":
            attack = self.attack(steps=steps, exact=True)
            return f"PGD-{steps} accuracy", lambda model: self.robust_accuracy(model, attack=attack).value
        if not callable(select):
            raise BadValue(f"select: got {select!r} (allowed: last | clean | robust, or a function of the network).")
        return words, select

    def _report_selection(self, phase: str, by: str, kept: Kept) -> None:
        known = self._reported().get("selection", {})
        facts = {"by": by, "on": f"validation split, {len(self.val)} images", "epoch": kept.epoch, "score": kept.score}
        self._report(selection={**known, phase: facts})
        if kept.shortages:
            self._report_memory(phase, kept.shortages)

    @torch.no_grad()
    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Predicted classes (N,) in evaluation mode; the network's modes are as before afterwards."""
        with frozen(model):
            return model(images).argmax(1)

    def accuracy(self, model: nn.Module, which: Literal["train", "val"] = "val") -> Estimate:
        """Share of unperturbed images that are classified correctly."""
        return self._estimate(which, model)

    def robust_accuracy(
        self,
        model: nn.Module,
        which: Literal["train", "val"] = "val",
        *,
        attack: Attack | None = None,
        seed: int | None = None,
    ) -> Estimate:
        """Share that is classified correctly without and under `attack`, whose noise has the same seed at every call.

        PGD-10 by default; always in float32. What is wrong without the attack is not attacked, as in an evaluation; the
        noise of an image depends on which others of its batch are attacked.
        """
        chosen = replace(attack or self.attack(steps=10, exact=True), precision="float32", search=None)
        return self._estimate(which, model, chosen, self.derive("robust accuracy") if seed is None else seed)

    def _estimate(
        self, which: Literal["train", "val"], model: nn.Module, attack: Attack | None = None, seed: int = 0
    ) -> Estimate:
        memory = Memory(256)
        found = estimate(model, self.loader(which, batch_size=memory.batch), memory, attack, seed)
        if memory.halved:
            self._report_memory("accuracy", [{"images": memory.batch}])
        return found

    def _report_attack(self, precision: Choice, network: str) -> None:
        self._report(training_attack=f"{precision}; {network}")

    def _report_memory(self, phase: str, shortages: list[dict[str, int]]) -> None:
        """Say in the result where memory ran out."""
        self._report(memory={**self._reported().get("memory", {}), phase: shortages})

    def log(self, event: str, **values: Any) -> None:
        """Append one line to the run's log (JSON lines); values must be JSON."""
        self._observers.event(event, values)

    def report(self, **values: Any) -> None:
        """Add facts about this run (JSON) to its result, e.g. which module was chosen and why.

        Raises:
            BadValue: a name under which rtk itself reports, or a value that JSON does not know.
        """
        for name, value in values.items():
            if name in RESERVED:
                raise BadValue(f"report: '{name}' is what rtk itself reports (taken: {', '.join(RESERVED)}).")
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as problem:
                raise BadValue(f"report: {name} is no JSON ({problem}); numbers must be finite and Python's.") from None
        self._report(**values)

    def _report(self, **values: Any) -> None:
        if processes.current().first:
            files.write_json(self.directory / "report.json", {**self._reported(), **values})

    def chart(
        self,
        name: str,
        *,
        kind: Kind,
        x: Sequence[float] | Sequence[str],
        y: Mapping[str, Sequence[float]],
        x_label: str,
        y_label: str,
        text: str,
    ) -> None:
        """Add a chart to the result; the leaderboard and `rtk plot` draw it. One of the same name is replaced.

        Args:
            kind: "bar", "line" or "scatter".
            x: places, finite numbers; names are allowed for bars.
            y: by the name of a series, a finite number for each place.
            x_label, y_label: of the axes, with units.
            text: what it shows, for a reader who does not see it, too.

        Raises:
            BadValue: a value that cannot be drawn.
        """
        made = Chart(name, kind, x, y, x_label, y_label, text)
        self._report(charts={**self._reported().get("charts", {}), name: made.describe()})

    def _reported(self) -> dict[str, Any]:
        path = self.directory / "report.json"
        found: dict[str, Any] = files.read_json(path) if path.exists() else {}
        return found

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of `compute()`; in a resumed run, the value that was stored the first time."""
        path = self._work(name, "json")

        def stored() -> Any:
            if not path.exists():
                files.write_json(path, compute())
            return files.read_json(path)

        return processes.current().shared(stored)

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep a state (tensors, numbers, text, and lists and dictionaries of these) for a resumed run, in one step.

        For strategies with a training loop of their own; `fit` keeps its state by itself. It is gone after the run.
        """
        path = self._work(name, "saved")
        processes.current().shared(lambda: files.write(path, lambda file: torch.save(state, file)))

    def saved(self, name: str) -> dict[str, Any] | None:
        """What was kept last under `name`, on the CPU; None in a run that begins."""
        path = self._work(name, "saved")
        found: dict[str, Any] | None = None
        if path.exists():
            found = torch.load(path, map_location="cpu", weights_only=True)
        processes.current().wait()  # until all have read: the next to be saved is written over it
        return found

    def _work(self, name: str, suffix: str) -> Path:
        # two names are two files; the suffixes keep what is of one name and of another kind apart
        return self.directory / "work" / f"{quote(name, safe=' ').replace(' ', '+')}.{suffix}"
