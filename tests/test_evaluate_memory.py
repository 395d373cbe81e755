"""When memory runs out, fewer images go through the network at once, and no verdict changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rtk.attacks import apgd, pgd
from rtk.backbones import Classifier
from rtk.errors import RunFailed
from rtk.evaluation import Subject, identities, judge, judge_all, row_of
from rtk.memory import Memory
from rtk.progress import Silent
from rtk.threat import Threat

from .test_evaluate import PGD, subject  # noqa: F401 - a fixture

EPS = Threat("Linf", 0.1)
KINDS = [
    lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 99 bytes."),
    lambda: MemoryError(),
]


class Small(nn.Module):
    """A network on a machine whose memory holds so many images, with gradients perhaps fewer."""

    def __init__(self, net: nn.Module, fits: int, with_gradients: int, problem: Callable[[], BaseException]):
        super().__init__()
        self.net, self.fits, self.with_gradients, self.problem = net, fits, with_gradients, problem
        self.most = 0

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > (self.with_gradients if images.requires_grad else self.fits):
            raise self.problem()
        self.most = max(self.most, len(images))
        return self.net(images)


@pytest.mark.parametrize("problem", KINDS)
@pytest.mark.parametrize(("fits", "with_gradients", "batch"), [(40, 40, 24), (20, 20, 12), (24, 5, 3), (3, 1, 1)])
def test_the_batch_is_halved_until_it_fits_and_the_verdicts_stay(
    source, images, problem, fits: int, with_gradients: int, batch: int
) -> None:
    x, y = images[0][:24], images[1][:24]
    attacks = (pgd(EPS, steps=3), apgd(EPS, steps=4))
    roomy = judge(source.model, x, y, attacks, seed=1)
    tight, memory = Small(source.model, fits, with_gradients, problem), Memory(24)
    found = judge(tight, x, y, attacks, seed=1, memory=memory)
    assert found.verdicts == roomy.verdicts
    assert 0 < sum(found.verdicts["apgd-ce"]) < sum(found.verdicts["clean"]), "the test needs images that break"
    assert memory.batch == batch and (memory.halved > 0) == (batch < 24)
    assert tight.most <= fits


def test_when_not_even_one_image_fits_the_run_fails_and_says_what_to_type(source, images) -> None:
    tight = Small(source.model, 6, 0, KINDS[0])
    with pytest.raises(
        RunFailed, match=r"with one image in the network at once.* largest batch that fits is 6"
    ) as caught:
        judge(tight, images[0][:12], images[1][:12], (pgd(EPS, steps=2),), seed=0)
    assert "--workers 1" in str(caught.value)
    assert all(parameter.requires_grad for parameter in source.model.parameters()), "the network is as it was"


def test_any_other_error_is_not_taken_for_memory(source, images) -> None:
    tight = Small(source.model, 6, 6, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        judge(tight, images[0][:12], images[1][:12], (), seed=0)


def test_what_happened_is_stored_with_the_chunk_and_said_in_the_result(
    subject: Subject,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (roomy,) = judge_all([subject], Silent(), workers=1)
    forward = Classifier.forward

    def tight(self: Classifier, images: Tensor) -> Tensor:
        if images.requires_grad and len(images) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", tight)
    other = replace(subject, verdicts=tmp_path / "tight")
    (found,) = judge_all([other], Silent(), workers=1)
    assert found[PGD].least == 4 and roomy[PGD].least is None
    assert found[PGD].verdicts == roomy[PGD].verdicts
    assert identities(other) == identities(subject)
    scores = row_of("x", other, found).scores
    assert scores[str(PGD)].least_batch == 4 and scores["clean"].least_batch is None


def test_a_batch_size_is_kept_to(source, images) -> None:
    tight, memory = Small(source.model, 7, 7, KINDS[0]), Memory(7)
    judge(tight, images[0][:24], images[1][:24], (pgd(EPS, steps=2),), seed=0, memory=memory)
    assert (memory.batch, memory.halved, tight.most) == (7, 0, 7)
