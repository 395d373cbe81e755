"""Free adversarial training (Shafahi et al., NeurIPS 2019): every backward pass moves weights and perturbation at once.

The loop is the package's own: it keeps its state with `run.save`, so that an interrupted run goes on.
"""

import torch
import torch.nn.functional as F

import rtk


class FreeConfig(rtk.Config):
    passes: int = rtk.option(10, "Passes over the images; each is replayed.", origin="rtk-free-at", ge=0)
    replays: int = rtk.option(4, "Steps on each mini-batch.", origin="paper: 8 on CIFAR, 4 on ImageNet", ge=1)
    lr: float = rtk.option(0.01, "Learning rate of SGD.", origin="rtk-free-at", gt=0)
    batch_size: int = rtk.option(128, "Images per step.", origin="paper", ge=2)


class FreeAT(rtk.Strategy):
    name = "free-at"
    summary = "Adversarial training at the price of clean training, by replaying mini-batches."
    setting = "target"
    paper = rtk.Paper(
        title="Adversarial Training for Free!",
        authors="Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein",
        venue="NeurIPS 2019",
        url="https://arxiv.org/abs/1904.12843",
    )
    departures = ("The last weights are kept, as in the paper, but a left-over image is not trained on alone.",)
    config: FreeConfig

    def finetune(self, model, run):
        if run.threat.norm != "Linf":
            raise rtk.Refusal(f"Free adversarial training moves by signs, in Linf; got {run.threat}.", "--norm Linf")
        config = self.config
        model.requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=2e-4)
        loader = run.loader("train", batch_size=config.batch_size, shuffle=True, augment=run.augment)
        first = 0
        if state := run.saved("free"):
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first = state["passes"]
        bar = run.progress.stage("free", config.passes * len(loader))
        bar.advance(first * len(loader))
        for number in range(first, config.passes):
            for batch in loader.epoch(number):
                if len(batch.labels) > 1:
                    self.replay(model.train(), optimizer, batch.images, batch.labels, run.threat.eps)
                bar.advance(1)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "passes": number + 1}
            run.save("free", state)
            run.log("pass", number=number + 1, robust=run.robust_accuracy(model).value)
        return model.eval()

    def replay(self, model, optimizer, images, labels, eps):
        delta = torch.zeros_like(images)
        for _ in range(self.config.replays):
            delta.requires_grad_()
            optimizer.zero_grad()
            loss = F.cross_entropy(model((images + delta).clamp(0, 1)), labels)
            if not loss.isfinite():
                raise rtk.RtkError(f"The loss is {float(loss)}.", "a smaller --lr")
            loss.backward()
            optimizer.step()
            delta = (delta.detach() + eps * delta.grad.sign()).clamp(-eps, eps)


@rtk.hookimpl
def rtk_strategies():
    return FreeAT
