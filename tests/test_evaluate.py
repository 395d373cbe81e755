"""The evaluation: equal to the reference, independent of workers and interruptions, never optimistic."""

from __future__ import annotations

import json
import shutil
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from rtk import files
from rtk.attacks import autoattack, pgd
from rtk.backbones import hash_state
from rtk.data import Split
from rtk.evaluation import Subject, chunks, identities, judge, judge_all, load, order_of, save_network
from rtk.evaluation.scores import changes_between, row_of
from rtk.progress import Silent
from rtk.seeds import derive
from rtk.suite import Item, Suite
from rtk.threat import Threat

EPS = Threat("Linf", 0.1)
CLEAN, PGD = Item("clean"), Item("pgd20", EPS)


@pytest.fixture
def subject(source, tmp_path: Path) -> Subject:
    save_network(tmp_path / "net", source, source.model)
    return Subject(
        directory=tmp_path / "net",
        weights=hash_state(source.model.native_state()),
        dataset="fashion",
        root=None,
        image_size=None,
        suite=Suite(("clean", "pgd20"), (EPS,), images=48, chunk_size=16),
        device="cpu",
        verdicts=tmp_path / "verdicts",
    )


@pytest.mark.slow
def test_autoattack_equals_the_reference_on_every_image(source, images) -> None:
    """Same network, seed and batch: the four attacks give the reference's adversarial images bit for bit.

    Slow because both sides make every iteration and query; tests/test_attacks_oracle.py has the same with few.
    """
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    model, seed = source.model, 7
    x, y = images[0][:8], images[1][:8]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    shared = {"eps": EPS.eps, "norm": "Linf", "seed": seed, "device": "cpu", "verbose": False}
    fab = FABAttack_PT(model, n_restarts=1, n_iter=100, **shared)
    fab.targeted = True
    reference = {
        "apgd-ce": APGDAttack(model, n_restarts=1, n_iter=100, loss="ce", eot_iter=1, rho=0.75, logger=None, **shared),
        "apgd-t": APGDAttack_targeted(model, n_restarts=1, n_iter=100, eot_iter=1, rho=0.75, logger=None, **shared),
        "fab-t": fab,
        "square": SquareAttack(model, p_init=0.8, n_queries=5000, n_restarts=1, resc_schedule=False, **shared),
    }
    for attack in autoattack(EPS, 10):
        with torch.random.fork_rng():
            expected = reference[attack.name].perturb(x.clone(), y.clone())
        assert torch.equal(attack(model, x, y, seed=seed), expected), attack.name


@pytest.mark.slow  # AutoAttack twice; a shorter one is in test_attacks_oracle.py
def test_the_cascade_gives_the_reference_verdicts(source, images) -> None:
    """`judge` against the reference's own sequence on images of which some break."""
    import pyautoattack

    model = source.model
    x, y = images[0][:24], images[1][:24]
    verdicts = judge(model, x, y, autoattack(EPS, 10)[:2], seed=0).verdicts
    reference = pyautoattack.AutoAttack(
        model, version="custom", attacks=["apgd-ce", "apgd-t"], eps=EPS.eps, norm="Linf", device="cpu"
    )
    reference.apgd.n_restarts = 1
    seeds = iter([derive(0, "apgd-ce"), derive(0, "apgd-t")])
    reference.get_seed = lambda: next(seeds)  # asked once per attack
    with torch.random.fork_rng():
        adversarial, _ = reference.run_standard_evaluation(x, y, batch_size=24)
    with torch.no_grad():
        expected = model(adversarial).argmax(1) == y
    assert verdicts["apgd-t"] == expected.tolist()
    assert 0 < sum(verdicts["apgd-t"]) < sum(verdicts["clean"]), "the test needs images that break and that do not"


def test_B10_robust_is_never_above_clean_and_attacks_only_take_away(source, images) -> None:
    found = judge(source.model, *images, (*autoattack(EPS, 10)[:1], pgd(EPS, steps=20)), seed=0)
    rows = list(found.verdicts.values())
    for before, after in pairwise(rows):
        assert all(old or not new for old, new in zip(before, after, strict=True))


def test_nan_logits_are_broken_never_robust() -> None:
    class Nan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(48, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.flatten(1)) * torch.nan

    verdicts = judge(Nan(), torch.rand(5, 3, 4, 4), torch.zeros(5, dtype=torch.long), (), seed=0).verdicts
    assert verdicts["clean"] == [False] * 5


def test_the_test_order_is_a_class_balanced_permutation() -> None:
    labels = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)
    order = order_of(labels, 3)
    assert sorted(order.tolist()) == list(range(60))
    assert labels[order[:30]].bincount().tolist() == [10, 10, 10]
    assert torch.equal(order, order_of(labels, 3)) and not torch.equal(order, order_of(labels, 4))


def test_workers_batches_and_interruptions_change_no_verdict(subject: Subject, tmp_path: Path, monkeypatch) -> None:
    alone = judge_all([subject], Silent(), workers=1)
    for workers, batch in ((2, 5), (1, 3)):
        other = replace(subject, verdicts=tmp_path / f"{workers} {batch}", batch_size=batch)
        assert judge_all([other], Silent(), workers=workers) == alone

    broken = replace(subject, verdicts=tmp_path / "broken")
    calls = []

    def interrupt(*job: object) -> None:
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*job)

    original = chunks.judge_chunk
    monkeypatch.setattr(chunks, "judge_chunk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        judge_all([broken], Silent(), workers=1)
    kept = {path: path.read_bytes() for path in broken.verdicts.glob("*/*.json")}
    assert len(kept) == 2
    assert judge_all([broken], Silent(), workers=1) == alone
    assert all(path.read_bytes() == before for path, before in kept.items()), "finished chunks are not computed again"


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "batch"), [(2, None), (4, 5)])
def test_more_workers_change_no_verdict(subject: Subject, tmp_path: Path, workers: int, batch: int | None) -> None:
    """Slow because every worker begins by importing torch."""
    alone = judge_all([subject], Silent(), workers=1)
    other = replace(subject, verdicts=tmp_path / "other", batch_size=batch)
    assert judge_all([other], Silent(), workers=workers) == alone


