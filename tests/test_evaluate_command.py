"""`rtk evaluate` and `rtk verify`: a run, a backbone, a file of weights; its own examples, and somebody else's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file

from rtk import results
from rtk.attacks import pgd
from rtk.data import open_dataset
from rtk.evaluation import build, evaluate, verify_images
from rtk.evaluation.request import VerifyOptions
from rtk.host import finetune
from rtk.threat import Threat

from .test_cli import Command, command  # noqa: F401 - a fixture
from .test_finetune import Nudge, request

FAST = {"suite": "clean,pgd20", "images": 40, "chunk_size": 16, "workers": 1, "device": "cpu"}
TYPED = ["evaluate", "rtk:fashion-resnet", "--suite", "clean,pgd20", "--images", "40", "--chunk-size", "16"]
TYPED += ["--workers", "1", "--device", "cpu", "--quiet"]
EPS = Threat("Linf", 0.1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that kept its examples; read it, or copy it."""
    out = tmp_path_factory.mktemp("evaluation") / "kept"
    evaluate(build("rtk:fashion-resnet", {**FAST, "suite": "clean,pgd20", "save_examples": True, "out": out}))
    return out


# what is evaluated


def test_a_run_brings_its_data_threat_and_suite_and_gets_its_own_numbers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = finetune(request(Nudge, run, threats=("Linf:0.05", "Linf:0.1"), evaluation_seed=3, images=24))
    assert list(result.rows[1].scores) == ["clean", "pgd20@Linf:0.05", "pgd20@Linf:0.1"]
    assert set(result.changes) == set(result.rows[1].scores)
    asked = build(str(run), {"out": tmp_path / "again", "workers": 1, "device": "cpu"})
    assert evaluate(asked).row.scores == result.rows[1].scores
    other = build(f"run:{run}", {"out": tmp_path / "other", "images": "8", "suite": "clean", "device": "cpu"})
    assert evaluate(other).row.scores["clean"].n == 8


def test_a_run_with_a_threat_of_its_own_is_judged_at_that(tmp_path: Path) -> None:
    finetune(request(Nudge, tmp_path / "run", suite=("clean",), images=8, norm="L2", eps=0.5))
    assert build(str(tmp_path / "run"), {}).options.threats == ("L2:0.5",)


def test_a_file_of_weights_is_judged_in_the_architecture_that_is_named(tmp_path: Path, source) -> None:
    save_file(source.model.native_state(), str(tmp_path / "w.safetensors"))
    flags = {**FAST, "suite": "clean", "backbone": "rtk:fashion-resnet"}
    found = evaluate(build(str(tmp_path / "w.safetensors"), {**flags, "out": tmp_path / "file"}))
    same = evaluate(build("rtk:fashion-resnet", {**FAST, "suite": "clean", "out": tmp_path / "backbone"}))
    assert found.row.scores == same.row.scores


def test_the_folder_is_a_function_of_what_is_asked_and_not_of_where() -> None:
    first = build("rtk:fashion-resnet", FAST).directory
    assert str(first).startswith("runs/evaluate-fashion-resnet-")
    assert build("rtk:fashion-resnet", {**FAST, "workers": 3, "batch_size": 2}).directory == first
    assert build("rtk:fashion-resnet", {**FAST, "seed": 1}).directory != first


