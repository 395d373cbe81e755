"""LwF: learning without forgetting for robust transfer (Shafahi, Saadatpanah, Zhu, Ghiasi, Studer, Jacobs, Goldstein,
ICLR 2020, "Adversarially robust transfer learning").

Idea: robustness lives in the penultimate features of the robust source. So the classifier is trained first, on frozen
features; then everything, on clean images only, with a penalty on the distance between the features of the network and
those that the source gives for the same image.

    phase 1  min over w         CE(w . z(x))
    phase 2  min over w, theta  CE(w . z(x, theta)) + lambda d(z(x, theta), z(x, theta of the source))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import rtk
from rtk.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class LwFConfig(
    rtk.TrainingConfig,
    defaults={
        "epochs": (25, "CARTL's code: 27; published: 10,000 steps"),
        "lr": (0.001, "paper"),
        "weight_decay": (2e-4, "published code"),
        "augment": ("none", "published code"),
    },
):
    penalty: float = rtk.option(
        0.005, "Weight lambda of the distance between features.", origin="published code (L1, 640 features)", ge=0
    )
    distance: Literal["l1", "l2"] = rtk.option(
        "l1", "Distance between two feature vectors, averaged over the batch.", origin="published code: l1; paper: l2"
    )
    normalize_dim: bool = rtk.option(
        False,
        "Divide the distance by the number d of features (L1) or by its root (L2), so that lambda carries over.",
        origin="rtk; published code: no",
    )
    head_epochs: int = rtk.option(
        25,
        "Epochs of phase 1, classifier only; --epochs counts phase 2.",
        origin="CARTL's code; published: 10,000 steps",
        ge=0,
    )
    statistics: Literal["keep", "update"] = rtk.option(
        "keep",
        "BatchNorm statistics and dropout: keep the source's and none; or update in both phases, and dropout on.",
        origin="published code: keep; CARTL's code: update",
    )
    select: Literal["last", "clean", "robust"] = rtk.option(
        "last",
        "Epoch of phase 2 to keep: the last, or the best by clean or PGD-10 validation accuracy.",
        origin="published code: last",
    )


class LwF(rtk.Strategy):
    name = "lwf"
    summary = "Classifier first, then everything, held to the features of the robust source."
    setting = "target"
    paper = rtk.Paper(
        title="Adversarially Robust Transfer Learning",
        authors="Shafahi, Saadatpanah, Zhu, Ghiasi, Studer, Jacobs, Goldstein",
        venue="ICLR 2020",
        url="https://arxiv.org/abs/1905.08232",
    )
    departures = (
        "Phases are counted in epochs, 25 and 25; the published code takes 10,000 and 10,000 steps of 128 images, which"
        " is 25.6 epochs each on CIFAR and far more on small data.",
        "The distance is L1 as in the published code; the paper's text allows L2 (--distance l2).",
        "Features of the source are computed as training goes, on the same images, so that augmentation is possible;"
        " the published code caches them once.",
        "Weight decay acts on every parameter that moves; in the published code on kernels only, not on biases and"
        " BatchNorm.",
        "Phase 1 leaves the penalty out, since it has no gradient for the classifier.",
        "A new classifier has PyTorch's default initialisation; the published code starts with a bias of zero.",
        "Images are normalised as the backbone does; the published code standardises each image by itself.",
    )
    config: LwFConfig

    def finetune(self, model, run):
        check_features(model, run)
        model = self.train_head(model, run)
        return self.train_all(model, run)

    def train_head(self, model, run):
        """Phase 1: the classifier alone; with kept statistics the features are those of the source, bit for bit."""
        return run.fit(
            model,
            lambda model, step: F.cross_entropy(model(step.images), step.labels),
            trainable=run.structure.parameters_in([run.structure.head]),
            name="head",
            **{**self.recipe(), "epochs": self.config.head_epochs},
        )

    def train_all(self, model, run):
        """Phase 2: everything, held to the features of the source."""
        config = self.config

        def loss(model, step):
            logits, features = run.structure.features(model, step.images)
            with torch.no_grad():
                _, wanted = run.structure.features(run.source, step.images)
            apart = distance(features, wanted, config.distance, config.normalize_dim)
            return F.cross_entropy(logits, step.labels) + config.penalty * apart

        tuned = run.fit(model, loss, select=config.select, name="all", **self.recipe())
        run.report(feature_distance=self.moved(tuned, run), measured_on="validation split")
        return tuned

    def moved(self, model, run):
        """How far the features of validation images are from those of the source, on average."""
        total = 0.0
        for batch in run.loader("val", batch_size=256):
            with torch.no_grad():
                found, wanted = (run.structure.features(each, batch.images)[1] for each in (model, run.source))
            total += float(distance(found, wanted, self.config.distance, normalize_dim=False)) * len(batch.labels)
        return total / len(run.val)

    def recipe(self):
        """What both phases share."""
        kept = self.config.statistics == "keep"
        return {
            **self.config.recipe(),
            "statistics": self.config.statistics,
            "mode": "eval" if kept else "train",
        }


def distance(features: Tensor, wanted: Tensor, norm: str, normalize_dim: bool) -> Tensor:
    """Mean over the batch of the L1 or L2 distance between two feature matrices (N, d); scalar, >= 0."""
    order = 1 if norm == "l1" else 2
    apart = (features - wanted).norm(p=order, dim=1).mean()
    return apart / features.shape[1] ** (1 / order) if normalize_dim else apart


def check_features(model, run):
    """Refusal unless the features of network and source can be compared."""
    own, given = (run.structure.head_of(each).in_features for each in (model, run.source))
    if own != given:
        raise rtk.Refusal(f"LwF compares features, but the source has {given} of them and the network {own}.")


@rtk.hookimpl
def rtk_strategies():
    return LwF
