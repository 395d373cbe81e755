"""WiSE-FT (Wortsman et al., CVPR 2022): fine-tune everything, then average the weights with those of the source."""

import copy

import torch
import torch.nn.functional as F

import rtk


class WiseFTConfig(rtk.TrainingConfig, defaults={"epochs": (10, "paper, section 4"), "lr": (0.01, "rtk-wise-ft")}):
    alpha: float = rtk.option(0.5, "Share of the fine-tuned weights.", origin="paper, section 3", ge=0, le=1)


class WiseFT(rtk.Strategy):
    name = "wise-ft"
    summary = "Fine-tune everything on clean images, then average with the source."
    setting = "source"
    paper = rtk.Paper(
        title="Robust fine-tuning of zero-shot models",
        authors="Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo Lopes, Hajishirzi, Farhadi, Namkoong, Schmidt",
        venue="CVPR 2022",
        url="https://arxiv.org/abs/2109.01903",
    )
    departures = ("The source is an adversarially trained network; in the paper it is a zero-shot one.",)
    config: WiseFTConfig

    def finetune(self, model, run):
        if run.new_head:
            raise rtk.Refusal("WiSE-FT averages classifiers; here the classifier is new.", "--strategy lwf")
        source = copy.deepcopy(model.state_dict())
        tuned = run.fit(
            model, lambda model, step: F.cross_entropy(model(step.images), step.labels), **self.config.recipe()
        )
        alpha = self.config.alpha
        mixed = {
            name: torch.lerp(source[name], value, alpha) if value.is_floating_point() else value
            for name, value in tuned.state_dict().items()
        }
        tuned.load_state_dict(mixed)
        return tuned


@rtk.hookimpl
def rtk_strategies():
    return WiseFT