WRONG = [
    ("evaluate nowhere", "nowhere: no folder of a run, no file of weights", "rtk evaluate runs/NAME"),
    ("evaluate w.pt", "w.pt: weights alone; --backbone says of which architecture.", "--backbone timm:resnet18"),
    ("evaluate empty", "this is no run of rtk", "ls runs"),
    ("evaluate rtk:fashion-resnet --dataset signs", "knows the classes of fashion, not those of signs", "rtk finetune"),
    ("evaluate rtk:fashion-resnet --threats", "--threats: a value is missing.", "--threats VALUE"),
    ("evaluate rtk:fashion-resnet --suite pgd", "Unknown evaluation 'pgd'", "--suite clean"),
    ("evaluate rtk:fashion-resnet --images 0", "--images: needs a whole number >= 1 or none, got '0'.", ""),
    ("evaluate rtk:fashion-resnet --batch-size 0", "--batch-size: needs a whole number 1 to 4096", ""),
    ("evaluate rtk:fashion-resnet --bacth-size 8", "Did you mean '--batch-size'?", "rtk evaluate --help"),
    ("evaluate rtk:fashion-resnet --config c.toml", "Unknown option '--image'. Did you mean '--images'?", ""),
    ("evaluate rtk:fashion-resnet --backbone timm:x", "--backbone: is what rtk:fashion-resnet stands for", "without"),
    ("verify nowhere", "nowhere: no such file.", "rtk verify FILE"),
    ("verify w.pt --threat Linf:0.1", "--threat: for --images alone", "rtk verify w.pt"),
    ("verify --images w.pt --threat 0.1", "got '0.1' (allowed: NORM:EPS", ""),
]


@pytest.mark.parametrize(("typed", "said", "hint"), WRONG, ids=[typed for typed, _, _ in WRONG])
def test_a_wrong_request_is_refused_in_one_line(typed: str, said: str, hint: str, command: Command) -> None:  # noqa: F811
    Path("empty").mkdir()
    Path("w.pt").write_bytes(b"x")
    Path("c.toml").write_text("image = 3")
    done = command(*typed.split())
    message, _, suggested = done.line.partition(" Try: ")
    assert done.code == 2
    assert said in message and hint in suggested
    assert {path.name for path in Path().iterdir()} == {"empty", "w.pt", "c.toml"}


def test_other_classes_than_the_datas_are_refused(tmp_path: Path, command: Command) -> None:  # noqa: F811
    np.savez(
        "d.npz",
        x_train=np.zeros((8, 32, 32, 3), np.uint8),
        y_train=np.arange(8) % 4,
        x_test=np.zeros((8, 32, 32, 3), np.uint8),
        y_test=np.arange(8) % 4,
    )
    done = command("evaluate", "rtk:fashion-resnet", "--dataset", "npz:d.npz", "--out", "out")
    assert done.code == 2 and "tells 10 classes apart, npz:d.npz has 4." in done.line
    assert not Path("out").exists()


# what it leaves


def test_an_evaluation_is_shown_and_not_repeated_and_follows_the_schema(command: Command) -> None:  # noqa: F811
    jsonschema = pytest.importorskip("jsonschema", reason="part of the extra 'test'")
    first = command(*TYPED, "--out", "e", "--threats", "Linf:0.05,0.1")
    assert (first.code, first.err) == (0, "")
    assert "PGD-20, Linf 0.05" in first.out and "PGD-20, Linf 0.1" in first.out and "Evaluation: e" in first.out
    assert command("show", "e").out == first.out
    found = json.loads(command("show", "e", "--json").out)
    jsonschema.validate(found, json.loads(command("show", "--schema").out))
    assert found["command"][:2] == ["rtk", "evaluate"] and found["dataset"]["images"] == {"test": 2500}
    assert found["row"]["scores"]["clean"]["threat"] is None
    again = command(*TYPED, "--out", "e", "--threats", "Linf:0.05,0.1")
    assert again.code == 2 and "e already holds this result. Try: rtk show e" in again.line
    other = command(*TYPED, "--out", "e")
    assert other.code == 2 and "other settings (threats: " in other.line
    assert command(*TYPED, "--out", "e", "--force").code == 0


def test_a_sign_of_trouble_is_shown(kept: Path, tmp_path: Path, command: Command) -> None:  # noqa: F811
    found = json.loads((kept / "evaluation.json").read_text())
    found["row"]["checks"] = [{"name": "monotone-in-eps", "verdict": "warning", "text": "It rises."}]
    found["row"]["scores"]["clean"]["least_batch"] = 4
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "evaluation.json").write_text(json.dumps(found))
    shown = command("show", str(tmp_path / "e")).out
    assert "warning: rtk:fashion-resnet: It rises." in shown
    assert "memory ran out; fewer images at once, same verdicts: clean with 4." in shown


