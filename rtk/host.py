"""One fine-tuning run from request to result: the host of a strategy.

The host trusts nothing that comes back from a strategy: the weights must load into the architecture that the run
started from, be finite, and are read again from disk before they are judged.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from . import costs, environment, files, precision, processes, results, rundir
from .attacks import seeded
from .backbones import Backbone, Classifier, hash_state, open_backbone
from .data import Dataset, Split, open_dataset
from .data.stratify import stratified_split
from .errors import BadValue, Interrupted, PluginError, RtkError
from .evaluation import (
    Subject,
    changes_between,
    describe_backbone,
    judge_all,
    measure_of,
    row_of,
    save_network,
    shared_with_others,
    train_test_overlap,
)
from .memory import ran_out
from .observers import Display, LogFile, Observers, RunInfo
from .process_state import preserved
from .progress import Progress, Silent
from .registry import observer
from .request import Request
from .results import Result, Row
from .run import Origin, Run
from .seeds import derive
from .threat import Threat

COST = "work/cost"
TUNED = (COST, "report.json", "backbone.json", "model.safetensors")
"""What fine-tuning leaves; where one of them is missing it is done again, from the checkpoints that are there."""


def finetune(
    request: Request, *, force: bool = False, progress: Progress | None = None, command: list[str] | None = None
) -> Result:
    """Fine-tune, evaluate before and after, and write the run directory.

    A run that was interrupted goes on where it stopped when the same request is made again. Processes that torchrun
    has started train together; the first of them writes and evaluates, and all return its result.

    Args:
        force: throw away the run that the directory holds.
        command: what was typed, for the record.

    Raises:
        RequestError: the request cannot be met; nothing was written.
        RunFailed: the run broke; what was finished is kept.
        Interrupted: Ctrl-C; what was finished is kept.
    """
    with processes.joined(request.options.device):
        host = processes.current().each(lambda: Host(request, progress or Silent()))
        return host.finetune(force, command or [])


class Host:
    """Everything that one run has opened."""

    def __init__(self, request: Request, progress: Progress):
        options = request.options
        self.request = request
        self.directory = request.directory
        self.device = environment.device(options.device)
        self.precision = precision.choose(options.precision, self.device)
        environment.make_deterministic()
        self.data = open_dataset(request.dataset, root=options.data_root, image_size=options.image_size)
        self.backbone = _open_backbone(request, self.data)
        self.threat = _threat(request, self.backbone)
        self.train = training_images(self.data, options.train_fraction, options.seed)
        self.suite = options.suite_at(self.threat, options.evaluation_seed)
        for item in self.suite.items:  # what cannot be judged is refused before anything is trained
            measure_of(item, self.data)
        self.observers = Observers(self._info())
        if processes.current().first:
            named = {name: observer(name) for name in options.observe}
            self.observers = Observers(self._info(), [LogFile(), Display(progress)], named)

    def finetune(self, force: bool, command: list[str]) -> Result:
        group, inputs = processes.current(), self._inputs()
        try:
            group.agree("What the run starts from", lambda: files.digest(inputs))
            config = {**self.request.describe(), "inputs": inputs}
            with group.holding(lambda: rundir.claim(self.directory, config, force=force)):
                here = environment.describe(self.device)
                group.shared(lambda: self._begin(here))
                cost = self._finetuned()
                return group.shared(lambda: self._finish(cost, command))
        except KeyboardInterrupt as stop:
            self.observers.failed("interrupted")
            at = f" at {stop}" if str(stop) else ""
            raise Interrupted(
                f"Interrupted{at}; what was finished is kept in {self.directory}.",
                "the same command goes on from there",
            ) from None
        except RtkError as problem:
            self.observers.failed(problem.message)
            raise

    def _begin(self, here: dict[str, Any]) -> None:
        """Write where the run takes place, and what it starts from."""
        kept = self.directory / "environment.json"
        files.write_json(kept, environment.continued(kept, here))
        self.observers.started()
        save_network(self.directory / "source", self.backbone, self.backbone.model)

    def _finish(self, spent: costs.Cost, command: list[str]) -> Result:
        """Evaluate, and write the result; `spent` is what fine-tuning has cost."""
        begun, cpu = time.monotonic(), costs.cpu_seconds()
        rows = self._judge()
        seconds = {
            "finetune": round(spent.seconds, 1),
            "evaluate": round(time.monotonic() - begun, 1),
            "cpu": round(spent.cpu + costs.cpu_seconds() - cpu, 1),
        }
        device = max(spent.device, costs.device_bytes(self.device))
        memory = {"finetune": spent.peak, "evaluate": costs.peak_bytes(), "device": device}
        result = self._result(rows, seconds, memory, command)
        results.write(self.directory / "result.json", result)
        _delete_checkpoints(self.directory)
        self.observers.finished(result.model_dump(mode="json"))
        return result

    def _info(self) -> RunInfo:
        request = self.request
        return RunInfo(
            directory=self.directory,
            strategy=request.strategy.name,
            config=request.config.model_dump(mode="json"),
            backbone=request.options.backbone,
            dataset=request.dataset,
            threat=str(self.threat),
            seed=request.options.seed,
        )

    def _inputs(self) -> dict[str, Any]:
        """What a run was begun with; a run goes on only with the same weights, data and code."""
        return {
            "rtk": environment.version(),
            "strategy_source": self.request.source_sha256,
            "precision": self.precision.precision,
            "weights": hash_state(self.backbone.model.native_state()),
            "train": self.train.sha256,
            "val": self.data.split("val").sha256,
        }

    def _finetuned(self) -> costs.Cost:
        """Have the fine-tuned weights on disk; what they have cost, also where an earlier process made them."""
        group, kept, report = processes.current(), self.directory / COST, self.directory / "report.json"
        if group.told(all((self.directory / name).exists() for name in TUNED)):
            return costs.Cost(**files.read_json(kept))
        begun, cpu = time.monotonic(), costs.cpu_seconds()
        tuned = self._tune()
        spent = group.sum(costs.cpu_seconds() - cpu)
        cost = costs.Cost(time.monotonic() - begun, spent, costs.peak_bytes(), costs.device_bytes(self.device))

        def keep() -> None:
            files.write_json(kept, asdict(cost))
            if not report.exists():
                files.write_json(report, {})
            save_network(self.directory, self.backbone, tuned)

        group.shared(keep)
        return cost

    def _tune(self) -> Classifier:
        """Run the strategy in quarantine and check what it returns."""
        model = copy.deepcopy(self.backbone.model).to(self.device)
        source = copy.deepcopy(self.backbone.model).to(self.device).eval()
        for parameter in source.parameters():
            parameter.requires_grad_(False)
        before = hash_state(source.native_state())
        strategy = self.request.strategy(self.request.config)
        plugin = self.request.plugin
        try:
            with preserved(), seeded(derive(self.request.options.seed, "global"), self.device):
                tuned = strategy.finetune(model, self._open_run(source))
        except RtkError:
            raise
        except SystemExit as ended:
            raise PluginError(f"{plugin}: ended the process with exit({ended.code!r}).", "raise an error") from None
        except Exception as problem:
            own = PluginError(f"{plugin}: {type(problem).__name__}: {problem}", "--traceback shows where")
            if ran_out(problem):
                own.hint = "free memory, or --device with more of it"
            raise processes.current().blame(problem) or own from problem
        if hash_state(source.native_state()) != before:
            raise PluginError(f"{plugin}: wrote over run.source, which must stay as it was.")
        return self._accept(tuned)

    def _open_run(self, source: Classifier) -> Run:
        return Run(
            source=source,
            structure=self.backbone.structure,
            train=self.train,
            val=self.data.split("val"),
            augment=self.data.augment,
            classes=self.data.num_classes,
            new_head=self.backbone.new_head,
            threat=self.threat,
            seed=self.request.options.seed,
            device=self.device,
            directory=self.directory,
            progress=self.observers,
            origin=_origin(self.request.options.backbone),
            precision=self.precision,
            compile=self.request.options.compile,
        )

    def _accept(self, tuned: object) -> Classifier:
        """The weights of what a strategy returned, in the architecture that the run started from."""
        plugin = self.request.plugin
        if not isinstance(tuned, nn.Module):
            raise PluginError(f"{plugin}: finetune() must return a module, got {type(tuned).__name__}.")
        state = {name: value.detach().cpu() for name, value in tuned.state_dict().items()}
        expected = self.backbone.model.state_dict()
        for name in sorted(set(expected) ^ set(state)):
            what = "lacks" if name in expected else "adds"
            raise PluginError(f"{plugin}: the returned network {what} '{name}'; it must keep the architecture.")
        for name, value in state.items():
            if value.shape != expected[name].shape:
                raise PluginError(f"{plugin}: '{name}' came back with shape {tuple(value.shape)}.")
            if not torch.isfinite(value).all():
                raise PluginError(f"{plugin}: '{name}' came back with NaN or infinite values.", "a smaller --lr")
        accepted = copy.deepcopy(self.backbone.model)
        accepted.load_state_dict(state)
        # a strategy with a training loop of its own trains in every process, and has to end with the same bits in all
        processes.current().agree(f"{plugin}: the networks", lambda: hash_state(accepted.native_state()))
        return accepted

    def _judge(self) -> list[Row]:
        """Evaluate the networks on disk; the source only where its classifier belongs to these classes."""
        places = {self.request.strategy.name: self.directory}
        if not self.backbone.new_head:
            places = {"source": self.directory / "source", **places}
        subjects = [self._subject(place, name) for name, place in places.items()]
        verdicts = judge_all(subjects, self.observers, self.request.options.workers)
        seen = train_test_overlap(self.train, self.data)
        judged = zip(places, subjects, verdicts, strict=True)
        return [row_of(name, subject, found, seen) for name, subject, found in judged]

    def _subject(self, place: Path, name: str) -> Subject:
        options = self.request.options
        return Subject(
            directory=place,
            weights=hash_state(load_file(place / "model.safetensors")),
            dataset=self.request.dataset,
            root=options.data_root,
            image_size=options.image_size,
            suite=self.suite,
            device=str(self.device),
            verdicts=self.directory / "evaluation" / name,
            batch_size=options.evaluation_batch_size,
            shared=shared_with_others(environment.describe(self.device)) if place != self.directory else None,
        )

    def _result(self, rows: list[Row], seconds: dict[str, float], memory: dict[str, int], command: list[str]) -> Result:
        return Result(
            rtk=environment.version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            strategy=_describe_strategy(self.request),
            backbone=describe_backbone(self.backbone),
            dataset=_describe_data(self.data, self.train),
            observers=[{**each, **self.observers.failures.get(each["name"], {})} for each in self.request.observers],
            threat=asdict(self.threat),
            seed=self.request.options.seed,
            rows=rows,
            changes=changes_between(*rows) if len(rows) == 2 else {},
            report=files.read_json(self.directory / "report.json"),
            trained=self._trained(),
            seconds=seconds,
            peak_bytes=memory,
            environment=files.read_json(self.directory / "environment.json"),
        )

    def _trained(self) -> dict[str, Any]:
        """What differs between source and result, tensor by tensor."""
        source, tuned = (
            load_file(place / "model.safetensors") for place in (self.directory / "source", self.directory)
        )
        sizes = {name: tuned[name].numel() for name in tuned if not torch.equal(tuned[name], source[name])}
        parameters = {name for name, _ in self.backbone.model.net.named_parameters()}
        return {
            "changed": [*sizes],
            "changed_parameters": sum(size for name, size in sizes.items() if name in parameters),
            "changed_values": sum(sizes.values()),
        }


def training_images(data: Dataset, fraction: float, seed: int) -> Split:
    """What is trained on: the training split, or the share of each class that --train-fraction and --seed name."""
    whole = data.split("train")
    if fraction == 1:
        return whole
    kept, _ = stratified_split(whole.labels.numpy(), 1 - fraction, derive(seed, "train fraction"))
    return whole.subset(torch.from_numpy(kept))


def _open_backbone(request: Request, data: Dataset) -> Backbone:
    options = request.options
    return open_backbone(
        options.backbone,
        weights=options.weights,
        classes=data.num_classes,
        new_head=not _keeps_classifier(request, data),
        head=options.head,
        blocks=options.blocks,
        seed=options.seed,
        trust_checkpoint=options.trust_checkpoint,
    )


def _keeps_classifier(request: Request, data: Dataset) -> bool:
    """Whether the backbone's classifier may be one for this data set: the images, or their name, and the classes."""
    kind, _, folder = request.options.backbone.partition(":")
    if kind != "run":
        return not request.new_data
    place = Path(folder).expanduser()
    names, inputs = results.trained_on(place), rundir.read_config(place).get("inputs", {})
    if names and data.class_names and names != data.class_names:
        return False
    return not request.new_data or inputs.get("val") == data.split("val").sha256  # wherever the files lay then


