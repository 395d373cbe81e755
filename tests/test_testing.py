"""The conformance kit finds what is bad, names it, and finds nothing in what is good."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rtk.errors import BadValue, PluginError, UnknownName
from rtk.registry import Registry
from rtk.strategy import Strategy
from rtk.testing import NotConforming, Report, Row, Suite, check, conformance, find_strategy
from rtk.testing.checks import CHECKS, name_of, sentence_of
from rtk.testing.suite import NAMES

from . import bad_strategies as bad
from .bad_strategies import CutsTheSplit, Good, GoodLoop, Seeds, SummaryWithoutStop

QUICK = ("full", "twins")
SPOILED = """
import rtk
from {module} import {name}
from tests.bad_strategies import Good
class Spoiled(Good):
    name = "spoiled"
"""


@dataclass(frozen=True)
class Bad:
    """A bad strategy, the check that finds it, what that says, and how the suite is called."""

    check: str
    strategy: type[Strategy]
    said: str
    suite: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.check}-{self.strategy.__name__}"


BAD = [
    Bad("loads-as-a-plugin", bad.NameWithSpace, ".name must be text in lower case"),
    Bad("says-what-it-is", bad.SummaryWithoutStop, ".summary must be one sentence"),
    Bad("options-are-documented", bad.Undocumented, "Option --strength has no origin"),
    Bad("options-are-bounded", bad.Unbounded, "Option --strength takes any number"),
    Bad("options-resolve-from-text", bad.Untypable, "--parts head,body means ('head', 'body')"),
    Bad("runs-to-the-end", bad.Crashes, "raised LookupError: no such layer"),
    Bad("runs-to-the-end", bad.Hangs, "takes more than 2 s", {"seconds": 2}),
    Bad("works-in-another-process", bad.DependsOnHash, "ends with other weights"),
    Bad("works-in-another-process", bad.local_strategy(), "define it at module level"),
    Bad("opens-no-data-set", bad.ReadsTestData, "use run.train and run.val"),
    Bad("writes-into-its-run-directory-only", bad.WritesElsewhere, "was written or removed"),
    Bad("opens-no-connection", bad.Connects, "A connection to 127.0.0.1"),
    Bad("prints-nothing", bad.Prints, "'epoch 1: done\\n' was printed"),
    Bad("keeps-the-architecture", bad.Wraps, "The returned network adds '0.net.bn1.bias'"),
    Bad("stays-in-float32", bad.ReturnsHalf, "came back as torch.float16"),
    Bad("gives-finite-logits", bad.Explodes, "NaN or infinite"),
    Bad("is-what-its-weights-say", bad.Filters, "gives other logits than its weights"),
    Bad("never-returns-nan", bad.IgnoresNan, "The loss was NaN"),
    Bad("moves-only-what-it-declares", bad.MovesStatistics, "in spite of run.fit(statistics='keep')"),
    Bad("moves-only-what-it-declares", bad.MovesWeights, "'conv1.weight' moved"),
    Bad("same-seed-gives-the-same-weights", bad.DrawsFromTheSystem, "ends with another 'net.fc.bias'"),
    Bad("global-seed-does-not-matter", bad.DrawsFromTheGlobalState, "depends on the global random state"),
    Bad("state-on-entry-does-not-matter", bad.TrainsWhatComesInTrainable, "without requires_grad"),
    Bad("state-on-entry-does-not-matter", bad.TrainsInTheModeThatComesIn, "depends on mode or requires_grad"),
    Bad("lets-interruptions-through", bad.SwallowsInterruptions, "was swallowed"),
    Bad("lets-interruptions-through", bad.TurnsInterruptions, "turned into RuntimeError"),
    Bad("resumes-with-the-same-bits", bad.CountsAcrossSteps, "After an interruption at 40% of the run"),
    Bad("gives-images-in-range", bad.Normalises, "must lie in [0, 1]"),
    Bad("leaves-random-state-alone", bad.Seeds, "random state of torch moved"),
    Bad("leaves-torch-settings-alone", bad.SetsPrecision, "torch.set_float32_matmul_precision was changed"),
    Bad("keeps-the-source", bad.WritesOverTheSource, "'net.fc.bias' of run.source was changed"),
    Bad("keeps-the-source", bad.LeavesTheSourceTraining, "left in training mode"),
    Bad("keeps-the-data", bad.ChangesLabels, "The labels of run.train were changed"),
    Bad("keeps-the-run", bad.SetsTheThreat, "run.threat was set"),
    Bad("keeps-the-run", bad.CutsTheSplit, "run.train was set"),
    Bad("takes-batch-norm", bad.NeedsNoBatchNorm, "raised ValueError: BatchNorm", {"norms": ("layer", "batch")}),
    Bad("takes-layer-norm", bad.NeedsNoLayerNorm, "raised ValueError: LayerNorm"),
    Bad("takes-group-norm", bad.NeedsNoGroupNorm, "raised ValueError: GroupNorm"),
    Bad("takes-any-number-of-classes", bad.NeedsThreeClasses, "on 2 classes"),
    Bad("takes-oblong-images", bad.NeedsSquares, "on images of 16 x 24 pixels"),
    Bad("takes-an-image-left-over", bad.NeedsPairs, "on 17 training images"),
    Bad("takes-either-norm-of-threat", bad.NeedsLinf, "on a threat in L2"),
    Bad("takes-zero-epochs", bad.DividesByEpochs, "on zero epochs"),
    Bad("refuses-honestly", bad.RefusesCurtly, "say in a sentence"),
    Bad("refuses-honestly", bad.RefusesWithoutAWayOut, "has no hint"),
    Bad("refuses-honestly", bad.RefusesLate, "came after training had begun"),
]


def verdicts(report: Report) -> dict[str, str]:
    return {row.name: row.sentence for row in report.failures}


@pytest.mark.parametrize("strategy", [Good, pytest.param(GoodLoop, marks=pytest.mark.slow)])
def test_a_good_strategy_passes(strategy: type[Good]) -> None:
    """The second is slow for being the same again without `run.fit`."""
    report = check(strategy)
    report.raise_for_failures()
    assert [row.name for row in report.rows] == list(NAMES)
    assert {row.name for row in report.rows if row.verdict == "skipped"} <= {
        "refuses-honestly",
        "moves-only-what-it-declares",
    }


class Idle(Good):
    """README's smallest strategy."""

    def finetune(self, model, run):
        return model


