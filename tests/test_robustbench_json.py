"""RobustBench's JSON: what is written of an evaluation, what is read as a reference, and what is refused."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtk.backbones.zoo import import_robustbench
from rtk.checks import Check
from rtk.errors import BadData
from rtk.report.robustbench import (
    ModelInfo,
    Reference,
    check_comparable,
    model_info,
    read_model_info,
    write_model_info,
)
from rtk.threat import Threat

from .test_cli import Command, command  # noqa: F401 - a fixture
from .test_report import evaluation

AA = "autoattack@Linf:8/255"
PLAIN = {
    "link": "https://arxiv.org/abs/2210.15318",
    "name": "Efficient and Effective Augmentation Strategy for Adversarial Training",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "NeurIPS 2022",
    "architecture": "ResNet-18",
    "eps": "8/255",
    "clean_acc": "85.71",
    "reported": "52.50",
    "autoattack_acc": "52.48",
    "unreliable": False,
}
"""One of RobustBench's files, and below the fields that some have more."""
DOUBTED = {
    **PLAIN,
    "autoattack_acc": "71.28",
    "external": "64.20",
    "unreliable": True,
    "footnote": "64.20 by transfer.",
}


# written


counts = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
threats = st.one_of(
    st.builds(Threat, st.just("Linf"), st.integers(0, 255).map(lambda k: k / 255)),
    st.builds(Threat, st.just("L2"), st.floats(0, 10)),
)


@settings(deadline=None)  # scipy is imported in the first call
@given(counts, counts, threats)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, clean: tuple[int, int], robust: tuple[int, int], threat: Threat
) -> None:
    path = tmp_path_factory.getbasetemp() / threat.norm / "a.json"
    info = model_info(evaluation({"clean": clean, f"autoattack@{threat}": robust}))
    write_model_info(path, info)
    (found,) = read_model_info(path)
    assert found == Reference(info, threat.norm)
    assert Threat.parse(f"{found.norm}:{found.info.eps}") == threat
    for text, (correct, n) in ((found.info.clean_acc, clean), (found.info.autoattack_acc, robust)):
        assert text is not None and len(text.partition(".")[2]) == 2
        assert abs(float(text) - 100 * correct / n) <= 0.005 + 1e-9


def test_the_values_are_written_as_robustbench_writes_them(tmp_path: Path) -> None:
    write_model_info(tmp_path / "a.json", model_info(evaluation({"clean": (8571, 10_000), AA: (5248, 10_000)})))
    found = json.loads((tmp_path / "a.json").read_text())
    same = ("dataset", "eps", "clean_acc", "autoattack_acc", "number_forward_passes", "unreliable")
    assert {key: found[key] for key in same} == {key: PLAIN[key] for key in same}
    unknown = {key for key, value in found.items() if value is None}
    assert unknown == {"link", "authors", "additional_data", "venue", "reported"}, "what the authors know alone"
    assert "10000 of 10000 test images (95 % interval 51.50 to 53.46)" in found["footnote"]


def test_the_fields_are_those_of_robustbenchs_own_class(tmp_path: Path) -> None:
    import_robustbench()
    theirs = {field.name for field in fields(importlib.import_module("robustbench.utils").ModelInfo)}
    write_model_info(tmp_path / "a.json", model_info(evaluation({"clean": (9, 10), AA: (5, 10)})))
    ours = set(json.loads((tmp_path / "a.json").read_text()))
    # its files say `unreliable` and its leaderboard shows it, but the class has no such field
    assert ours - theirs == {"unreliable"}
    assert {name for name in theirs - ours if not name.startswith("corruptions_")} == set()


def test_a_sample_and_a_warning_stand_in_the_footnote() -> None:
    found = evaluation({"clean": (9, 10), AA: (5, 8)})
    assert "on 8 of 10000 test images (95 % interval 30.57 to 86.32)" in str(model_info(found).footnote)
    assert "clean on 10 of 10000 test images" in str(model_info(found).footnote)
    assert model_info(found).unreliable is False
    warned = found.row.model_copy(update={"checks": [Check(name="a", verdict="warning", text="Gradients vanish.")]})
    info = model_info(found.model_copy(update={"row": warned}))
    assert info.unreliable and str(info.footnote).endswith("Gradients vanish.")


@pytest.mark.parametrize(
    ("scores", "held"),
    [
        ({"clean": (9, 10), "pgd20@Linf:8/255": (5, 10)}, "clean, PGD-20, Linf 8/255"),
        ({AA: (5, 10)}, "AutoAttack standard, Linf 8/255"),
        ({"clean": (9, 10), AA: (5, 10), "autoattack@L2:0.5": (5, 10)}, "L2 0.5"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(scores: dict[str, tuple[int, int]], held: str) -> None:
    with pytest.raises(BadData, match="needs clean and one AutoAttack standard") as raised:
        model_info(evaluation(scores))
    assert held in raised.value.message


def test_an_attack_by_another_name_is_not_autoattack() -> None:
    found = evaluation({"clean": (9, 10), AA: (5, 10)})
    weaker = found.row.scores[AA].model_copy(update={"label": "APGD-CE + APGD-T (CE) + FAB-T + Square, Linf 8/255"})
    row = found.row.model_copy(update={"scores": {**found.row.scores, AA: weaker}})
    with pytest.raises(BadData, match=r"no field for .*FAB-T.*needs 4 classes"):
        model_info(found.model_copy(update={"row": row}))


# read


def test_a_file_of_robustbench_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model_info" / "cifar10" / "Linf" / "A.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(DOUBTED))
    (found,) = read_model_info(path)
    assert found.threat == "Linf 8/255" and found.info.external == "64.20" and found.info.unreliable
    assert found.info.architecture == "ResNet-18" and found.info.authors is None


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(DOUBTED)), st.none()), st.dictionaries(st.text(), st.text()))
def test_missing_and_unknown_fields_do_no_harm(absent: dict[str, None], unknown: dict[str, str]) -> None:
    given = {key: value for key, value in {**unknown, **DOUBTED}.items() if key not in absent}
    (found,) = read_model_info(given)
    assert found == read_model_info({**given, **absent})[0], "null says as little as nothing"
    for key, value in given.items():
        if key in ModelInfo.model_fields:
            assert getattr(found.info, key) == value
    check_comparable(found, evaluation({"clean": (9, 10), AA: (5, 10)}))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)