def test_an_evaluation_is_no_run_and_a_run_is_no_evaluation(kept: Path, tmp_path: Path, command: Command) -> None:  # noqa: F811
    done = command("finetune", "-s", "full", "--weights", "random", "--dataset", "signs", "--out", str(kept), "--force")
    assert done.code == 2 and "no run of rtk; it is left alone" in done.line
    finetune(request(Nudge, tmp_path / "run", suite=("clean",), images=8))
    done = command(*TYPED, "--out", str(tmp_path / "run"), "--force")
    assert done.code == 2 and "it is left alone" in done.line
    assert results.read(tmp_path / "run" / "result.json") and results.read_evaluation(kept / "evaluation.json")


# examples


def test_examples_are_kept_and_verify(kept: Path, command: Command) -> None:  # noqa: F811
    record = results.read_evaluation(kept / "evaluation.json")
    assert set(record.examples) == {"pgd20@Linf:0.1"}, "clean images are in the data set"
    path = kept / record.examples["pgd20@Linf:0.1"].file
    saved = load_file(path)
    assert saved["images"].shape == (40, 3, 32, 32) and saved["images"].dtype == torch.float32
    assert int(saved["robust"].sum()) == record.row.scores["pgd20@Linf:0.1"].correct
    assert [found.name for found in (kept / "examples").iterdir()] == [path.name], "the parts are gone"
    done = command("verify", str(path))
    assert (done.code, done.err) == (0, "")
    assert all(line.startswith("ok ") for line in done.out.splitlines()) and len(done.out.splitlines()) == 10


def test_examples_do_not_depend_on_interruptions(kept: Path, tmp_path: Path, monkeypatch) -> None:
    from rtk.evaluation import chunks

    original, calls = chunks.judge_chunk, []

    def interrupt(*job: Any) -> None:
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(*job)

    asked = build("rtk:fashion-resnet", {**FAST, "save_examples": True, "out": tmp_path / "e"})
    monkeypatch.setattr(chunks, "judge_chunk", interrupt)
    for _ in range(2):
        with pytest.raises(Exception, match="Interrupted"):
            evaluate(asked)
        calls.clear()
    monkeypatch.setattr(chunks, "judge_chunk", original)
    begun = tmp_path / "e" / "environment.json"
    said = json.loads(begun.read_text())
    begun.write_text(json.dumps({**said, "packages": {**said["packages"], "torch": "0.1"}}))
    again = evaluate(asked)
    assert again.examples == results.read_evaluation(kept / "evaluation.json").examples
    assert again.environment == {**said, "earlier": [{"torch": "0.1"}]}, "where it was begun is not forgotten"