def _threat(request: Request, backbone: Backbone) -> Threat:
    """What was asked for, else the backbone's own.

    Raises:
        BadValue: another norm than the backbone's without a radius, for which the one of that norm says nothing.
    """
    options, known = request.options, backbone.threat or Threat()
    if options.eps is None and options.norm not in (None, known.norm):
        usual = {"Linf": "8/255", "L2": "0.5"}[options.norm]
        raise BadValue(
            f"--norm {options.norm}: needs --eps, since {known.label} is a radius of another norm.",
            f"--norm {options.norm} --eps {usual}",
        )
    return Threat(options.norm or known.norm, known.eps if options.eps is None else options.eps)


def _origin(backbone: str) -> Origin | None:
    """What is known about the run that a backbone `run:DIR` comes from; None for any other backbone."""
    kind, _, folder = backbone.partition(":")
    if kind != "run":
        return None
    place = Path(folder).expanduser()
    found, report = rundir.read_config(place), place / "report.json"
    return Origin(found["strategy"], found["config"], files.read_json(report) if report.exists() else {})


def _describe_strategy(request: Request) -> dict[str, Any]:
    paper = request.strategy.paper
    return {
        "name": request.strategy.name,
        "plugin": request.plugin.value,
        "distribution": request.plugin.distribution,
        "version": request.plugin.version,
        "source_sha256": request.source_sha256,
        "config": request.config.model_dump(mode="json"),
        "paper": asdict(paper) if paper else None,
    }


def _describe_data(data: Dataset, train: Split) -> dict[str, Any]:
    splits = {"train": train, "val": data.split("val")}  # the test split is opened by evaluation alone
    return {
        "uri": data.uri,
        "classes": data.num_classes,
        "class_names": data.class_names and [*data.class_names],
        "image_shape": list(data.image_shape),
        "images": {name: len(split) for name, split in splits.items()},
        "sha256": {name: split.sha256 for name, split in splits.items()},
    }


def _delete_checkpoints(directory: Path) -> None:
    for kind in ("*.pt", "*.saved"):
        for path in (directory / "work").glob(kind):
            path.unlink()
