"""When memory runs out in training, steps are cut into parts where that changes nothing, and else the run says so."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtk.cli.table import _reported
from rtk.errors import RunFailed
from rtk.progress import Silent
from rtk.run import Run

from .small_run import changed, small_run, snapshot
from .test_evaluate_memory import KINDS, Small
from .test_train import with_groupnorm

BATCH = 32


class Full(torch.autograd.Function):
    """Memory runs out on the way back."""

    @staticmethod
    def forward(context, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")


class Lines(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Training:
    """Adversarial training with dropout, where only so many images fit from a step on."""

    def __init__(
        self,
        model: nn.Module,
        source,
        directory: Path,
        *,
        fits: int = BATCH,
        since: int = 0,
        problem: Callable[[], BaseException] | None = None,
        stop: int | None = None,
        **values: object,
    ):
        self.model, self.lines = copy.deepcopy(model), Lines()
        self.run: Run = small_run(source, directory, train=2 * BATCH + 11, progress=self.lines)
        self.attack = self.run.attack(steps=1)
        self.fits, self.since, self.problem, self.stop = fits, since, problem, stop
        self.values = {"epochs": 2, "lr": 0.05, "batch_size": BATCH, **values}

    def loss(self, model: nn.Module, step) -> Tensor:
        if step.number == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        images = F.dropout(self.attack(model, step.images, step.labels, seed=step.seed), 0.1)
        logits = model(images)
        if step.number >= self.since and len(images) > self.fits:
            if self.problem is not None:
                raise self.problem()
            logits = Full.apply(logits)
        return F.cross_entropy(logits, step.labels)

    def fit(self) -> dict[str, Tensor]:
        return snapshot(self.run.fit(self.model, self.loss, **self.values))

    @property
    def reported(self) -> list[dict[str, int]]:
        return self.run._reported()["memory"]["fine-tune"]


def normalised(model: nn.Module) -> nn.Module:
    """With a power iteration, whose vectors every forward pass moves on."""
    model = copy.deepcopy(model)
    nn.utils.parametrizations.spectral_norm(model.net.fc)
    return model


@pytest.mark.parametrize("problem", [None, KINDS[1]], ids=["backward", "forward"])
def test_a_step_is_done_again_in_parts_and_ends_with_the_bits_of_accumulation(source, tmp_path: Path, problem) -> None:
    """The attempts that failed left nothing behind: no gradient, no buffer, no random number."""
    model = normalised(with_groupnorm(source))
    expected = Training(model, source, tmp_path / "roomy", accumulate=4).fit()
    tight = Training(model, source, tmp_path / "tight", fits=8, problem=problem)
    assert changed(expected, tight.fit()) == set()
    assert tight.reported == [{"step": 1, "images": 8}]
    assert tight.lines.said[-1] == (
        "fine-tune: memory ran out at epoch 1, step 1, with 16 images at once;"
        " from here on gradients are accumulated over parts of 8"
    )
    assert _reported(tight.run._reported())[-1] == "Memory ran out; images at once: fine-tune 8 from step 1."


def test_from_one_step_on_it_is_as_if_accumulation_had_been_asked_for(source, tmp_path: Path) -> None:
    """The reference is stopped after the second step, and goes on with another number in its checkpoint."""
    model = with_groupnorm(source)
    tight = Training(model, source, tmp_path / "tight", fits=16, since=2)
    found = tight.fit()
    assert tight.reported == [{"step": 4, "images": 16}]  # the third has the 11 images that are left over

    with pytest.raises(KeyboardInterrupt):
        Training(model, source, tmp_path / "roomy", stop=2).fit()
    path = tmp_path / "roomy" / "work" / "fine-tune.pt"
    kept = torch.load(path, weights_only=True)
    assert (kept["done"], kept["epoch"], kept["parts"]) == (3, 0, 1)
    torch.save({**kept, "parts": 2}, path)
    assert changed(found, Training(model, source, tmp_path / "roomy").fit()) == set()


def test_what_fits_is_known_again_after_an_interruption(source, tmp_path: Path) -> None:
    model = with_groupnorm(source)
    whole = Training(model, source, tmp_path / "whole", fits=8).fit()
    with pytest.raises(KeyboardInterrupt):
        Training(model, source, tmp_path / "run", fits=8, stop=1).fit()
    second = Training(model, source, tmp_path / "run")
    assert changed(whole, second.fit()) == set() and second.lines.said == []
    assert second.reported == [{"step": 1, "images": 8}]


@pytest.mark.parametrize(("accumulate", "typed"), [(1, "--batch-size 8,"), (2, "--batch-size 16,")])
def test_with_batchnorm_the_run_fails_and_says_what_fits(source, tmp_path: Path, accumulate: int, typed: str) -> None:
    tight = Training(source.model, source, tmp_path, fits=9, since=1, accumulate=accumulate)
    before = snapshot(source.model)
    with pytest.raises(RunFailed, match=r"at epoch 1, step 2, with \d+ images at once; 8 fit. BatchNorm") as caught:
        tight.fit()
    assert typed in (caught.value.hint or "")
    assert not list(tmp_path.rglob("*.pt")) and changed(before, snapshot(source.model)) == set()
    Training(source.model, source, tmp_path, fits=9, accumulate=accumulate, batch_size=8 * accumulate).fit()


@pytest.mark.parametrize("keep", [True, False], ids=["in parts", "whole"])
def test_where_nothing_fits_the_run_fails(source, tmp_path: Path, keep: bool) -> None:
    statistics = "keep" if keep else "update"
    with pytest.raises(RunFailed, match=r"images? at once, and fewer do not fit either\. Try: free memory"):
        Training(source.model, source, tmp_path, fits=0, statistics=statistics).fit()


def test_any_other_error_is_the_strategys(source, tmp_path: Path) -> None:
    wrong = lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied")  # noqa: E731
    with pytest.raises(RuntimeError, match="mat1"):
        Training(source.model, source, tmp_path, fits=8, problem=wrong, statistics="keep").fit()


def test_the_accuracy_that_selects_an_epoch_is_the_same_with_fewer_images_at_once(source, tmp_path: Path) -> None:
    run = small_run(source, tmp_path)
    roomy = run.robust_accuracy(source.model), run.accuracy(source.model)
    assert "memory" not in run._reported()
    tight = Small(source.model, 20, 20, KINDS[0])
    assert (run.robust_accuracy(tight), run.accuracy(tight)) == roomy
    assert run._reported()["memory"] == {"accuracy": [{"images": 16}]}
    assert tight.most <= 20


REAL = """
import copy, json, resource, sys
from pathlib import Path
import torch
from torch.nn import functional as F
from rtk.backbones import open_backbone
from tests.small_run import small_run
from tests.test_train import with_groupnorm

