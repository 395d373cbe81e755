"""Full fine-tuning on clean images: every parameter moves. The baseline that shows how robustness is lost.

Idea: the usual transfer recipe, as in Salman et al. (NeurIPS 2020, freeze level -1), which also is the row "all
layers" of RiFT's Table 3 when it is run on the source's own data.
"""

from __future__ import annotations

import rtk
from rtk.lazy import F


class FullConfig(
    rtk.ScheduledConfig,
    defaults={
        "epochs": (10, "rtk; the published recipe has 150"),
        "lr": (0.01, "published code, 0.001 to 0.01"),
        "weight_decay": (5e-4, "published code"),
        "batch_size": (64, "published code"),
        "milestones": ((5, 8), "rtk; every third of training in the published code"),
        "select": ("clean", "published code, on the test split"),
    },
):
    pass


class Full(rtk.Strategy):
    name = "full"
    summary = "Fine-tune everything on clean images; loses robustness (baseline)."
    setting = "target"
    paper = rtk.Paper(
        title="Do Adversarially Robust ImageNet Models Transfer Better?",
        authors="Salman, Ilyas, Engstrom, Kapoor, Madry",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2007.08489",
    )
    departures = (
        "Epochs: 10 here, 150 in the published code, with the decay moved accordingly.",
        "The epoch is selected by clean accuracy on a validation split; the published code selects on the test split.",
    )
    config: FullConfig

    def finetune(self, model, run):
        def loss(model, step):
            return F.cross_entropy(model(step.images), step.labels)

        return run.fit(model, loss, **self.config.recipe())


@rtk.hookimpl
def rtk_strategies():
    return Full
