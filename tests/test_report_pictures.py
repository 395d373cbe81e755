"""Pictures of real evaluations: what they are, what they say in words, and what is said where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rtk import results
from rtk.data import open_dataset
from rtk.evaluation import build, evaluate
from rtk.host import finetune
from rtk.report import pictures
from rtk.report.folder import draw
from rtk.report.samples import first_broken
from rtk.results import Row

from .test_cli import Command, command  # noqa: F401 - a fixture
from .test_finetune import Nudge, request
from .test_report import row, score


class Target(Nudge):
    """On new data."""

    name = "target"
    setting = "target"


pytest.importorskip("matplotlib", reason="part of the extra 'plots'")

FAST = {"suite": "clean,pgd20", "images": 40, "workers": 1, "device": "cpu"}
KEY = "pgd20@Linf:0.1"
Evaluate = Callable[..., Path]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that kept its examples; read it, or copy it."""
    out = tmp_path_factory.mktemp("report") / "kept"
    evaluate(build("rtk:fashion-resnet", {**FAST, "threats": "Linf:0.05,0.1", "save_examples": True, "out": out}))
    return out


# the folder


def test_every_picture_is_an_image_with_the_same_in_words(kept: Path, tmp_path: Path, command: Command) -> None:  # noqa: F811
    done = command("plot", str(kept), "--out", "p")
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == ["p/curve.png", "p/classes.png", "p/examples.png"]
    told = Path("p/README.txt").read_text(encoding="utf-8")
    for path in map(Path, done.out.split()):
        with Image.open(path) as image:
            assert image.info["Description"] in told and path.name in told
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[0] >= 400 and pixels.shape[1] >= 800
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, "more than text on a ground"


