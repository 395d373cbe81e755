"""Accuracy under common corruptions as an item of the suite: made here, or read as published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from rtk import results
from rtk.corruptions import FAMILIES, NAMES, SEVERITIES, corrupt
from rtk.data import open_dataset
from rtk.errors import BadData, BadValue
from rtk.evaluation import Subject, build, changes_between, evaluate, identities, judge_all, load, row_of
from rtk.host import finetune
from rtk.progress import Silent
from rtk.seeds import derive
from rtk.suite import CorruptedImages, Item, Suite

from .test_cli import Command, command  # noqa: F401 - a fixture
from .test_evaluate import subject  # noqa: F401 - a fixture
from .test_finetune import Nudge, request

pytest.importorskip("imagecorruptions", reason="part of the extra 'corruptions'")
ITEM = Item("corruptions")
CELLS = [(name, severity) for name in NAMES for severity in SEVERITIES]


@pytest.fixture
def made(subject: Subject) -> Subject:  # noqa: F811
    return replace(subject, suite=Suite(("corruptions",), (), corruption_images=40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three corruptions of the test images; a row says its severity."""
    place, test = tmp_path_factory.mktemp("fashion-c"), open_dataset("fashion").split("test")
    pixels = (test.images(slice(None)) * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.save(place / "labels.npy", test.labels.numpy())
    for name, change in (("fog", 25), ("snow", 5), ("contrast", 0)):
        np.save(place / f"{name}.npy", np.concatenate([np.maximum(pixels, change * s) for s in SEVERITIES]))
    return place


def test_an_image_is_the_unit_and_the_mean_is_over_all_cells(made: Subject) -> None:
    (verdicts,) = judge_all([made], Silent(), workers=1)
    row = row_of("net", made, verdicts)
    score = row.scores["corruptions"]
    assert (score.n, score.copies, score.label) == (40, 75, "corruptions, mean of 15 x 5")
    found = score.corrupted
    assert found is not None and found.mce is None and found.missing == []
    cells = [value for name in NAMES for value in found.cells[name]]
    assert score.accuracy == pytest.approx(fmean(cells)) == pytest.approx(score.correct / (40 * 75))
    assert fmean(found.severities) == pytest.approx(score.accuracy) == pytest.approx(fmean(found.corruptions.values()))
    for family, names in FAMILIES.items():
        assert found.families[family] == pytest.approx(fmean(found.corruptions[name] for name in names))
    assert score.high - score.low > 0.1, "3000 verdicts on 40 images are not 3000 independent ones"
    assert sum(score.class_n) == 40 and sum(score.class_correct) == score.correct
    change = changes_between(row, row)["corruptions"]
    assert change.n == 40 and change.value == 0 and change.low < 0 < change.high


def test_the_second_chunk_is_what_the_corruptions_make_of_its_images(made: Subject) -> None:
    (verdicts,) = judge_all([made], Silent(), workers=1)
    loaded = load(made)
    indices = loaded.order[32:40]
    images, labels = loaded.test.images(indices), loaded.test.labels[indices]
    for name, severity in (("snow", 5), ("frost", 1)):
        seen = corrupt(images, name, severity, seed=derive(0, "chunk", 1), indices=indices)
        with torch.no_grad():
            right = loaded.model(seen).argmax(1) == labels
        assert verdicts[ITEM].verdicts[f"{name} {severity}"][32:] == right.tolist()
    again = judge_all([replace(made, verdicts=made.verdicts / "again", batch_size=5)], Silent(), workers=2)
    assert again[0][ITEM].verdicts == verdicts[ITEM].verdicts


def test_a_folder_is_read_at_the_images_that_are_judged(
    subject: Subject,  # noqa: F811
    folder: Path,
) -> None:
    suite = Suite(("clean", "corruptions"), (), corruption_images=48, images=48, corrupted=CorruptedImages.at(folder))
    other = replace(subject, suite=suite)
    (verdicts,) = judge_all([other], Silent(), workers=1)
    found = verdicts[other.suite.items[1]].verdicts
    assert list(found) == [f"{name} {severity}" for name in ("snow", "fog", "contrast") for severity in SEVERITIES]
    assert found["contrast 1"] == verdicts[Item("clean")].verdicts["clean"], "contrast is the images as they are"
    assert sum(found["fog 5"]) < sum(found["fog 1"])
    score = row_of("net", other, verdicts).scores["corruptions"]
    assert score.copies == 15 and score.corrupted is not None and len(score.corrupted.missing) == 12
    assert score.corrupted.origin == f"read from {folder}"


def test_the_identity_holds_what_decides_the_corruptions(made: Subject, folder: Path, tmp_path: Path) -> None:
    def identity(suite: Suite) -> str:
        other = replace(made, suite=suite)
        return str(identities(other)[other.suite.items[0]]["id"])

    read = replace(made.suite, corrupted=CorruptedImages.at(folder))
    for name in ("fog", "labels"):
        np.save(tmp_path / f"{name}.npy", np.load(folder / f"{name}.npy"))
    fewer = replace(made.suite, corrupted=CorruptedImages.at(tmp_path))
    suites = [made.suite, read, fewer, replace(made.suite, seed=1), replace(made.suite, corruption_images=8)]
    assert len({identity(suite) for suite in suites}) == len(suites)
    moved = replace(read, corrupted=replace(read.corrupted, path=folder / ".." / folder.name))
    assert identity(read) == identity(moved) and identity(replace(made.suite, chunk_size=7)) == identity(made.suite)
    found = identities(made)[ITEM]
    assert found["scale"] == "cifar" and found["severities"] == [1, 2, 3, 4, 5] and found["seed"] == 0


def spoil_labels(place: Path) -> None:
    np.save(place / "labels.npy", np.load(place / "labels.npy")[::-1])


def spoil_size(place: Path) -> None:
    np.save(place / "fog.npy", np.load(place / "fog.npy")[:, :30])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(spoil_labels, "labels are not those of the 2500 test images"), (spoil_size, "30x32 pixels for fashion of 32x32")],
)
def test_a_folder_of_other_images_is_refused_before_anything_is_written(
    spoil: Callable[[Path], None], said: str, folder: Path, tmp_path: Path
) -> None:
    for name in ("fog", "labels"):
        np.save(tmp_path / f"{name}.npy", np.load(folder / f"{name}.npy"))
    spoil(tmp_path)
    with pytest.raises(BadData, match=said):
        evaluate(asked("corruptions", tmp_path / "e", corrupted=tmp_path))
    assert not (tmp_path / "e").exists()