@pytest.mark.parametrize("steps", [10, 20, 100])
def test_pgd_takes_the_steps_of_its_name_and_a_quarter_of_the_radius(subject: Subject, steps: int) -> None:
    suite = Suite(("clean", f"pgd{steps}"), (EPS,), images=16, chunk_size=16)
    one = replace(subject, suite=suite)
    (found,) = judge_all([one], Silent(), workers=1)
    row = row_of("it", one, found)
    score = row.scores[f"pgd{steps}@Linf:0.1"]
    assert score.label == f"PGD-{steps}, Linf 0.1"
    kept = found[suite.items[1]]
    model, x, y = load(one).model, load(one).test.images(kept.indices), torch.tensor(kept.labels)
    again = judge(model, x, y, (pgd(EPS, steps=steps, step_size=0.025),), seed=0).verdicts[f"pgd{steps}"]
    # another random start can save or cost an image on the boundary
    assert sum(a != b for a, b in zip(again, kept.verdicts[f"pgd{steps}"], strict=True)) <= 2
    (attack,) = identities(one)[suite.items[1]]["attacks"]
    assert (attack["steps"], attack["step_size"], attack["random_start"]) == (steps, 0.025, True)


def test_the_identity_holds_whatever_can_change_a_verdict(subject: Subject) -> None:
    first = {item.name: found["id"] for item, found in identities(subject).items()}
    assert first["clean"] != first["pgd20"]
    suite = subject.suite
    for other in (
        replace(subject, suite=replace(suite, threats=(Threat("Linf", 0.2),))),
        replace(subject, weights="0"),
        replace(subject, suite=replace(suite, chunk_size=8)),
        replace(subject, suite=replace(suite, seed=1)),
        replace(subject, suite=replace(suite, images=32)),
    ):
        assert {item.name: found["id"] for item, found in identities(other).items()}["pgd20"] != first["pgd20"]
    assert identities(replace(subject, verdicts=Path("elsewhere"), batch_size=3)) == identities(subject)


def test_equal_weights_in_another_network_have_another_identity(subject: Subject, tmp_path: Path) -> None:
    """Normalisation is no weight: a network with another mean answers otherwise, and may not share verdicts."""
    other = replace(subject, directory=tmp_path / "other", verdicts=tmp_path / "verdicts")
    shutil.copytree(subject.directory, other.directory)
    record = json.loads((other.directory / "backbone.json").read_text())
    assert load(other).network == load(subject).network, "where it lies makes no difference"
    record["spec"]["mean"] = [0.9]
    changed = replace(other, directory=tmp_path / "changed")
    shutil.copytree(other.directory, changed.directory)
    (changed.directory / "backbone.json").write_text(json.dumps(record))
    one, another = identities(subject)[CLEAN], identities(changed)[CLEAN]
    assert one["weights"] == another["weights"] and one["id"] != another["id"]
    assert {name for name in one if one[name] != another[name]} == {"network", "id"}
    rows = [row_of("it", each, judge_all([each], Silent(), workers=1)[0]) for each in (other, changed)]
    assert rows[0].scores["clean"].verdicts != rows[1].scores["clean"].verdicts
    assert changes_between(*rows), "they are compared nevertheless"


def test_every_image_has_exactly_one_verdict_and_the_last_chunk_is_not_dropped(subject: Subject) -> None:
    odd = replace(subject, suite=replace(subject.suite, images=41))
    (found,) = judge_all([odd], Silent(), workers=1)
    assert set(found) == {CLEAN, PGD}
    for one in found.values():
        assert len(one.indices) == len(set(one.indices)) == 41 == len(one.labels) == len(one.verdicts["clean"])


def test_there_are_never_more_images_than_those_of_one_chunk(subject: Subject, monkeypatch) -> None:
    read, alive = Split.images, []

    def watched(split: Split, indices) -> torch.Tensor:
        images = read(split, indices)
        alive.append((len(images), weakref.ref(images)))
        return images

    monkeypatch.setattr(Split, "images", watched)
    suite = replace(subject.suite, names=("clean",), images=320, chunk_size=64)  # as many as the checks look at
    judge_all([replace(subject, suite=suite)], Silent(), workers=1)
    counts = [count for count, _ in alive]
    assert max(counts) == 64 and sum(counts) >= 320
    assert sum(images() is not None for _, images in alive) <= 1


def test_a_chunk_is_a_function_of_its_number_alone(subject: Subject) -> None:
    (found,) = judge_all([subject], Silent(), workers=1)
    (path,) = [p for p in subject.verdicts.rglob("00002.json") if "pgd20" in str(p)]
    chunk = files.read_json(path)
    loaded = load(subject)
    indices = loaded.order[32:48]
    images, labels = loaded.test.images(indices), loaded.test.labels[indices]
    again = judge(loaded.model, images, labels, (pgd(EPS, steps=20),), derive(0, "chunk", 2)).verdicts
    assert chunk["verdicts"]["pgd20"] == again["pgd20"] == found[PGD].verdicts["pgd20"][32:48]