@pytest.mark.parametrize("strategy, verdict", [(Idle, "skipped"), (Good, "passed")])
def test_interruptions_fall_into_the_run(strategy: type[Good], verdict: str) -> None:
    suite = Suite(strategy)
    for name in ("lets-interruptions-through", "resumes-with-the-same-bits"):
        assert suite.row(name).verdict == verdict


@pytest.mark.parametrize("case", BAD, ids=str)
def test_each_check_finds_what_it_is_named_for(case: Bad) -> None:
    row = Suite(case.strategy, **case.suite).row(case.check)
    assert row.verdict == "failed"
    assert case.said in row.sentence and row.sentence.endswith(".") and "\n" not in row.sentence


@pytest.mark.parametrize(
    ("module", "name"), [("rtk.evaluation", "Subject"), ("rtk.data", "open_dataset"), ("rtk", "registry")]
)
def test_imports_of_what_is_not_public_are_found(module: str, name: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "spoiled_imports.py").write_text(SPOILED.format(module=module, name=name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "spoiled_imports", raising=False)  # type: ignore[attr-defined]
    row = Suite("spoiled_imports:Spoiled").row("imports-public-names-only")
    assert row.verdict == "failed" and f"imports {module}.{name}; use `import rtk`" in row.sentence


def test_every_check_has_a_bad_strategy_and_a_sentence() -> None:
    assert {case.check for case in BAD} | {"imports-public-names-only"} == set(NAMES)
    for each in CHECKS:
        assert sentence_of(each).endswith("."), name_of(each)
    assert len(set(NAMES)) == len(NAMES) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD, ids=str)
def test_no_other_check_fails(case: Bad) -> None:
    """Every check on every bad strategy; slow for their number."""
    assert set(verdicts(check(case.strategy, **case.suite))) == {case.check}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in Registry().names()]
)
def test_every_built_in_strategy_conforms(name: str) -> None:
    """All but two are slow for their number."""
    assert verdicts(check(name)) == {}


def test_an_expected_failure_is_strict() -> None:
    suite = Suite(SummaryWithoutStop, expected_failures={"says-what-it-is": "a draft", "loads-as-a-plugin": "too"})
    assert suite.row("says-what-it-is") == Row("says-what-it-is", "expected", "a draft")
    row = suite.row("loads-as-a-plugin")
    assert row.verdict == "failed" and "remove it from expected_failures" in row.sentence


def test_pytest_is_told_each_verdict() -> None:
    with pytest.raises(pytest.fail.Exception, match="must be one sentence"):
        conformance(SummaryWithoutStop)("says-what-it-is")
    with pytest.raises(pytest.xfail.Exception, match="a draft"):
        conformance(SummaryWithoutStop, expected_failures={"says-what-it-is": "a draft"})("says-what-it-is")
    with pytest.raises(pytest.skip.Exception, match="leaves this one out"):
        conformance(Good, norms=("batch",))("takes-layer-norm")
    conformance(Good)("says-what-it-is")


def test_a_report_raises_for_its_failures_alone() -> None:
    Report("x", (Row("a", "passed"), Row("b", "expected", "why"), Row("c", "skipped", "why"))).raise_for_failures()
    with pytest.raises(NotConforming, match=r"x fails 1 of 2 checks\. b: Mend it\."):
        Report("x", (Row("a", "passed"), Row("b", "failed", "Mend it."))).raise_for_failures()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"expected_failures": {"keeps-the-sauce": ""}}, "check 'keeps-the-sauce'. Did you mean 'keeps-the-source'"),
        ({"options": {"epoch": 1}}, "option 'epoch'. Did you mean 'epochs'"),
        ({"norms": ("bach",)}, "norm 'bach'. Did you mean 'batch'"),
    ],
)
def test_unknown_names_are_refused(given: dict, kind: str) -> None:
    with pytest.raises(UnknownName, match=kind):
        Suite(Good, **given)


def test_a_strategy_is_found_by_name_or_by_its_place() -> None:
    assert find_strategy("rift").name == "rift"
    assert find_strategy("tests.bad_strategies:Good") is Good
    with pytest.raises(UnknownName):
        find_strategy("no-such")
    with pytest.raises(BadValue, match="leads to no subclass"):
        find_strategy("tests.bad_strategies:shift_head")
    with pytest.raises(PluginError, match="no_such_module"):
        find_strategy("no_such_module:Class")


def test_the_caller_finds_everything_as_it_was() -> None:
    """Also after strategies that change it."""
    before = torch.get_rng_state(), torch.get_float32_matmul_precision()
    assert Suite(Seeds).row("leaves-random-state-alone").verdict == "failed"
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.get_float32_matmul_precision() == before[1]


def test_options_of_the_author_reach_the_strategy() -> None:
    suite = Suite(Good, options={"epochs": 3})
    assert suite.trial.base.run.directory.joinpath("log.jsonl").read_text().count('"epoch"') >= 3


def test_the_data_of_a_cut_split_are_not_judged() -> None:
    assert Suite(CutsTheSplit).row("keeps-the-data").verdict == "skipped"