@settings(deadline=None)
@given(anything | st.dictionaries(st.sampled_from(sorted(DOUBTED)), anything))
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        found = read_model_info(value)
    except BadData as problem:
        assert "\n" not in problem.message.replace(str(value), "")
        return
    for one in found:
        for text in (one.info.clean_acc, one.info.autoattack_acc, one.info.external, one.info.reported):
            assert text is None or 0 <= float(text) <= 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"clean_acc": "85.71"', "not JSON"),
        ("", "not JSON"),
        ("[1]", "a JSON object is needed"),
        ('"85.71"', "a JSON object is needed"),
        ('{"clean_acc": "good"}', "clean_acc: needs a number from 0 to 100, got 'good'."),
        ('{"clean_acc": NaN}', "clean_acc: needs a number from 0 to 100"),
        ('{"autoattack_acc": "101"}', "autoattack_acc: needs a number from 0 to 100, got '101'."),
        ('{"eps": "eight"}', "eps: needs a radius such as 8/255 or 0.5, got 'eight'."),
        ('{"authors": ["A", "B"]}', "authors: "),
    ],
)
def test_a_malformed_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadData) as raised:
        read_model_info(tmp_path / "a.json")
    assert said in raised.value.message and str(tmp_path / "a.json") in raised.value.message


# compared


@pytest.mark.parametrize(
    ("changes", "norm", "said"),
    [
        ({"dataset": "imagenet"}, "Linf", ("imagenet", "cifar10")),
        ({"eps": "4/255"}, "Linf", ("Linf 4/255", "Linf 8/255")),
        ({"eps": "0.031"}, "Linf", ("Linf 0.031", "Linf 8/255")),
        ({}, "L2", ("L2 8/255", "Linf 8/255")),
    ],
)
def test_other_data_and_another_threat_are_refused_with_both(
    changes: dict[str, str], norm: str, said: tuple[str, str]
) -> None:
    (reference,) = read_model_info({**PLAIN, **changes})
    with pytest.raises(BadData, match="cannot be compared") as raised:
        check_comparable(Reference(reference.info, norm), evaluation({"clean": (9, 10), AA: (5, 10)}))
    assert all(text in raised.value.message for text in said)


def test_the_same_ball_is_the_same_in_any_spelling() -> None:
    for eps in ("8/255", str(8 / 255), "0.03137255"):
        (reference,) = read_model_info({**PLAIN, "eps": eps})
        check_comparable(reference, evaluation({"clean": (9, 10), AA: (5, 10)}))


def test_an_evaluation_is_written_and_shown_beside_a_reference(command: Command) -> None:  # noqa: F811
    typed = ["evaluate", "rtk:fashion-resnet", "--images", "8", "--autoattack-images", "1", "--workers", "1", "--quiet"]
    typed += ["--suite", "clean,autoattack", "--seed", "1"]  # whose first image is wrong before any attack: quick
    done = command(*typed, "--like", "robustbench", "--out", "e")
    assert (done.code, done.err) == (0, "")
    written = json.loads(Path("e/robustbench.json").read_text())
    assert (written["dataset"], written["eps"]) == ("fashion", "0.1")
    assert "AutoAttack standard, Linf 0.1 on 1 of 2500 test images" in written["footnote"]
    Path("e/robustbench.json").unlink()
    again = command(*typed, "--like", "robustbench", "--out", "e")
    assert again.code == 0 and json.loads(Path("e/robustbench.json").read_text()) == written, "not judged again"
    assert command(*typed, "--out", "e").code == 2
    Path("r.json").write_text(json.dumps({**DOUBTED, "dataset": "fashion", "eps": "0.1"}))
    alone, shown = command("show", "e").out, command("show", "e", "--reference", "r.json").out
    assert shown.startswith(alone) and "As reported in r.json, not measured here" in shown.removeprefix(alone)
    assert all(text in shown for text in ("85.71", "71.28", "64.20", "Footnote: 64.20 by transfer."))
    Path("r.json").write_text(json.dumps(PLAIN))
    refused = command("show", "e", "--reference", "r.json")
    assert refused.code == 2 and "is on cifar10, this result on fashion" in refused.line


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--suite clean,pgd20 --like robustbench", "needs autoattack, the suite is clean,pgd20"),
        ("--threats Linf:0.1,0.2 --like robustbench", "holds one threat, not Linf:0.1, Linf:0.2"),
        ("--like leaderboard", "'leaderboard' is not 'robustbench'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_done(typed: str, said: str, command: Command) -> None:  # noqa: F811
    done = command("evaluate", "rtk:fashion-resnet", *typed.split(), "--out", "e")
    assert done.code == 2 and said in done.line
    assert not Path("e").exists()