def tampered(kept: Path, place: Path, change) -> Path:
    """A copy of an evaluation whose examples were changed by `change(tensors)`, metadata and all."""
    from safetensors import safe_open

    shutil.copytree(kept, place)
    (path,) = (place / "examples").glob("*.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, str(path), metadata)
    return path


def further(tensors: dict[str, torch.Tensor]) -> None:
    tensors["images"][0] = 1 - tensors["images"][0]


def claim(tensors: dict[str, torch.Tensor]) -> None:
    tensors["robust"][tensors["robust"].nonzero()[0]] = False


def deny(tensors: dict[str, torch.Tensor]) -> None:
    tensors["robust"][(~tensors["robust"]).nonzero()[0]] = True


def relabel(tensors: dict[str, torch.Tensor]) -> None:
    tensors["labels"][0] = (tensors["labels"][0] + 1) % 10


@pytest.mark.parametrize(
    ("change", "wrong"),
    [(further, "ball-and-range"), (claim, "broken"), (deny, "robust"), (relabel, "labels")],
)
def test_what_was_changed_afterwards_does_not_verify(
    kept: Path,
    tmp_path: Path,
    command: Command,  # noqa: F811
    change,
    wrong: str,
) -> None:
    path = tampered(kept, tmp_path / "copy", change)
    done = command("verify", str(path))
    assert done.code == 1
    found = {line.split()[1].rstrip(":") for line in done.out.splitlines() if line.startswith("error")}
    assert found >= {"content", wrong}
    assert done.err.startswith(f"rtk: {path}: does not agree with the record: content, ")


def test_another_network_does_not_verify(kept: Path, tmp_path: Path, command: Command) -> None:  # noqa: F811
    path = tampered(kept, tmp_path / "copy", lambda tensors: None)
    weights = load_file(tmp_path / "copy" / "network" / "model.safetensors")
    weights["fc.bias"] += 1e-3
    save_file(weights, str(tmp_path / "copy" / "network" / "model.safetensors"))
    done = command("verify", str(path))
    assert done.code == 1 and "weights" in done.err


@pytest.mark.parametrize("content", [b"", b"not safetensors"])
def test_a_broken_file_is_one_line(content: bytes, command: Command) -> None:  # noqa: F811
    Path("x.safetensors").write_bytes(content)
    assert "x.safetensors: cannot be read as safetensors" in command("verify", "x.safetensors").line
    assert "x.safetensors: cannot be read, truncated or not an array file" in foreign(command, "x.safetensors").line


# somebody else's images


def foreign(command: Command, file: str, *more: str):  # noqa: F811
    return command("verify", "--images", file, "--dataset", "fashion", "--threat", "Linf:0.1", *more)


@pytest.fixture(scope="module")
def attacked(source) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PGD images for the first 30 test images, the images themselves, and whether each withstood."""
    split = open_dataset("fashion").split("test")
    x, y = split.images(slice(0, 30)), split.labels[:30]
    adversarial = pgd(EPS, steps=20)(source.model, x, y, seed=5)
    with torch.no_grad():
        robust = (source.model(x).argmax(1) == y) & (source.model(adversarial).argmax(1) == y)
    assert 0 < robust.sum() < 30
    return adversarial, x, robust


def test_images_are_read_in_every_form(attacked, command: Command) -> None:  # noqa: F811
    adversarial, _, robust = attacked
    plain = adversarial.numpy()
    np.save("a.npy", plain)
    np.save("channels_last.npy", np.ascontiguousarray(plain.transpose(0, 2, 3, 1)))
    np.savez("b.npz", images=plain)
    save_numpy({"images": plain}, "c.safetensors")
    order = np.arange(30)[::-1].copy()
    np.savez("d.npz", images=plain[order], indices=order)
    indexed = foreign(command, "d.npz").out
    said = {foreign(command, name).out for name in ("a.npy", "channels_last.npy", "b.npz", "c.safetensors")}
    said.add(command("verify", "--images", "a.npy", "--threat", "Linf:0.1").out)  # the embedded network's own data
    assert len(said) == 1
    assert "0 of 30 images leave the ball" in indexed and "indices" not in indexed
    assumed = "The file has no indices: taken as of the first 30 test images."
    assert [line for line in said.pop().splitlines() if line not in indexed.splitlines()] == [assumed]
    assert f", {int(robust.sum())} of 30" in foreign(command, "a.npy").out


def test_examples_of_no_attack_are_refused(command: Command) -> None:  # noqa: F811
    done = command("evaluate", "rtk:fashion-resnet", "--suite", "clean", "--save-examples", "--out", "e")
    assert done.code == 2 and "the suite clean attacks nothing" in done.line and "--suite clean,pgd20" in done.line


def test_that_images_are_resized_is_said(command: Command) -> None:  # noqa: F811
    arguments = "--backbone timm:resnet10t --weights random --dataset signs --suite clean --epochs 0 --out run"
    done = command("finetune", "--strategy", "full", *arguments.split())
    assert done.code == 0 and " pixels are resized to 176x176 inside the network" in done.out


def test_what_leaves_the_ball_breaks_nothing_and_is_counted(attacked, tmp_path: Path) -> None:
    _, x, _ = attacked
    options = VerifyOptions(dataset="fashion", threat="Linf:0.1", device="cpu")
    for name, images in (("far", 1 - x), ("bright", x + 2), ("nan", torch.full_like(x, torch.nan))):
        np.save(tmp_path / f"{name}.npy", images.numpy())
        found = verify_images(tmp_path / f"{name}.npy", options)
        assert found.outside == 30 and found.robust == found.clean
        assert not found.farthest <= 0.1


def test_images_of_other_samples_are_suspected(attacked, command: Command) -> None:  # noqa: F811
    np.save("a.npy", attacked[0].numpy()[::-1])
    done = foreign(command, "a.npy")
    assert "30 of 30 images leave the ball" in done.out and "the largest distance is " in done.out
    assert "none is left to say" in done.out and "robust accuracy under these images: 8" not in done.out
    assert "Are they of others? Then the file needs indices too." in done.out


def test_an_evaluation_with_several_threats_names_them(attacked, command: Command) -> None:  # noqa: F811
    np.save("a.npy", attacked[0].numpy())
    typed = "evaluate rtk:fashion-resnet --suite clean,pgd20 --threats Linf:0.02,L2:1 --images 8 --workers 1 --quiet"
    assert command(*typed.split(), "--out", "e").code == 0
    done = command("verify", "--images", "a.npy", "--with", "e")
    assert done.code == 2 and "The evaluation has Linf:0.02, L2:1. Try: --threat Linf:0.02" in done.line


def test_bytes_are_images_too(attacked, tmp_path: Path) -> None:
    adversarial, x, _ = attacked
    rounded = (x + (adversarial - x).clamp(-25 / 255, 25 / 255)).mul(255).round().to(torch.uint8)
    np.save(tmp_path / "a.npy", rounded.numpy())
    found = verify_images(tmp_path / "a.npy", VerifyOptions(dataset="fashion", threat="Linf:0.1", device="cpu"))
    assert found.outside == 0 and found.robust.correct < found.clean.correct


def test_the_strongest_known_attack_counts_for_each_sample(kept: Path, source, tmp_path: Path) -> None:
    path = next((kept / "examples").glob("*.safetensors"))
    saved = load_file(path)
    split = open_dataset("fashion").split("test")
    indices = saved["indices"][:20]
    theirs = pgd(EPS, steps=20)(source.model, split.images(indices), split.labels[indices], seed=99)
    with torch.no_grad():
        robust = source.model(theirs).argmax(1) == split.labels[indices]
    np.savez(tmp_path / "t.npz", images=theirs.numpy(), indices=indices.numpy())
    found = verify_images(tmp_path / "t.npz", VerifyOptions(device="cpu"), kept)
    assert found.recorded is not None and found.strongest is not None
    assert (found.recorded.correct, found.recorded.n) == (int(saved["robust"][:20].sum()), 20)
    assert found.strongest.correct == int((robust & saved["robust"][:20]).sum())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"adversarial": np.zeros((2, 3, 32, 32), np.float32)}, "holds adversarial, but no array 'images'"),
        ({"images": np.zeros((2, 3, 32, 32))}, "images are float64 (allowed: float32 in [0, 1], or uint8)"),
        ({"images": np.zeros((2, 3, 28, 28), np.float32)}, "for data of 32x32 pixels"),
        ({"images": np.zeros((0, 3, 32, 32), np.float32)}, "0 images"),
        ({"images": np.zeros((2, 3, 32, 32), np.float32), "indices": np.array([1, 1])}, "2 different whole numbers"),
        ({"images": np.zeros((2, 3, 32, 32), np.float32), "indices": np.array([1, 2500])}, "samples 0 to 2499"),
        ({"images": np.array([{}], dtype=object)}, "'images' is an array of Python objects"),
    ],
)
def test_images_that_cannot_be_are_refused(arrays: dict, said: str, command: Command) -> None:  # noqa: F811
    np.savez("x.npz", **arrays)
    done = foreign(command, "x.npz")
    assert done.code == 2 and said in done.line
