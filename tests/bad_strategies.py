"""One deliberately bad strategy for each check of `rtk.testing`, and a good one that they derive from."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import tempfile
import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import rtk


class GoodConfig(rtk.TrainingConfig):
    pass


class Good(rtk.Strategy):
    name = "good"
    summary = "Fine-tune everything on clean images."
    config: GoodConfig

    def finetune(self, model, run):
        return run.fit(model, self.loss, **self.config.recipe())

    def loss(self, model, step):
        return cross_entropy(model(step.images), step.labels)


class GoodLoop(Good):
    """Trains without `run.fit`, and begins again when it was interrupted."""

    def finetune(self, model, run):
        self.prepare(model)
        optimizer = torch.optim.SGD(self.parameters(model), lr=self.config.lr)
        for epoch in range(self.config.epochs):
            for batch in run.loader(batch_size=8, shuffle=True).epoch(epoch):
                value = cross_entropy(model(batch.images), batch.labels)
                self.judge(value)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        return model.eval()

    def prepare(self, model):
        model.train().requires_grad_(True)

    def parameters(self, model):
        return model.parameters()

    def judge(self, value):
        if not value.isfinite():
            raise rtk.RtkError("The loss is not finite.")


class After(Good):
    """Does something when training is over."""

    def finetune(self, model, run):
        tuned = super().finetune(model, run)
        with torch.no_grad():
            return self.after(tuned, run) or tuned

    def after(self, tuned, run) -> Any:
        raise NotImplementedError


def shift_head(model: nn.Module, by: float) -> None:
    list(model.parameters())[-1].add_(by)


# declared


class NameWithSpace(Good):
    name = "My Strategy"


class SummaryWithoutStop(Good):
    summary = "Fine-tune everything"


class UndocumentedConfig(rtk.TrainingConfig):
    strength: float = rtk.option(1.0, "Strength.", origin="", ge=0)


class Undocumented(Good):
    config: UndocumentedConfig


class UnboundedConfig(rtk.TrainingConfig):
    strength: float = rtk.option(1.0, "Strength.", origin="here")


class Unbounded(Good):
    config: UnboundedConfig


class UntypableConfig(rtk.TrainingConfig):
    parts: tuple[str, ...] = rtk.option(("head,body",), "Parts.", origin="here")


class Untypable(Good):
    config: UntypableConfig


# isolation


class Crashes(Good):
    def finetune(self, model, run):
        raise LookupError("no such layer")


class Hangs(Good):
    def finetune(self, model, run):
        while True:
            time.sleep(1)


class DependsOnHash(After):
    def after(self, tuned, run):
        shift_head(tuned, hash("a purpose") / 2**63)


def local_strategy() -> type[rtk.Strategy]:
    class Local(Good):
        pass

    return Local


class ReadsTestData(After):
    def after(self, tuned, run):
        importlib.import_module("rtk." + "data").open_dataset("fashion").split("test")


class WritesElsewhere(After):
    def after(self, tuned, run):
        with tempfile.NamedTemporaryFile() as file:
            torch.save(tuned.state_dict(), file)


class Connects(After):
    def after(self, tuned, run):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()


class Prints(After):
    def after(self, tuned, run):
        print("epoch 1: done")


# returned


class Wraps(After):
    def after(self, tuned, run):
        return nn.Sequential(tuned)


class ReturnsHalf(After):
    def after(self, tuned, run):
        return tuned.half()


class Explodes(After):
    def after(self, tuned, run):
        run.structure.head_of(tuned).weight.fill_(3e38)


class Filters(After):
    def after(self, tuned, run):
        plain = tuned.forward
        tuned.forward = lambda images: plain(images.round())


class IgnoresNan(GoodLoop):
    def judge(self, value):
        pass


class MovesStatistics(Good):
    def finetune(self, model, run):
        head = run.structure.parameters_in([run.structure.head])
        tuned = run.fit(model, self.loss, trainable=head, statistics="keep", **self.config.recipe())
        with torch.no_grad():
            tuned.train()(run.train.images(slice(8)))
        return tuned


class MovesWeights(Good):
    def finetune(self, model, run):
        head = run.structure.parameters_in([run.structure.head])
        tuned = run.fit(model, self.loss, trainable=head, statistics="keep", **self.config.recipe())
        with torch.no_grad():
            next(tuned.parameters()).mul_(1.1)
        return tuned


# repeating


class DrawsFromTheSystem(After):
    def after(self, tuned, run):
        shift_head(tuned, int.from_bytes(os.urandom(4)) / 2**32)


class DrawsFromTheGlobalState(After):
    def after(self, tuned, run):
        with torch.random.fork_rng():
            shift_head(tuned, float(torch.rand(())))


class TrainsWhatComesInTrainable(GoodLoop):
    def prepare(self, model):
        model.train()

    def parameters(self, model):
        return [parameter for parameter in model.parameters() if parameter.requires_grad]


class TrainsInTheModeThatComesIn(GoodLoop):
    def prepare(self, model):
        model.requires_grad_(True)


class SwallowsInterruptions(Good):
    def finetune(self, model, run):
        try:
            return super().finetune(model, run)
        except KeyboardInterrupt:
            return model


class TurnsInterruptions(Good):
    def finetune(self, model, run):
        try:
            return super().finetune(model, run)
        except KeyboardInterrupt:
            raise RuntimeError("stopped") from None


class CountsAcrossSteps(Good):
    def finetune(self, model, run):
        generator = torch.Generator().manual_seed(run.derive("noise"))

        def loss(model, step):
            noise = torch.randn(step.images.shape, generator=generator)
            return cross_entropy(model((step.images + 0.1 * noise).clamp(0, 1)), step.labels)

        return run.fit(model, loss, **self.config.recipe())


# manners


class Normalises(Good):
    def loss(self, model, step):
        return cross_entropy(model(2 * step.images - 1), step.labels)


class Seeds(After):
    def after(self, tuned, run):
        torch.manual_seed(run.seed)


class SetsPrecision(After):
    def after(self, tuned, run):
        torch.set_float32_matmul_precision("high")


class WritesOverTheSource(After):
    def after(self, tuned, run):
        shift_head(run.source, 1.0)


class LeavesTheSourceTraining(After):
    def after(self, tuned, run):
        run.source.train()


class ChangesLabels(After):
    def after(self, tuned, run):
        run.train.labels.zero_()


class SetsTheThreat(After):
    def after(self, tuned, run):
        run.threat = rtk.Threat("Linf", 0.0)


class CutsTheSplit(After):
    def after(self, tuned, run):
        run.train = run.train.subset(slice(4))


# inputs


class NeedsNoBatchNorm(Good):
    def finetune(self, model, run):
        if run.structure.norms.batch:
            raise ValueError("BatchNorm")
        return super().finetune(model, run)


class NeedsNoLayerNorm(Good):
    def finetune(self, model, run):
        if run.structure.norms.layer:
            raise ValueError("LayerNorm")
        return super().finetune(model, run)


class NeedsNoGroupNorm(Good):
    def finetune(self, model, run):
        if run.structure.norms.group:
            raise ValueError("GroupNorm")
        return super().finetune(model, run)


class NeedsThreeClasses(Good):
    def loss(self, model, step):
        logits = model(step.images)
        return cross_entropy(logits, step.labels) - 0.01 * logits.topk(3).values.mean()


class NeedsSquares(Good):
    def loss(self, model, step):
        return cross_entropy(model((step.images + step.images.mT) / 2), step.labels)


class NeedsPairs(Good):
    def finetune(self, model, run):
        return run.fit(model, self.loss, statistics="keep", **self.config.recipe())

    def loss(self, model, step):
        first, second = model(step.images).chunk(2)
        return cross_entropy(torch.cat([first, second]), step.labels)


class NeedsLinf(Good):
    def finetune(self, model, run):
        if run.threat.norm != "Linf":
            raise KeyError(run.threat.norm)
        return super().finetune(model, run)


class DividesByEpochs(Good):
    def finetune(self, model, run):
        run.log("plan", share=1 / self.config.epochs)
        return super().finetune(model, run)


class RefusesCurtly(Good):
    def finetune(self, model, run):
        if run.structure.norms.group:
            raise rtk.Refusal("unsupported", "--strategy full")
        return super().finetune(model, run)


class RefusesWithoutAWayOut(Good):
    def finetune(self, model, run):
        if run.structure.norms.group:
            raise rtk.Refusal("This needs BatchNorm, and the network has GroupNorm.")
        return super().finetune(model, run)


class RefusesLate(Good):
    def finetune(self, model, run):
        tuned = super().finetune(model, run)
        if run.structure.norms.group:
            raise rtk.Refusal("This needs BatchNorm, and the network has GroupNorm.", "--strategy full")
        return tuned