torch.set_num_threads(1)
source = open_backbone("rtk:fashion-resnet")
model = with_groupnorm(source) if sys.argv[2] == "groupnorm" else copy.deepcopy(source.model)
run = small_run(source, Path(sys.argv[1]), train=2000)
values = {"epochs": 1, "lr": 0.01, "statistics": "update"}
loss = lambda model, step: F.cross_entropy(model(step.images), step.labels)
run.fit(copy.deepcopy(model), loss, batch_size=32, name="warm", **values)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    run.fit(model, loss, batch_size=2000, **values)
except Exception as problem:
    print(type(problem).__name__, problem)
print(json.dumps(run._reported().get("memory")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by what /proc says")
@pytest.mark.parametrize("norm", ["groupnorm", "batchnorm"])
def test_memory_that_really_runs_out(tmp_path: Path, norm: str) -> None:
    """400 MiB are left for a step that needs more. Slow for the steps of 2,000 images."""
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(tmp_path), norm],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *said, memory = done.stdout.splitlines()
    if norm == "groupnorm":
        (shortage,) = json.loads(memory)["fine-tune"]
        assert said == [] and shortage["step"] == 1 and 1 <= shortage["images"] <= 1000
    else:
        assert said[0].startswith("RunFailed fine-tune: memory ran out at epoch 1, step 1, with 2000 images at once;")
