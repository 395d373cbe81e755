"""torchattacks' attacks where they differ from the reference, or stop, mended by subclassing.

Its APGD rounds the start and the L2 step in another order, its APGD-T takes the first image's L2 step size for the
whole batch, and its Square weighs L2 windows by the norm over all channels and fails where height and width differ. The
loops here follow the papers and round as the reference does, so that adversarial images can be compared bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadValue

FAB = torchattacks.FAB


class APGD(torchattacks.APGD):
    """Auto-PGD (Croce & Hein, ICML 2020, Algorithm 1)."""

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From one random start: the points of highest loss, who is still robust, those losses, the last wrong points.

        Shapes (N, C, H, W), (N,), (N,) and (N, C, H, W).
        """
        window, shortest, shrink = (max(int(part * self.steps), 1) for part in (0.22, 0.06, 0.03))
        point = self._start(x)
        gradient, loss, right = self._look(point, y)
        previous = best = found = point
        best_gradient, best_loss, robust = gradient, loss, right
        step = torch.full((len(x), 1, 1, 1), 2 * self.eps, device=x.device)
        losses = torch.zeros(self.steps, len(x), device=x.device)
        loss_at_check, halved_at_check = loss, torch.ones_like(right)
        waited = 0
        for i in range(self.steps):
            momentum, previous = point - previous, point
            share = 0.75 if i > 0 else 1.0
            point = self._project(x, previous + step * self._direction(gradient))
            point = self._project(x, previous + (point - previous) * share + momentum * (1 - share))
            gradient, loss, right = self._look(point, y)
            found = torch.where(_each(~right), point, found)
            robust = robust & right
            better = loss > best_loss
            best = torch.where(_each(better), point, best)
            best_gradient = torch.where(_each(better), gradient, best_gradient)
            best_loss = torch.where(better, loss, best_loss)
            losses[i] = loss
            waited += 1
            if waited == window:
                swings = self.check_oscillation(losses.cpu().numpy(), i, window, None, k3=self.thr_decr)
                stuck = ~halved_at_check & (loss_at_check >= best_loss)
                halved = torch.as_tensor(swings, device=x.device) | stuck
                step = torch.where(_each(halved), step / 2, step)
                point = torch.where(_each(halved), best, point)
                gradient = torch.where(_each(halved), best_gradient, gradient)
                loss_at_check, halved_at_check = best_loss, halved
                window, waited = max(window - shrink, shortest), 0
        return best, robust, best_loss, found

    def _start(self, x: Tensor) -> Tensor:
        # drawn on the CPU, so that every device starts from the same point
        if self.norm == "Linf":
            noise = (2 * torch.rand(x.shape) - 1).to(x.device)
            noise = noise / (noise.abs().amax((1, 2, 3), keepdim=True) + 1e-12)
        else:
            noise = _unit(torch.randn(x.shape).to(x.device))
        return (x + self.eps * noise).clamp(0, 1)

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "Linf" else _unit(gradient)

    def _look(self, point: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the loss, the loss, and whether the prediction is right."""
        point = point.detach().requires_grad_()
        logits = self.get_logits(point)
        loss = self.dlr_loss(logits, y) if self.loss == "dlr" else F.cross_entropy(logits, y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        return gradient, loss.detach(), logits.detach().max(1).indices == y

    def _project(self, x: Tensor, point: Tensor) -> Tensor:
        if self.norm == "Linf":
            return point.clamp(x - self.eps, x + self.eps).clamp(0, 1)
        delta = point - x
        return (x + _unit(delta) * _norm(delta).clamp(max=self.eps)).clamp(0, 1)

    def dlr_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The difference of logits ratio (N,) of logits `x` (N, C)."""
        if x.shape[1] < 3:
            raise BadValue(f"The DLR loss needs 3 classes or more; got {x.shape[1]}.", 'loss="ce"')
        return super().dlr_loss(x, y)


class APGDT(APGD):
    """APGD towards each of the `n_classes` - 1 likeliest wrong classes; `loss` is "dlr" or "ce"."""

    def __init__(self, model: nn.Module, *, n_classes: int, loss: str = "dlr", **settings: Any):
        super().__init__(model, loss="dlr", **settings)  # so that `_look` asks for the loss below
        self.targets = n_classes - 1
        self.targeted_loss = loss
        self.target = torch.empty(0, dtype=torch.long)

    def dlr_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss (N,) of logits `x` (N, C) for the current target; the higher, the nearer to it."""
        if self.targeted_loss == "ce":
            return -F.cross_entropy(x, self.target, reduction="none")
        rows = torch.arange(len(x), device=x.device)
        ranked = x.sort(dim=1).values
        scale = ranked[:, -1] - 0.5 * (ranked[:, -3] + ranked[:, -4])
        return -(x[rows, y] - x[rows, self.target]) / (scale + 1e-12)

    def perturb(self, x: Tensor, y: Tensor, best_loss: bool = False, cheap: bool = True) -> tuple[Tensor, Tensor]:
        """Who is still robust (N,), and images (N, C, H, W): adversarial where one was found, else clean."""
        robust = self.get_logits(x).max(1).indices == y
        adversarial = x.clone()
        torch.manual_seed(self.seed)
        for rank in range(2, self.targets + 2):
            for _ in range(self.n_restarts):
                left = robust.nonzero().flatten()
                if len(left) == 0:
                    break
                self.target = self.get_logits(x[left]).sort(dim=1).indices[:, -rank]
                _, still, _, found = self.attack_single_run(x[left], y[left])
                adversarial[left[~still]] = found[~still]
                robust[left] = still
        return robust, adversarial


class Square(torchattacks.Square):
    """Square attack (Andriushchenko et al., ECCV 2020), also on images that are not square."""

    def init_hyperparam(self, x: Tensor) -> None:
        """Remember the size of the images, of which a window may not be larger."""
        super().init_hyperparam(x)
        self.height, self.width = x.shape[-2:]

    def p_selection(self, it: int) -> float:
        """The share of the image that a window covers at query `it`; its side is at most the image's shorter one."""
        short, long = sorted((self.height, self.width))
        return min(super().p_selection(it), short / long)

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
        """Of the two results, `perturb` reads the second: the best images found (N, C, H, W)."""
        if self.norm == "Linf":
            return super().attack_single_run(x, y)
        with torch.no_grad():
            best = (x + self.normalize_delta(self._tiles(x)) * self.eps).clamp(0, 1)
            margin, loss = self.margin_and_loss(best, y)
            for query in range(self.n_queries):
                left = (margin > 0).nonzero().flatten()
                if len(left) == 0:
                    break
                candidate = self._move_mass(x[left], best[left], self._side(query))
                new_margin, new_loss = self.margin_and_loss(candidate, y[left])
                better = new_loss < loss[left]
                taken = better | (new_margin <= 0)
                loss[left] = torch.where(better, new_loss, loss[left])
                margin[left] = torch.where(taken, new_margin, margin[left])
                best[left] = torch.where(_each(taken), candidate, best[left])
        return margin, best

    def _side(self, query: int) -> int:
        """The side of a window in pixels: odd, where the image is large enough."""
        side = max(round(math.sqrt(super().p_selection(query) * self.height * self.width)), 3)
        return min(side + 1 - side % 2, self.height, self.width)

    def _tiles(self, x: Tensor) -> Tensor:
        """The start: a grid of bumps with random signs; at the border they may be cut."""
        side = max(self.height // 5, 1)
        edge = max((self.height - 5 * side) // 2, 0)
        rows, columns = self.height // side, self.width // side
        grid = x.new_zeros(*x.shape[:2], max(edge + rows * side, self.height), max(edge + columns * side, self.width))
        for top in range(edge, edge + rows * side, side):
            for left in range(edge, edge + columns * side, side):
                bump = self._bump(side) * self.random_choice([*x.shape[:2], 1, 1])
                grid[:, :, top : top + side, left : left + side] = bump
        return grid[:, :, : self.height, : self.width]

    def _move_mass(self, clean: Tensor, current: Tensor, side: int) -> Tensor:
        """Empty one window of the perturbation and put its mass into another (Algorithm 3), then fill the ball."""
        delta = current - clean
        channels = delta.shape[1]
        here, there = self._window(side), self._window(side)
        both = torch.zeros_like(delta)
        both[here] = both[there] = 1
        mass = (delta * both).square().sum((-2, -1), keepdim=True).sqrt()
        old = delta[here] / (1e-12 + delta[here].square().sum((-2, -1), keepdim=True).sqrt())
        new = self._bump(side) * self.random_choice([*delta.shape[:2], 1, 1]) + old
        radius = torch.full_like(mass, self.eps)
        unused = (radius.square() - self.lp_norm(delta).square()).clamp(min=0)
        new = new / (1e-12 + new.square().sum((-2, -1), keepdim=True).sqrt())
        delta[there] = 0
        delta[here] = new * (unused / channels + mass.square()).sqrt()
        return (clean + self.normalize_delta(delta) * self.eps).clamp(0, 1)

    def _bump(self, side: int) -> Tensor:
        # it may come transposed, and the order of its memory would become that of the sums over it
        return self.eta(side).contiguous()

    def _window(self, side: int) -> tuple[slice, ...]:
        top, left = int(self.random_int(0, self.height - side)), int(self.random_int(0, self.width - side))
        return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _each(chosen: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return chosen.view(-1, 1, 1, 1)


def _norm(x: Tensor) -> Tensor:
    """L2 norm of each sample, (N, 1, 1, 1)."""
    return _each(x.square().reshape(len(x), -1).sum(-1).sqrt())


def _unit(x: Tensor) -> Tensor:
    return x / (_norm(x) + 1e-12)
