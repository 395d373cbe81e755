"""Numbers that have gone wrong: NaN and infinity end a run, and what is no better than a guess is said to be so."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import nn
from torch.nn import functional as F

import rtk
from rtk import files
from rtk.checks import before
from rtk.cli.table import print_result
from rtk.data import open_dataset
from rtk.errors import RunFailed
from rtk.evaluation.chance import LEVEL, above_chance

from .small_run import small_run

VALUES = {"epochs": 2, "lr": 0.05, "batch_size": 32}
STEPS = 3


def trained(source, directory: Path, at: int, what: str) -> None:
    """Training in which something becomes NaN in step `at`, from 1; there is a checkpoint after each epoch."""
    run, model = small_run(source, directory), copy.deepcopy(source.model)
    count = 0

    def loss(model: nn.Module, step) -> torch.Tensor:
        nonlocal count
        count += 1
        value = F.cross_entropy(model(step.images), step.labels)
        if count != at:
            return value
        if what == "loss":
            return value / 0
        if what == "weights":
            return value + (0 * model.net.fc.bias.sum()).sqrt()  # finite, with a gradient that is not
        model.net.bn1.running_var.data[0] = torch.inf  # which nothing uses while it trains
        return value

    run.fit(model, loss, **VALUES)


@pytest.mark.parametrize("at", [1, 4])
def test_a_loss_that_is_infinite_names_step_and_checkpoint(source, tmp_path: Path, at: int) -> None:
    with pytest.raises(RunFailed) as caught:
        trained(source, tmp_path, at, "loss")
    path = tmp_path / "work" / "fine-tune.pt"
    kept = "there is no checkpoint yet" if at == 1 else f"the last good checkpoint is {path}, epoch 1, step 3"
    epoch = 1 if at == 1 else 2
    assert caught.value.message == f"fine-tune: the loss is inf at epoch {epoch}, step {at} (lr 0.05); {kept}."
    assert caught.value.hint == "a smaller --lr, or a longer --warmup"
    assert path.exists() == (at > 1)


@pytest.mark.parametrize("what", ["weights", "statistics"])
@pytest.mark.parametrize("at", [3, 6])
def test_no_checkpoint_holds_nan(source, tmp_path: Path, what: str, at: int) -> None:
    """The last step of an epoch, whose loss was finite, and the end of the phase."""
    with pytest.raises(RunFailed, match=rf"is NaN or infinite at epoch {at // STEPS}, step {at} ") as caught:
        trained(source, tmp_path, at, what)
    named = "'net.bn1.running_var'" if what == "statistics" else "'net."
    assert named in caught.value.message
    path = tmp_path / "work" / "fine-tune.pt"
    assert path.exists() == (at == 6)
    if path.exists():
        kept = torch.load(path, weights_only=True)
        assert kept["epoch"] == 1 and all(value.isfinite().all() for value in kept["model"].values())


def test_a_score_that_is_nan_selects_nothing(source, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="the score is nan at epoch 1, step 3"):
        small_run(source, tmp_path).fit(
            copy.deepcopy(source.model),
            lambda m, s: F.cross_entropy(m(s.images), s.labels),
            select=lambda _: float("nan"),
            **VALUES,
        )


# chance


@given(st.data())
def test_above_chance_is_the_exact_binomial_test(data) -> None:
    labels = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=300))
    verdicts = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    often = max(labels, key=labels.count)
    found, constant = above_chance(labels, verdicts), above_chance(labels, [label == often for label in labels])
    if found.verdict != "skipped":
        p = binomtest(sum(verdicts), len(labels), labels.count(often) / len(labels), alternative="greater").pvalue
        assert (found.verdict == "ok") == (p <= LEVEL)
    assert constant.verdict in ("warning", "skipped"), "one answer for everything is never above chance"
    assert above_chance(labels, [True] * len(labels)).verdict in ("ok", "skipped")


def test_a_few_images_are_not_judged() -> None:
    assert above_chance([0, 1], [True, True]).verdict == "skipped"


class Leaning(nn.Module):
    """A network with so much added to its first logit."""

    def __init__(self, net: nn.Module, more: float):
        super().__init__()
        self.net, self.more = net, more

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.net(images)
        return logits + self.more * F.one_hot(torch.zeros((), dtype=torch.long), logits.shape[1])


@pytest.mark.parametrize(("more", "verdict"), [(0.0, "ok"), (100.0, "warning")])
def test_one_answer_for_nearly_everything_is_found(source, images, more: float, verdict: str) -> None:
    found = {check.name: check for check in before(Leaning(source.model, more), images[0], images[1], 10, seed=0)}
    assert found["answers-differ"].verdict == verdict


def test_where_nearly_everything_is_of_one_class_one_answer_is_in_order(source, images) -> None:
    labels = torch.zeros_like(images[1])
    found = {check.name: check for check in before(Leaning(source.model, 100.0), images[0], labels, 10, seed=0)}
    assert found["answers-differ"].verdict == "ok"


def signs(folder: Path) -> str:
    """A few hand signs, on which a large rate ends in one answer for everything."""
    arrays = {}
    for name, count in (("train", 250), ("test", 100)):
        part = open_dataset("signs").split(name)
        arrays[f"x_{name}"] = (part.images(torch.arange(count)) * 255).byte().permute(0, 2, 3, 1).numpy()
        arrays[f"y_{name}"] = part.labels[:count].numpy()
    np.savez(folder / "signs.npz", **arrays)
    return f"npz:{folder / 'signs.npz'}"


def test_divergence_to_chance_is_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = rtk.finetune(
        "full",
        dataset=signs(tmp_path),
        out=tmp_path / "run",
        **{"eps": 0.03, "epochs": 2, "lr": 1.0, "batch_size": 32, "select": "last", "milestones": ()},
        **{"suite": ("clean",), "workers": 1, "device": "cpu"},
    )
    checks = {check.name: check for check in result.rows[-1].checks}
    assert checks["above-chance"].verdict == "warning" and checks["above-chance"].item == "clean"
    assert checks["answers-differ"].verdict == "warning"
    print_result(result, tmp_path / "run")
    assert "warning: full: clean: The accuracy on 100 clean images is " in capsys.readouterr().out


SPEC = """
name = "wrong"
[options]
dataset = "{data}"
suite = "clean"
eps = 0.03
workers = 1
device = "cpu"
[[run]]
strategy = "full"
epochs = 2
batch_size = 32
select = "last"
milestones = []
vary = {{lr = [1.0, 1e38]}}
"""


@pytest.mark.slow
def test_a_benchmark_flags_chance_and_gives_nan_no_row(tmp_path: Path) -> None:
    """Slow for its two cells, each a process that begins by importing torch."""
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.format(data=signs(tmp_path)))

    def bench(*typed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rtk.cli", "bench", typed[0], str(spec), *typed[1:]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    ran = bench("run")
    assert ran.returncode == 1, ran.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    (result,) = folder.glob("cells/*/result.json")
    assert json.loads(result.read_text())["strategy"]["config"]["lr"] == 1.0
    (failure,) = folder.glob("failures/*.json")
    assert "fine-tune: the loss is " in files.read_json(failure)["reason"]
    table = bench("table").stdout
    assert "(!1) warning: full" in table and "clean: The accuracy on 100 clean images" in table
    # said to have failed, and given no row
    (failed,) = (line for line in table.splitlines() if "1e+38" in line)
    assert "the loss is " in failed and failed.count("[") == 0
    pytest.importorskip("jinja2", reason="part of the extra 'site'")
    bench("site")
    (page,) = folder.glob("**/*.html")
    assert "answering always with the most frequent class" in page.read_text(encoding="utf-8")