def asked(suite: str, out: Path, **more: object):
    flags = {"suite": suite, "out": out, "workers": 1, "device": "cpu", "corruption_images": "8", "images": "8"}
    return build("rtk:fashion-resnet", {**flags, **more})


def test_mce_is_relative_to_an_evaluation_of_the_same_images(tmp_path: Path, command: Command) -> None:  # noqa: F811
    evaluate(asked("corruptions", tmp_path / "base"))
    found = evaluate(asked("clean,corruptions", tmp_path / "e", baseline=tmp_path / "base"))
    details = found.row.scores["corruptions"].corrupted
    assert details is not None and details.mce == pytest.approx(1) and details.baseline == "rtk:fashion-resnet"
    shown = command("show", str(tmp_path / "e")).out
    assert "mCE, rtk:fashion-resnet = 100" in shown and " jpeg_compression " in shown
    assert "corruptions, mean of 15 x 5" in shown and "intervals are over images, not over their corrupted" in shown
    with pytest.raises(BadValue, match=r"its corruptions differ from those asked for \(n\)"):
        evaluate(asked("corruptions", tmp_path / "other", baseline=tmp_path / "base", corruption_images="7"))
    assert not (tmp_path / "other").exists()
    record = json.loads((tmp_path / "base" / "evaluation.json").read_text())
    record["row"]["scores"]["corruptions"]["corrupted"]["cells"]["fog"] = [1.0] * 5
    (tmp_path / "base" / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(BadValue, match="makes no errors under fog"):
        evaluate(asked("corruptions", tmp_path / "other", baseline=tmp_path / "base"))
    assert results.read_evaluation(tmp_path / "e" / "evaluation.json") == found


def test_a_run_brings_its_folder_where_the_suite_wants_it(folder: Path, tmp_path: Path) -> None:
    options = {"suite": ("clean", "corruptions"), "corrupted": folder, "corruption_images": 8, "images": 8}
    result = finetune(request(Nudge, tmp_path / "run", **options))
    assert result.changes["corruptions"].n == 8
    again = build(str(tmp_path / "run"), {"out": tmp_path / "again", "workers": 1, "device": "cpu"})
    assert evaluate(again).row.scores["corruptions"] == result.rows[1].scores["corruptions"]
    assert build(str(tmp_path / "run"), {"suite": "clean"}).options.corrupted is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--corrupted x", "--corrupted: the suite holds no corruptions."),
        ("--suite corruptions --corrupted x", "--corrupted x: no such folder."),
        ("--suite corruptions --corrupted empty", "empty: holds no corrupted images"),
        ("--suite corruptions --corruption-images 0", "--corruption-images: needs a whole number >= 1"),
        ("--suite corruptions --baseline empty", "--baseline empty: holds no evaluation.json."),
        ("--suite clean --baseline e", "--baseline: the suite holds no corruptions."),
    ],
)
def test_a_wrong_request_is_one_line(typed: str, said: str, command: Command) -> None:  # noqa: F811
    Path("empty").mkdir()
    Path("e").mkdir()
    Path("e/evaluation.json").write_text("{}")
    done = command("evaluate", "rtk:fashion-resnet", "--out", "out", *typed.split())
    assert done.code == 2 and said in done.line and not Path("out").exists()
