"""The same guarantees on a CUDA device. Run with: pytest -m gpu"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from rtk.attacks import autoattack, distance, pgd
from rtk.evaluation import judge
from rtk.host import finetune
from rtk.threat import Threat

from .small_run import changed, small_run, snapshot
from .test_finetune import Nudge, request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EPS = Threat("Linf", 0.1)


@pytest.mark.parametrize("number", range(5))
def test_attacks_leave_no_trace_and_stay_in_the_ball(source, images, number: int) -> None:
    attack = [pgd(EPS, steps=5), *autoattack(EPS, 10)][number]
    model = copy.deepcopy(source.model).cuda().train()
    x, y = images[0][:8].cuda(), images[1][:8].cuda()
    before, state = snapshot(model), torch.cuda.get_rng_state()
    adversarial = attack(model, x, y, seed=0)
    assert changed(before, snapshot(model)) == set() and all(module.training for module in model.modules())
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert adversarial.is_cuda and distance(x, adversarial, "Linf").max() <= EPS.eps + 1e-6


def test_verdicts_agree_with_the_cpu(source, images) -> None:
    """Rounding may flip an image that lies on the boundary; two of a hundred are more than ever seen."""
    x, y = images[0][:100], images[1][:100]
    attack = (pgd(EPS, steps=20, random_start=False),)
    here = judge(source.model, x, y, attack, seed=0).verdicts["pgd20"]
    there = judge(copy.deepcopy(source.model).cuda(), x.cuda(), y.cuda(), attack, seed=0).verdicts["pgd20"]
    assert sum(a != b for a, b in zip(here, there, strict=True)) <= 2


def test_a_short_run_on_the_gpu(tmp_path: Path) -> None:
    result = finetune(request(Nudge, tmp_path, device="cuda"))
    assert result.environment["device"].startswith("cuda") and result.rows[1].scores["pgd20@Linf:0.1"].n == 20


def test_training_twice_gives_the_same_bits(source, tmp_path: Path) -> None:
    from torch.nn import functional as F

    ends = []
    for name in ("first", "second"):
        model = copy.deepcopy(source.model).cuda()
        run = small_run(source, tmp_path / name, device=torch.device("cuda"))
        run.fit(model, lambda m, s: F.cross_entropy(m(s.images), s.labels), epochs=1, lr=0.05, batch_size=32)
        ends.append(snapshot(model))
    assert changed(*ends) == set()
