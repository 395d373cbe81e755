"""Checks are part of every evaluation: no number where one failed, and a warning beside the number where one warns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rtk import results
from rtk.attacks import pgd
from rtk.backbones import Backbone
from rtk.checks import Check, Counts
from rtk.checks.signatures import NAMES
from rtk.cli.table import print_checks, print_result
from rtk.data import open_dataset
from rtk.errors import RunFailed
from rtk.evaluation import Subject, chunks, judge, judge_all, measure_of, row_of, trust
from rtk.host import finetune
from rtk.memory import Memory
from rtk.progress import Silent
from rtk.suite import Item
from rtk.threat import Threat

from . import masked_networks as networks
from .test_cli import Command, command  # noqa: F401 - a fixture
from .test_evaluate import EPS, PGD, subject  # noqa: F401 - a fixture
from .test_finetune import Nudge, making, request

MASKING = Item("masking", EPS)


def planted(monkeypatch: pytest.MonkeyPatch, subject: Subject, net: nn.Module) -> None:  # noqa: F811
    """Let every part of the evaluation see `net`, which no checkpoint could hold, in the place of the network."""
    loaded = replace(chunks.load(subject), model=net.eval())
    for module in (chunks, trust):
        monkeypatch.setattr(module, "load", lambda subject: loaded)


def checkpoint(source: Backbone, path: Path, factor: float) -> str:
    """A file of the network's weights, the classifier's multiplied by `factor`."""
    state = {name: value.clone() for name, value in source.model.native_state().items()}
    for name in ("fc.weight", "fc.bias"):
        state[name] *= factor
    save_file(state, str(path))
    return str(path)


SPOILED = [
    (networks.NanForBright, "The number of clean images with NaN or infinite logits is"),
    (networks.InputNoise, "the network is randomised"),
    (networks.BatchNormLive, "images influence each other"),
    (networks.Detached, "The network raised"),
    (networks.Purifies, "the network optimises at test time"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_a_spoiled_network_is_not_attacked_and_gets_no_number(
    spoil: type[networks.Wrapped],
    said: str,
    source,
    subject: Subject,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted(monkeypatch, subject, spoil(source.model))
    with pytest.raises(RunFailed, match=said) as caught:
        judge_all([subject], Silent(), workers=1)
    assert f"So there is no number; the weights are kept in {subject.directory}." in caught.value.message
    assert not list(subject.verdicts.glob("*/*.json"))


def test_what_comes_before_is_computed_once(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    first = trust.preconditions(subject)
    assert {check.verdict for check in first} == {"ok"} and len(first) > 10
    monkeypatch.setattr(trust, "before", None)
    assert trust.preconditions(subject) == trust.preconditions(replace(subject, batch_size=3)) == first
    (path,) = subject.verdicts.glob("before-*.json")
    assert trust.preconditions(subject) == [Check(**check) for check in json.loads(path.read_text())]


def test_what_comes_before_does_not_depend_on_the_batch(subject: Subject, tmp_path: Path) -> None:  # noqa: F811
    whole = trust.preconditions(subject)
    parts = trust.preconditions(replace(subject, verdicts=tmp_path / "other", batch_size=7))
    assert [(check.name, check.verdict) for check in parts] == [(check.name, check.verdict) for check in whole]


def test_where_memory_runs_out_before_anything_fewer_images_do(
    subject: Subject,  # noqa: F811
    source,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Small(networks.Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 20:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return self.net(x)

    planted(monkeypatch, subject, Small(source.model))
    assert {check.verdict for check in trust.preconditions(subject)} == {"ok"}


def test_every_attack_is_verified_and_the_checks_say_of_which_item(subject: Subject) -> None:  # noqa: F811
    (verdicts,) = judge_all([subject], Silent(), workers=1)
    found = verdicts[PGD]
    counts = sum((Counts(**chunk["counts"]) for chunk in found.facts), Counts())
    assert counts.images == sum(found.verdicts["clean"]), "what is wrong by itself is not attacked"
    assert counts.claimed == counts.images - sum(found.verdicts["pgd20"]) > 0
    checks = {check.name: check for check in row_of("net", subject, verdicts).checks if check.item == str(PGD)}
    assert set(checks) >= {"verified-success", "recorded-success", "ball-and-range", "nested-verdicts"}
    assert {check.verdict for check in checks.values()} == {"ok"}
    assert "with 9 BatchNorm layers as parts of the convolutions" in checks["searched-network"].text


@pytest.mark.parametrize("spoil", ["facts", "verdicts"])
def test_a_verdict_that_does_not_hold_gives_no_number(subject: Subject, spoil: str) -> None:  # noqa: F811
    (verdicts,) = judge_all([subject], Silent(), workers=1)
    found = verdicts[PGD]
    if spoil == "facts":
        found.facts[0]["counts"]["overlooked"] += 1
    else:
        wrong = found.verdicts["clean"].index(False)
        found.verdicts["pgd20"][wrong] = True
    with pytest.raises(RunFailed, match=f"no number for {PGD};") as caught:
        row_of("net", subject, verdicts)
    assert "the robust accuracy on record is too high" in caught.value.message


def test_a_success_that_an_attack_announces_is_verified(source, images) -> None:
    """PGD moves every image; if that is taken for an announcement, those that withstood are denied."""
    few = images[0][:20], images[1][:20]
    attacks = (pgd(EPS, steps=3),)
    quiet, loud = (
        judge(source.model, *few, attacks, 0, announced=announced).facts["counts"] for announced in (False, True)
    )
    robust = sum(judge(source.model, *few, attacks, 0).verdicts["pgd3"])
    assert quiet["unverified"] == 0 and loud["unverified"] == robust > 0


def test_signs_of_masking_are_found_and_are_no_score(source, images) -> None:
    data = open_dataset("fashion")
    measure = measure_of(MASKING, data)
    few, done, fitted = (images[0][:32], images[1][:32]), [], Memory(32)
    found = measure.judge(
        networks.LargeLogits(source.model), *few, indices=torch.arange(32), seed=0, tick=done.append, memory=fitted
    )
    assert found.verdicts == {} and measure.final({}) == [] and sum(done) == 32 * measure.cost
    checks = measure.checks([found.facts], {})
    assert tuple(check.name for check in checks) == NAMES
    assert {"logit-scale", "zero-gradients-ce"} <= {check.name for check in checks if check.verdict == "warning"}


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_masking_is_skipped_where_there_is_nothing_to_mask(
    subject: Subject,  # noqa: F811
    eps: float,
    source,
    monkeypatch,
) -> None:
    other = replace(subject, suite=replace(subject.suite, names=("masking",), threats=(Threat("Linf", eps),)))
    if eps:
        turned = nn.Sequential(source.model, next_class())
        planted(monkeypatch, other, turned)
    (verdicts,) = judge_all([other], Silent(), workers=1)
    row = row_of("net", other, verdicts)
    masking = [check for check in row.checks if check.item is not None]
    assert row.scores == {} and {check.verdict for check in masking} == {"skipped"} and len(masking) == len(NAMES)


def next_class() -> nn.Module:
    """Every logit becomes that of the next class."""
    shift = nn.Linear(10, 10, bias=False)
    shift.weight.data = torch.eye(10).roll(1, 0)
    return shift


# the commands


def evaluate(command: Command, *typed: str):  # noqa: F811
    return command("evaluate", *typed, "--images", "32", "--workers", "1", "--device", "cpu", "--quiet")


def test_a_healthy_network_shows_no_warning(command: Command) -> None:  # noqa: F811
    done = evaluate(command, "rtk:fashion-resnet", "--suite", "clean,pgd20,masking", "--out", "e")
    assert (done.code, done.err) == (0, "")
    checks = results.read_evaluation(Path("e/evaluation.json")).row.checks
    assert {check.verdict for check in checks} == {"ok"}
    assert {check.item for check in checks} == {None, "clean", "pgd20@Linf:0.1", "masking@Linf:0.1"}
    assert f"rtk:fashion-resnet: checks: {len(checks)} passed, no warning." in done.out
    assert "masking" not in done.out.split("checks:")[0], "it has no number"
    every = command("show", "e", "--checks").out
    assert all(f"  ok      {check.name}: {check.text}\n" in every for check in checks)
    assert "rtk:fashion-resnet, masking@Linf:0.1\n" in every


@pytest.mark.slow  # signs of masking take ten seconds for each network
def test_masking_warns_beside_the_number(source, command: Command) -> None:  # noqa: F811
    weights = checkpoint(source, Path("large.safetensors"), 1000)
    typed = [weights, "--backbone", "rtk:fashion-resnet", "--suite", "pgd20,masking", "--out", "e"]
    done = evaluate(command, *typed)
    assert done.code == 0 and "PGD-20, Linf 0.1" in done.out
    loud = [check for check in results.read_evaluation(Path("e/evaluation.json")).row.checks if check.verdict != "ok"]
    assert {"logit-scale", "zero-gradients-ce"} <= {check.name for check in loud}
    assert f"{len(loud)} warnings." in done.out and f"{len(loud) - 3} more: rtk show e --checks" in done.out
    assert done.out.count("warning: rtk:fashion-resnet: masking@Linf:0.1: ") == 3
    assert f"  warning {loud[-1].name}: {loud[-1].text}\n" in command("show", "e", "--checks").out


def test_a_broken_checkpoint_gives_no_number(source, command: Command) -> None:  # noqa: F811
    weights = checkpoint(source, Path("broken.safetensors"), 1e38)
    for _ in range(2):
        done = evaluate(command, weights, "--backbone", "rtk:fashion-resnet", "--suite", "clean", "--out", "e")
        assert done.code == 1 and "NaN or infinite logits" in done.line and "no number" in done.line
        assert not Path("e/evaluation.json").exists()
    assert "weights are kept in e/network" in done.line and Path("e/network/model.safetensors").exists()


def test_weights_that_cannot_be_judged_are_kept(tmp_path: Path) -> None:
    def explode(model: nn.Module, run) -> nn.Module:
        with torch.no_grad():
            model.net.fc.weight *= 1e38
        return model

    with pytest.raises(RunFailed, match="NaN or infinite logits") as caught:
        finetune(request(making(explode), tmp_path, suite=("clean",)))
    assert f"the weights are kept in {tmp_path}." in caught.value.message
    assert load_file(tmp_path / "model.safetensors")["fc.weight"].abs().max() > 1e30
    assert not (tmp_path / "result.json").exists()


def test_both_networks_of_a_run_have_their_checks_beside_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finetune(request(Nudge, tmp_path))
    print_result(result, tmp_path)
    said = capsys.readouterr().out
    for row in result.rows:
        assert {check.item for check in row.checks} == {None, "clean", "pgd20@Linf:0.1"}
        assert f"{row.name}: checks: {len(row.checks)} passed, no warning." in said
    print_checks(result)
    assert capsys.readouterr().out.count("verified-success: ") == 2