def test_a_picture_has_the_size_that_it_says(kept: Path, tmp_path: Path) -> None:
    picture = pictures.curve([results.read_any(kept).row])
    picture.write(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == picture.size


def test_pictures_lie_beside_the_result_and_name_its_classes(kept: Path, tmp_path: Path) -> None:
    home = shutil.copytree(kept, tmp_path / "e")
    drawn = {one.name: one for one in draw(home)}
    assert {path.name for path in (home / "pictures").iterdir()} == {*drawn, "README.txt"}
    assert "Ankle boot: clean" in drawn["classes.png"].text
    assert "after PGD-20, Linf 0.1" in drawn["classes.png"].text, "the network's own threat"
    shown = {one.name: one for one in draw(home, item="pgd20@Linf:0.05")}
    assert "after PGD-20, Linf 0.05" in shown["classes.png"].text
    assert "broken by PGD-20, Linf 0.05" in shown["examples.png"].text


def test_every_chart_has_a_file_of_its_own(tmp_path: Path) -> None:
    class Draws(Nudge):
        def finetune(self, model, run):
            for name in ("my chart", "my-chart", "ω", "φ", "?"):
                run.chart(name, kind="line", x=[0, 1], y={"a": [0, 1]}, x_label="x", y_label="y", text=name)
            return super().finetune(model, run)

    finetune(request(Draws, tmp_path, suite=("clean",)))
    drawn = [one.name for one in draw(tmp_path) if one.name.startswith("chart-") and one.path]
    assert drawn == [
        "chart-my-chart.png",
        "chart-my-chart-2.png",
        "chart-ω.png",
        "chart-φ.png",
        "chart-chart.png",
    ]


def test_classes_are_called_what_they_were_called(tmp_path: Path) -> None:
    """The folder may have others by now."""
    for split in ("train", "test"):
        for place, name in enumerate(("ant", "bee", "cow")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(5):
                image = Image.new("RGB", (8, 8), (80 * place, index, 0))
                image.save(tmp_path / "photos" / split / name / f"{index}.png")
    asked = {"dataset": f"folder:{tmp_path / 'photos'}", "image_size": 16, "suite": ("clean", "pgd20")}
    finetune(request(Target, tmp_path / "run", **asked))
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / "photos" / split / "bee")
    text = {one.name: one.text for one in draw(tmp_path / "run")}["classes.png"]
    assert "ant" in text and "bee" in text and "cow" in text


def test_a_run_has_two_networks_and_says_how_to_keep_examples(tmp_path: Path, command: Command) -> None:  # noqa: F811
    finetune(request(Nudge, tmp_path / "run"))
    done = command("plot", "run")
    assert done.code == 0
    assert done.out.splitlines()[:2] == ["run/pictures/curve.png", "run/pictures/classes.png"]
    said = "examples.png: Not drawn: No adversarial images were kept. Try: rtk evaluate run --save-examples"
    assert done.out.splitlines()[2:] == [said]
    told = Path("run/pictures/README.txt").read_text(encoding="utf-8")
    assert "source: eps 0 (clean)" in told and "nudge: eps 0 (clean)" in told and said.partition(": ")[2] in told


def test_without_an_attack_nothing_is_drawn_and_an_earlier_picture_goes(tmp_path: Path) -> None:
    out = tmp_path / "e"
    evaluate(build("rtk:fashion-resnet", {**FAST, "suite": "clean", "images": 8, "out": out}))
    (out / "pictures").mkdir()
    (out / "pictures" / "curve.png").write_bytes(b"of another result")
    assert [one.path for one in draw(out)] == [None, None, None]
    assert [path.name for path in (out / "pictures").iterdir()] == ["README.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "No run directory was named."),
        ("nowhere", "nowhere/result.json: No such file or directory."),
        ("kept --item pgd20@Linf:0.01", "Unknown attack 'pgd20@Linf:0.01'"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(arguments: str, said: str, kept: Path, command: Command) -> None:  # noqa: F811
    Path("kept").symlink_to(kept)
    done = command("plot", *arguments.split())
    assert done.code == 2 and said in done.line
    assert {path.name for path in Path().iterdir()} == {"kept"}


# examples


def test_the_shown_images_are_right_before_and_wrong_after(kept: Path, source) -> None:
    found = results.read_evaluation(kept / "evaluation.json")
    broken = first_broken(kept, found, KEY, None)
    split = open_dataset("fashion").split("test")
    assert 0 < len(set(broken.indices)) == len(broken.labels) <= 8
    assert torch.equal(broken.clean, split.images(torch.tensor(broken.indices)))
    assert broken.labels == split.labels[broken.indices].tolist() == broken.before
    assert (broken.adversarial - broken.clean).abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        assert source.model(broken.adversarial).argmax(1).tolist() == broken.after
    assert all(one != other for one, other in zip(broken.labels, broken.after, strict=True))
    picture = pictures.examples(broken, found.row.scores[KEY], "net")
    assert "amplified 5 times" in picture.text, "0.1 becomes 0.5, half of the range"
    assert "amplified 5 times" in picture.figure.get_suptitle().replace("\n", " ")
    assert picture.text.count("Test image") == len(broken.labels)


def test_an_attack_that_breaks_nothing_has_no_picture(tmp_path: Path) -> None:
    out = tmp_path / "e"
    evaluate(build("rtk:fashion-resnet", {**FAST, "images": 8, "threats": "Linf:0", "save_examples": True, "out": out}))
    (told,) = [one for one in draw(out) if one.name == "examples.png"]
    assert told.path is None and "PGD-20, Linf 0 broke no image of rtk:fashion-resnet" in told.text


def test_damaged_examples_are_not_shown(kept: Path, tmp_path: Path) -> None:
    home = shutil.copytree(kept, tmp_path / "e")
    path = home / "examples" / f"{KEY}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    told = draw(home)[2]
    assert told.path is None and "does not belong to the test images, or is damaged" in told.text
    assert f"rtk verify {path}" in told.text


# results of any kind

EPS = st.lists(st.sampled_from(["2/255", "4/255", "8/255", "0.1", "0.5"]), min_size=1, max_size=3, unique=True)


@st.composite
def networks(draw: st.DrawFn) -> list[Row]:
    """One to three networks with the same items; names may be the same."""
    threats = [f"{norm}:{eps}" for norm in draw(st.sampled_from([["Linf"], ["L2", "Linf"]])) for eps in draw(EPS)]
    keys = ["clean", *(f"pgd20@{threat}" for threat in threats)][draw(st.integers(0, 1)) :]
    n = draw(st.integers(1, 500))
    counts = st.fixed_dictionaries({key: st.tuples(st.integers(0, n), st.just(n)) for key in keys})
    return [row(draw(st.sampled_from(["source", "a" * 40])), draw(counts)) for _ in range(draw(st.integers(1, 3)))]


@settings(max_examples=8, deadline=None)
@given(networks())
def test_the_words_of_a_curve_hold_every_number(rows: list[Row]) -> None:
    picture = pictures.curve(rows)
    assert picture.png().startswith(b"\x89PNG")
    for each in rows:
        for one in each.scores.values():
            low, high = f"{100 * one.low:.1f}", f"{100 * one.high:.1f}"
            assert f"{100 * one.accuracy:.1f} % [{low}, {high}], n = {one.n}" in picture.text
    panels = {(one.threat or ":").split(":")[0] for one in rows[0].scores.values()} - {""}
    assert len(picture.figure.axes) == len(panels)
    for axes in picture.figure.axes:
        drawn = axes.containers
        assert len(drawn) == len(rows) and axes.get_xlabel().startswith("eps (") and axes.get_ylabel() == "accuracy, %"


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 60), st.randoms(use_true_random=False))
def test_of_many_classes_those_that_lose_most_are_shown(count: int, chance) -> None:
    clean = [chance.randint(0, 20) for _ in range(count)]
    robust = [chance.randint(0, right) for right in clean]
    scores = {"clean": score("clean", clean, [20] * count), KEY: score(KEY, robust, [20] * count)}
    found = pictures.classes([Row(name="net", weights="0" * 64, scores=scores)], KEY)
    lines = [line.partition(": clean ") for line in found.text.splitlines()]
    shown = [int(name) for name, mark, _ in lines if mark and name.isdigit()]
    assert len(shown) == len(set(shown)) == min(count, 25)
    lost = [one - other for one, other in zip(clean, robust, strict=True)]
    assert sorted(lost[each] for each in shown) == sorted(lost)[-len(shown) :]
    assert ("that lose most" in found.text) == (count > 25)


def test_a_class_without_images_is_said_to_have_none() -> None:
    scores = {"clean": score("clean", [5, 0], [9, 0]), KEY: score(KEY, [3, 0], [9, 0])}
    found = pictures.classes([Row(name="net", weights="0" * 64, scores=scores)], KEY, ("cat", "dog"))
    assert "cat: clean 55.6 %" in found.text and "dog: clean no images, after the attack no images." in found.text


def test_a_dollar_sign_in_a_name_begins_no_formula() -> None:
    scores = {"clean": score("clean", [5, 5], [9, 9]), KEY: score(KEY, [3, 3], [9, 9])}
    found = Row(name="a$\\frac$", weights="0" * 64, scores=scores)
    assert pictures.classes([found], KEY, ("$\\frac$", "$")).png() and pictures.curve([found]).png()
