"""bfloat16 is for the attacks that train, where the processor has it; whatever is measured is float32."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import rtk
from rtk import precision
from rtk.attacks import check_ball, pgd
from rtk.backbones import Backbone
from rtk.errors import BadValue, RunExists
from rtk.precision import Choice, choose
from rtk.threat import Threat

from .small_run import small_run

CPU = torch.device("cpu")
EPS = Threat("Linf", 0.1)


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_processor_has_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: native)
    assert choose("auto", CPU).precision == ("bfloat16" if native else "float32")
    assert choose("float32", CPU).precision == "float32"
    if native:
        assert choose("bfloat16", CPU).precision == "bfloat16"
    else:
        with pytest.raises(BadValue, match="this CPU has no instructions"):
            choose("bfloat16", CPU)


def test_an_attack_in_bfloat16_stays_in_the_ball_and_is_about_as_strong(source: Backbone, images) -> None:
    x, y = images
    attack = pgd(EPS, steps=10)
    found = [replace(attack, precision=kind)(source.model, x, y, seed=0) for kind in ("float32", "bfloat16")]
    assert not torch.equal(*found)
    robust = []
    for adversarial in found:
        assert adversarial.dtype == torch.float32
        check_ball(x, adversarial, EPS, "test")
        with torch.no_grad():
            robust.append(int((source.model(adversarial).argmax(1) == y).sum()))
    clean = int((source.model(x).argmax(1) == y).sum())
    assert abs(robust[0] - robust[1]) <= 4 < clean - robust[0], robust


def test_training_computes_its_loss_in_float32_and_its_attack_as_chosen(source: Backbone, tmp_path: Path) -> None:
    run = small_run(source, tmp_path, precision=Choice("bfloat16", "a test"))
    attack, model = run.attack(steps=1), copy.deepcopy(source.model)
    seen: list[tuple[bool, torch.dtype]] = []
    model.net.conv1.register_forward_hook(lambda module, inputs, output: seen.append((model.training, output.dtype)))

    def loss(model, step):
        return F.cross_entropy(model(attack(model, step.images, step.labels, seed=step.seed)), step.labels)

    run.fit(model, loss, epochs=1, lr=0.01, select="robust", select_steps=1)
    assert set(seen) == {(False, torch.bfloat16), (True, torch.float32), (False, torch.float32)}  # attack, loss, score
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}


def test_what_is_measured_is_float32_whatever_attack_is_given(source: Backbone, tmp_path: Path) -> None:
    run = small_run(source, tmp_path, precision=Choice("bfloat16", "a test"))
    training, exact = run.attack(steps=3), run.attack(steps=3, exact=True)
    assert (training.precision, exact.precision) == ("bfloat16", "float32")
    assert run.robust_accuracy(source.model, attack=training) == run.robust_accuracy(source.model, attack=exact)


def test_the_attack_of_trades_is_float32(source: Backbone, tmp_path: Path) -> None:
    """In bfloat16 it breaks fewer images: it begins beside the image, where its gradient is next to nothing."""
    run = small_run(source, tmp_path, precision=Choice("bfloat16", "a test"))
    assert run.attack(loss="kl").precision == "float32"


def test_the_choice_stands_in_the_result_and_a_run_goes_on_only_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "backbone": "rtk:fashion-resnet",
        "dataset": "fashion",
        "epochs": 1,
        "attack_steps": 1,
        "select": "last",
        "batch_size": 2000,
        "suite": "clean",
        "images": 20,
        "out": tmp_path / "run",
    }
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    result = rtk.finetune("at", **options)
    said = "float32 (this CPU has no instructions for bfloat16); 9 BatchNorm layers folded into what comes before"
    assert result.report["training_attack"] == said
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    with pytest.raises(RunExists, match="precision: float32 there, bfloat16 asked"):
        rtk.finetune("at", **options)
