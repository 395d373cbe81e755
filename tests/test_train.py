"""Freezing and the training loop: what moves, what does not, and what a resumed run gives."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from rtk.errors import BadValue, RunFailed
from rtk.freeze import Freeze
from rtk.progress import Silent
from rtk.run import Run
from rtk.schedules import constant, cosine, step_decay
from rtk.threat import Threat

from .small_run import changed, small_run, snapshot

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def cross_entropy(model: nn.Module, step) -> torch.Tensor:
    return F.cross_entropy(model(step.images), step.labels)


def train(run: Run, model: nn.Module, **changes: object) -> nn.Module:
    values = {"epochs": 2, "lr": 0.05, "batch_size": 32, "weight_decay": 0.1, **changes}
    return run.fit(model, values.pop("loss", cross_entropy), **values)  # type: ignore[arg-type]


def test_frozen_stays_frozen_through_evaluations_in_between(source, tmp_path: Path) -> None:
    """`model.train()`, weight decay and momentum are the ways in which a frozen layer moves."""
    run, model = small_run(source, tmp_path), copy.deepcopy(source.model)
    before = snapshot(model)

    def careless(model: nn.Module) -> float:
        model.eval()
        value = run.accuracy(model).value
        model.train()  # what the evaluation helpers of published code leave behind
        return value

    train(run, model, trainable=["fc.weight"], statistics="keep", select=careless)
    assert changed(before, snapshot(model)) == {"fc.weight"}


@pytest.mark.parametrize(
    "statistics, moving",
    [("update", 9), ("keep", 0), (["layer3.0.bn1", "layer3.0.bn2"], 2)],
    ids=["update", "keep", "two"],
)
def test_C15_statistics_move_where_they_should_and_only_there(source, tmp_path, statistics, moving) -> None:
    model = copy.deepcopy(source.model)
    before = snapshot(model)
    train(small_run(source, tmp_path), model, trainable=["fc.bias"], statistics=statistics)
    moved = changed(before, snapshot(model))
    assert {name for name in moved if not name.endswith(STATISTICS)} == {"fc.bias"}
    assert len({name.rsplit(".", 1)[0] for name in moved if name.endswith(STATISTICS)}) == moving


def test_C14_modes_survive_an_evaluation_cycle(source) -> None:
    model = copy.deepcopy(source.model)
    freeze = Freeze(model, "all", ["bn1"], "train")
    freeze.apply()
    before = [module.training for module in model.modules()]
    model.eval()
    model.train()
    freeze.apply()
    assert before == [module.training for module in model.modules()]


def test_unknown_and_empty_choices_are_refused(source) -> None:
    with pytest.raises(BadValue, match="No parameter named 'nowhere'"):
        Freeze(source.model, ["nowhere"])
    with pytest.raises(BadValue, match="Nothing to train"):
        Freeze(source.model, [])


def test_the_same_seed_gives_the_same_weights_whatever_the_global_state(source, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        torch.manual_seed(number)
        run = small_run(source, tmp_path / str(number))
        results.append(snapshot(train(run, copy.deepcopy(source.model))))
    assert changed(*results) == set()
    other = train(small_run(source, tmp_path / "other", seed=1), copy.deepcopy(source.model))
    assert changed(results[0], snapshot(other))


def test_B11_a_resumed_run_ends_with_the_same_bits(source, tmp_path: Path) -> None:
    """Killed in the second epoch, with dropout, augmentation and an attack in the loss."""
    whole = small_run(source, tmp_path / "whole")
    attack = whole.attack(steps=1)

    def loss(model: nn.Module, step) -> torch.Tensor:
        images = F.dropout(attack(model, step.images, step.labels, seed=step.seed), 0.1)
        return F.cross_entropy(model(images), step.labels)

    def score(model: nn.Module) -> float:
        return whole.accuracy(model).value

    expected = snapshot(train(whole, copy.deepcopy(source.model), loss=loss, epochs=3, select=score))
    broken, calls = small_run(source, tmp_path / "broken"), []

    def killed(model: nn.Module, step) -> torch.Tensor:
        calls.append(step.number)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(model, step)

    with pytest.raises(KeyboardInterrupt):
        train(broken, copy.deepcopy(source.model), loss=killed, epochs=3, select=score)
    torch.manual_seed(99)
    resumed = train(broken, copy.deepcopy(source.model), loss=loss, epochs=3, select=score)
    assert changed(expected, snapshot(resumed)) == set()


def test_the_best_epoch_is_kept_and_the_first_of_equals(source, tmp_path: Path) -> None:
    scores, seen = iter([0.3, 0.7, 0.7]), []

    def select(model: nn.Module) -> float:
        seen.append(snapshot(model))
        return next(scores)

    kept = train(small_run(source, tmp_path), copy.deepcopy(source.model), epochs=3, select=select)
    assert changed(seen[1], snapshot(kept)) == set() and changed(seen[2], snapshot(kept))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(source, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"loss is nan at epoch 1, step 1") as caught:
        train(small_run(source, tmp_path), copy.deepcopy(source.model), loss=lambda m, s: m(s.images).sum() * torch.nan)
    assert "--lr" in (caught.value.hint or "")


@given(st.integers(1, 50), st.floats(0, 5), st.floats(0, 60))
def test_schedules_are_factors(epochs: int, warmup: float, time: float) -> None:
    for schedule in (cosine(epochs, warmup), step_decay((epochs,), 0.1, warmup), constant()):
        assert 0 <= schedule(time) <= 1


def test_schedules_at_known_points() -> None:
    assert [step_decay((5, 8))(epoch) for epoch in (0, 4.99, 5, 8)] == pytest.approx([1, 1, 0.1, 0.01])
    assert step_decay((5,), warmup=1)(0) == 0 and step_decay((5,), warmup=1)(0.5) == 0.5
    assert cosine(10)(0) == 1 and cosine(10)(5) == pytest.approx(0.5) and cosine(10)(10) == pytest.approx(0)


# gradient accumulation, what is left over, what was selected


def with_groupnorm(source):
    """The embedded network with GroupNorm, so that no image feels the others of its mini-batch."""
    model = copy.deepcopy(source.model)
    for name, module in list(model.net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.net.set_submodule(name, nn.GroupNorm(4, module.num_features))
    return model


@pytest.mark.parametrize("accumulate", [2, 3, 32, 1000])
def test_accumulated_gradients_are_those_of_the_whole_step(source, tmp_path: Path, accumulate: int) -> None:
    """Also in an odd last step of 11 images, and for a loss that is a sum."""

    def loss(model: nn.Module, step) -> torch.Tensor:
        logits = model(step.images)
        return F.cross_entropy(logits, step.labels) + 1e-4 * logits.square().sum() / step.share

    model = with_groupnorm(source)
    found = [
        train(small_run(source, tmp_path / str(count), train=43), copy.deepcopy(model), loss=loss, accumulate=count)
        for count in (1, accumulate)
    ]
    apart = [(a - b).abs().max() for a, b in zip(*(each.state_dict().values() for each in found), strict=True)]
    assert 0 < max(apart) < 2e-5  # float32 sums in another order


@pytest.mark.parametrize(("norm", "parts", "said"), [("batch", 2, 1), ("batch", 1, 0), ("group", 2, 0)])
def test_that_batchnorm_makes_another_step_of_parts_is_said(
    source, tmp_path: Path, norm: str, parts: int, said: int
) -> None:
    heard = Heard()
    model = copy.deepcopy(source.model) if norm == "batch" else with_groupnorm(source)
    train(small_run(source, tmp_path, progress=heard), model, accumulate=parts, epochs=1)
    assert sum("BatchNorm normalises each part by itself" in text for text in heard.texts) == said


class Heard(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def test_parts_of_a_step_have_noise_of_their_own(source, tmp_path: Path) -> None:
    seen = []

    def loss(model: nn.Module, step) -> torch.Tensor:
        seen.append((step.number, step.seed, step.share, len(step.labels)))
        return cross_entropy(model, step)

    train(small_run(source, tmp_path, train=43), copy.deepcopy(source.model), loss=loss, accumulate=2, epochs=1)
    assert [number for number, *_ in seen] == [0, 0, 1, 1]
    assert len({seed for _, seed, *_ in seen}) == 4
    assert [size for *_, size in seen] == [16, 16, 6, 5] and sum(share for *_, share, _ in seen) == pytest.approx(2)


def test_one_image_left_over_is_skipped_where_batchnorm_needs_others(source, tmp_path: Path) -> None:
    """torch refuses batch statistics of one value per channel, and those of one image mean nothing."""
    sizes: dict[str, list[int]] = {"update": [], "keep": []}
    for statistics, seen in sizes.items():

        def loss(model: nn.Module, step, seen: list[int] = seen) -> torch.Tensor:
            seen.append(len(step.labels))
            return cross_entropy(model, step)

        run = small_run(source, tmp_path / statistics, train=65)
        train(run, copy.deepcopy(source.model), loss=loss, epochs=1, statistics=statistics)
    assert sizes == {"update": [32, 32], "keep": [32, 32, 1]}


def test_steps_that_are_always_too_small_are_refused(source, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"steps of 2 images or more \(got --batch-size 1 "):
        train(small_run(source, tmp_path), copy.deepcopy(source.model), batch_size=1)
    train(small_run(source, tmp_path / "kept", train=3), copy.deepcopy(source.model), batch_size=1, statistics="keep")


@pytest.mark.parametrize("select, by", [("last", "nothing"), ("clean", "clean"), ("robust", "PGD-2"), (None, "mine")])
def test_what_was_selected_on_stands_in_the_report(source, tmp_path: Path, select, by: str) -> None:
    run = small_run(source, tmp_path)
    train(run, copy.deepcopy(source.model), select=select or (lambda _: 0.5), select_steps=2, selected_by="mine")
    found = json.loads((tmp_path / "report.json").read_text())["selection"]["fine-tune"]
    assert found["by"].startswith(by) and found["on"] == "validation split, 48 images"
    assert found["epoch"] == (2 if select == "last" else found["epoch"]) and 1 <= found["epoch"] <= 2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scores = [line["score"] for line in lines if line["event"] == "epoch"]
    assert found["score"] == (None if select == "last" else max(scores))


def test_an_unknown_selection_is_refused(source, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"allowed: last \| clean \| robust"):
        train(small_run(source, tmp_path), copy.deepcopy(source.model), select="test")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"optimizer": "adam"}, r"optimizer: got 'adam' \(allowed: sgd \| adamw\)"),
        ({"statistics": "updates"}, r"statistics: got 'updates' \(allowed: update \| keep"),
        ({"statistics": ["layer9"]}, "no module named 'layer9'"),
        ({"mode": "evaluation"}, r"mode: got 'evaluation' \(allowed: train \| eval\)"),
        ({"patience": 1}, "patience needs a score"),
    ],
)
def test_words_that_mean_nothing_are_refused(source, tmp_path: Path, changes: dict[str, object], said: str) -> None:
    model = copy.deepcopy(source.model)
    before = snapshot(model)
    with pytest.raises(BadValue, match=said):
        train(small_run(source, tmp_path), model, **changes)
    assert not changed(before, snapshot(model))


def test_two_phases_of_one_name_are_refused(source, tmp_path: Path) -> None:
    run, model = small_run(source, tmp_path), copy.deepcopy(source.model)
    train(run, model, epochs=1)
    with pytest.raises(BadValue, match="two phases are named 'fine-tune'"):
        train(run, model, epochs=1)
    train(run, model, epochs=1, name="again")


def test_what_is_kept_under_like_names_is_kept_apart(source, tmp_path: Path) -> None:
    run = small_run(source, tmp_path)
    names = ("alpha 1/2", "alpha-1_2", "alpha-1/2", "alpha+1/2", "..")
    assert [run.once(name, lambda name=name: name) for name in names] == [*names]
    assert [run.once(name, lambda: "other") for name in names] == [*names]
    run.save("fine-tune", {"mine": 1})
    train(run, copy.deepcopy(source.model), epochs=1)
    assert run.saved("fine-tune") == {"mine": 1}


def test_no_gradient_is_left_over(source, tmp_path: Path) -> None:
    model = train(small_run(source, tmp_path), copy.deepcopy(source.model), epochs=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_attack_on_a_network_that_answers_nan_says_where_training_went_wrong(source, tmp_path: Path) -> None:
    run = small_run(source, tmp_path, threat=Threat("L2", 1.0))
    attack = run.attack(steps=1)

    def loss(model: nn.Module, step) -> torch.Tensor:
        return F.cross_entropy(model(attack(model, step.images, step.labels, seed=step.seed)), step.labels)

    with pytest.raises(RunFailed, match=r"infinite at epoch 1, step 2 \(lr 1e\+30\)|nan at epoch 1, step 2"):
        train(run, copy.deepcopy(source.model), loss=loss, lr=1e30)


def test_memory_that_runs_out_when_weights_move_ends_the_run(source, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.optim.SGD, "step", full)
    with pytest.raises(RunFailed, match="memory ran out at epoch 1, step 1, when the optimiser"):
        train(small_run(source, tmp_path), copy.deepcopy(source.model))
