"""Checks before and after the attacks: each spoiled network, image or verdict is found, and nothing else is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable

import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rtk.attacks import apgd, frozen, pgd
from rtk.checks import Check, Counts, after, before, conclude, nested
from rtk.checks.check import at_least, at_most
from rtk.threat import Threat

from . import masked_networks as networks

THREAT = Threat("Linf", 0.1)


def verdicts(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks if check.verdict != "ok"}


def judged(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with frozen(model), torch.no_grad():
        return model(images).argmax(1) == labels


# --- Check ---


@given(value=st.floats(-1e6, 1e6), limit=st.floats(-1e6, 1e6))
def test_the_verdict_follows_from_value_and_limit(value: float, limit: float) -> None:
    most = at_most("a-name", value, limit, "It", "b")
    least = at_least("a-name", value, limit, "It", "b", bad="error")
    assert (most.verdict == "ok") == (value <= limit) and (least.verdict == "ok") == (value >= limit)
    assert {most.verdict, least.verdict} <= {"ok", "warning", "error"}
    assert json.loads(most.model_dump_json())["value"] == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_cannot_be_measured_is_not_ok(value: float) -> None:
    for check in (at_most("a", value, 1, "It", "b"), at_least("a", value, 1, "It", "b")):
        assert check.verdict == "warning" and check.value is None and "not finite" in check.text


def test_names_are_kebab_case() -> None:
    with pytest.raises(pydantic.ValidationError):
        Check(name="Not kebab", verdict="ok", text="")


def test_a_check_needs_no_torch() -> None:
    code = "import sys; from rtk.checks import Check; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# --- before ---

SPOILED: list[tuple[Callable[[nn.Module], nn.Module], dict[str, str]]] = [
    (networks.InputNoise, {"deterministic": "error", "draws-nothing": "warning"}),
    (networks.Reseeded, {"draws-nothing": "warning"}),
    (networks.Probabilities, {"logits-not-probabilities": "warning"}),
    (networks.BatchStatistics, {"batch-invariant": "error"}),
    (networks.NanForBright, {"logits-finite": "error"}),
    (networks.Remembers, {"state-unchanged": "error"}),
    (networks.Purifies, {"no-autograd-in-forward": "error"}),
    (networks.Detached, {"gradient-finite": "error"}),
    (networks.Constant, {"logits-differ": "error"}),
    (networks.BatchNormLive, {"batch-invariant": "error", "state-unchanged": "error"}),
    (networks.Fails, {"logits-shape": "error"}),
    (networks.FewClasses, {"logits-shape": "error"}),
    (networks.Integers, {"logits-shape": "error"}),
    (networks.Standardised, {"clean-accuracy": "warning"}),
]


@pytest.mark.parametrize(("spoil", "expected"), SPOILED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_spoiled_network_is_found(spoil: Callable, expected: dict[str, str], source, images) -> None:
    found = verdicts(before(spoil(source.model), images[0][:64], images[1][:64], 10, seed=0))
    assert expected.items() <= found.items()


@pytest.mark.parametrize("spoil", [networks.InputNoise, networks.Remembers, networks.Purifies, networks.Fails])
def test_a_network_is_left_as_it_was(spoil: Callable, source, images) -> None:
    net = spoil(source.model).train()
    state, random = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    before(net, images[0][:8], images[1][:8], 10, seed=0)
    assert net.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    source.model.eval()


def test_a_healthy_network_is_ok_in_everything(source, images) -> None:
    found = before(source.model, images[0][:64], images[1][:64], 10, seed=0)
    assert {check.verdict for check in found} == {"ok"}
    assert {name for _, expected in SPOILED for name in expected} <= {check.name for check in found}


@pytest.mark.parametrize(
    "problem",
    [torch.OutOfMemoryError("full"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_memory_is_not_the_network_s_fault(problem: Exception, source, images) -> None:
    class Full(networks.Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            raise problem

    with pytest.raises(type(problem)):
        before(Full(source.model), images[0][:4], images[1][:4], 10, seed=0)


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_fewer_images_at_once_change_nothing_but_what_needs_a_batch(batch: int, source, images) -> None:
    few = images[0][:12], images[1][:12]
    seen: list[int] = []

    class Watched(networks.Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return self.net(x)

    found = before(Watched(source.model), *few, 10, seed=0, batch=batch)
    whole = before(source.model, *few, 10, seed=0)
    differ = [one.name for one, other in zip(found, whole, strict=True) if one.verdict != other.verdict]
    assert max(seen) == min(batch, 12) and differ == (["batch-invariant"] if batch == 1 else [])


BAD_DATA: list[tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], dict[str, str]]] = [
    (lambda x, y: (x * 255, y), {"images": "error"}),
    (lambda x, y: ((x - 0.5) / 0.2, y), {"images": "error"}),
    (lambda x, y: (x.double(), y), {"images": "error"}),
    (lambda x, y: (x[0], y), {"images": "error"}),
    (lambda x, y: (x * torch.nan, y), {"images": "error"}),
    (lambda x, y: (x[:0], y[:0]), {"images": "error"}),
    (lambda x, y: (x / 255, y), {"pixel-range": "warning"}),
    (lambda x, y: (x, y + 1), {"labels": "error"}),
    (lambda x, y: (x, y - 1), {"labels": "error"}),
    (lambda x, y: (x, y.int()), {"labels": "error"}),
    (lambda x, y: (x, y[:-1]), {"labels": "error"}),
]


@pytest.mark.parametrize(("spoil", "expected"), BAD_DATA)
def test_spoiled_data_are_found(spoil: Callable, expected: dict[str, str], source, images) -> None:
    found = verdicts(before(source.model, *spoil(images[0][:40], images[1][:40]), 10, seed=0))
    assert expected.items() <= found.items()


# --- after ---


@pytest.fixture(scope="module")
def attacked(source, images) -> tuple[Tensor, Tensor, Tensor]:
    """48 correctly classified images, their labels, and what APGD-CE makes of them."""
    kept = judged(source.model, *images).nonzero().flatten()[:48]
    x, y = images[0][kept], images[1][kept]
    return x, y, apgd(THREAT, steps=20)(source.model, x, y, seed=0)


def test_an_honest_attack_passes(source, attacked) -> None:
    x, y, adversarial = attacked
    claimed = (adversarial != x).flatten(1).any(1)
    counts = after(source.model, x, adversarial, y, THREAT, judged(source.model, adversarial, y), claimed=claimed)
    assert 0 < counts.claimed < counts.images == 48
    assert {check.verdict for check in conclude(counts)} == {"ok"}


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 48), max_size=4), seed=st.integers(0, 1000))
def test_counts_of_chunks_add_up(cuts: list[int], seed: int, source, attacked) -> None:
    x, y, adversarial = attacked
    robust = torch.rand(48, generator=torch.Generator().manual_seed(seed)) < 0.5  # verdicts on record, mostly wrong

    def count(start: int, stop: int) -> Counts:
        part = slice(start, stop)
        return after(source.model, x[part], adversarial[part], y[part], THREAT, robust[part])

    chunks = itertools.pairwise([0, *sorted(cuts), 48])
    total = sum((count(*chunk) for chunk in chunks), Counts())
    assert total == count(0, 48) and total.unverified > 0
    assert Counts(**json.loads(json.dumps(dataclasses.asdict(total)))) == total


def test_a_claim_that_does_not_hold_is_found(source, attacked) -> None:
    x, y, adversarial = attacked
    robust = judged(source.model, adversarial, y)
    one = robust.clone()
    one[robust.nonzero()[0]] = False
    assert after(source.model, x, adversarial, y, THREAT, one).unverified == 1
    many = after(source.model, x, adversarial, y, THREAT, robust, claimed=torch.ones_like(robust))
    assert verdicts(conclude(many)) == {"verified-success": "error"}
    few = Counts(images=1000, claimed=500, unverified=1)
    assert verdicts(conclude(few)) == {"verified-success": "warning"}, "at most one per cent"
    boundary = Counts(images=128, claimed=40, unverified=2)
    assert verdicts(conclude(boundary)) == {"verified-success": "warning"}, "rounding on the boundary ends nothing"


def test_a_success_that_is_not_on_record_is_found(source, attacked) -> None:
    x, y, adversarial = attacked
    counts = after(source.model, x, adversarial, y, THREAT, torch.ones(48, dtype=torch.bool))
    assert counts.overlooked == int((~judged(source.model, adversarial, y)).sum()) > 0
    assert verdicts(conclude(counts)) == {"recorded-success": "error"}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("excess", [1e-3, 0.9])
def test_an_image_outside_the_ball_is_no_success(norm: str, excess: float, source, images) -> None:
    x, y = images[0][:16].clamp(0.3, 0.6), images[1][:16]
    size = 0.1 if norm == "Linf" else 0.1 * x[0].numel() ** 0.5
    threat = Threat(norm, size)  # type: ignore[arg-type]
    wrong = torch.zeros(16, dtype=torch.bool)
    assert after(source.model, x, x + 0.1, y, threat, wrong).outside == 0
    counts = after(source.model, x, x + 0.1 * (1 + excess), y, threat, wrong)
    assert counts.outside == counts.unverified == 16
    assert verdicts(conclude(counts))["ball-and-range"] == "error"


@pytest.mark.parametrize("spoil", [lambda x: x - 1e-4, lambda x: x + 1e-4, lambda x: torch.full_like(x, torch.nan)])
def test_an_image_outside_the_range_is_no_success(spoil: Callable[[Tensor], Tensor], source, images) -> None:
    black_and_white = images[0][:4].round()
    counts = after(source.model, black_and_white, spoil(black_and_white), images[1][:4], THREAT, torch.ones(4).bool())
    assert counts.outside == 4 and counts.overlooked == 0


def test_nan_counts_as_broken(source, attacked) -> None:
    x, y, _ = attacked
    net = networks.NanForBright(source.model)
    bright = int((x.mean((1, 2, 3)) > 0.3).sum())
    robust = judged(source.model, x, y)
    counts = after(net, x, x, y, THREAT, robust)
    assert counts.not_finite == counts.overlooked == bright > 0
    found = verdicts(conclude(counts))
    assert found == {"recorded-success": "error", "adversarial-logits-finite": "warning"}


def test_a_randomised_network_does_not_repeat_itself(source, images) -> None:
    net = networks.InputNoise(source.model)
    adversarial = pgd(THREAT, steps=5)(net, *images, seed=0)
    random = torch.get_rng_state()
    counts = after(net, images[0], adversarial, images[1], THREAT, judged(net, adversarial, images[1]))
    assert "repeatable" in verdicts(conclude(counts))
    assert not torch.equal(random, torch.get_rng_state()), "drawn by the test's own forward pass"


def test_nothing_attacked_is_not_ok() -> None:
    assert {check.verdict for check in conclude(Counts())} == {"skipped"}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20), st.data())
def test_a_broken_image_stays_broken(rows: list[tuple[bool, ...]], data: st.DataObject) -> None:
    names = ("clean", "apgd-ce", "square")
    kept = [list(itertools.accumulate(row, lambda a, b: a and b)) for row in rows]
    table = dict(zip(names, map(list, zip(*kept, strict=True)), strict=True))
    assert nested(table).verdict == "ok"
    image = data.draw(st.integers(0, len(rows) - 1))
    table["clean"][image], table["square"][image] = False, True
    assert nested(table).verdict == "error" and nested(table).value == 1


def test_a_dropped_batch_is_found() -> None:
    check = nested({"clean": [True, True, False], "apgd-ce": [True, False]})
    assert check.verdict == "error" and "clean 3, apgd-ce 2" in check.text
