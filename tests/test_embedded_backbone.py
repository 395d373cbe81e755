"""The embedded network is robust, and not because its gradients are masked."""

from __future__ import annotations

import torch
from torch import nn

from rtk.attacks import Attack, frozen, pgd
from rtk.threat import Threat


def robust(source, images, attack: Attack) -> float:
    x, y = images
    adversarial = attack(source.model, x, y, seed=0)
    with torch.no_grad(), frozen(source.model):
        return float((source.model(adversarial).argmax(1) == y).float().mean())


def test_it_is_accurate_and_robust_at_the_radius_it_was_trained_for(source, images) -> None:
    assert source.threat == Threat("Linf", 0.1)
    assert robust(source, images, pgd(source.threat, steps=0)) > 0.75
    assert robust(source, images, pgd(source.threat, steps=20)) > 0.6


def test_a_large_enough_ball_leaves_nothing(source, images) -> None:
    assert robust(source, images, pgd(Threat("Linf", 0.5), steps=20)) <= 0.02


def test_one_step_is_not_stronger_than_many_and_more_steps_are_not_weaker(source, images) -> None:
    single = robust(source, images, pgd(source.threat, steps=1, step_size=source.threat.eps, random_start=False))
    ten, fifty = (robust(source, images, pgd(source.threat, steps=steps)) for steps in (10, 50))
    assert single >= ten - 0.01 and fifty <= ten + 0.01


def test_robustness_falls_with_the_radius(source, images) -> None:
    values = [robust(source, images, pgd(Threat("Linf", eps), steps=20)) for eps in (0.02, 0.05, 0.1, 0.2, 0.3)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.3


def test_no_image_has_a_zero_gradient(source, images) -> None:
    x, y = images[0].clone().requires_grad_(), images[1]
    loss = nn.functional.cross_entropy(source.model(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all() and torch.isfinite(gradient).all()


def test_noise_of_the_same_size_is_far_weaker(source, images) -> None:
    x, y = images
    noise = (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).sign() * source.threat.eps
    with torch.no_grad(), frozen(source.model):
        noisy = float((source.model((x + noise).clamp(0, 1)).argmax(1) == y).float().mean())
    assert noisy > robust(source, images, pgd(source.threat, steps=20)) + 0.03
