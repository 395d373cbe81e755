"""The readers of rtk, each with valid files and values that are damaged for it; see test_fuzz.py."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from rtk import config, request, results, rundir
from rtk.backbones import open_backbone, read_state, rebuild
from rtk.backbones.earlier_run import read_run
from rtk.bench.spec import expand, read_spec
from rtk.cli.table import print_checks, print_evaluation, print_result
from rtk.corruptions import CorruptedFolder
from rtk.data import Split, open_dataset
from rtk.data.files import FilePixels
from rtk.errors import RtkError
from rtk.evaluation import build, evaluate, examples
from rtk.evaluation.foreign import Foreign
from rtk.evaluation.request import EvaluateOptions, VerifyOptions
from rtk.host import finetune
from rtk.options import EvaluationOptions
from rtk.registry import Registry
from rtk.report.robustbench import read_model_info
from rtk.request import RunOptions
from rtk.threat import Threat, parse_threats

from .fuzzing import changed, damaged, options, texts, toml, values
from .test_finetune import Nudge
from .test_finetune import request as run_request


@dataclass(frozen=True)
class Reader:
    """What is fed to a reader, and the reader."""

    given: st.SearchStrategy[Any]
    read: Callable[[Any], object]


@contextmanager
def file(content: bytes | str, name: str = "file") -> Iterator[Path]:
    """A file with this content, in a folder of its own, in which nothing else is when the reader is done."""
    with tempfile.TemporaryDirectory(prefix="rtk-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        yield path
        assert [found.name for found in Path(folder).iterdir()] == [name]


def reading(read: Callable[[Path], object], name: str = "file") -> Callable[[bytes | str], None]:
    def run(content: bytes | str) -> None:
        with file(content, name) as path:
            read(path)

    return run


# bytes of valid files, as small as they can be


def state() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.rand(3, 2), "fc.bias": torch.zeros(3), "bn.num_batches_tracked": torch.tensor(7)}


def saved(**how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": state(), "epoch": 3}, buffer, **how)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def picture(format: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, format, **how)
    return buffer.getvalue()


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
DATA = npz(x_train=IMAGES, y_train=np.arange(6) % 2, x_test=IMAGES[:2], y_test=np.arange(2))
PIXELS = RNG.random((2, 3, 32, 32), dtype=np.float32)
FOREIGN = {"images": torch.from_numpy(PIXELS), "indices": torch.arange(2)}
MODEL_INFO = {"name": "a", "clean_acc": "80.5", "autoattack_acc": "50", "eps": "8/255", "dataset": "cifar10"}
RECORD = {
    "uri": "rtk:fashion-resnet",
    "spec": {
        **{"family": "rtk", "name": "fashion-resnet", "architecture": "small-resnet", "native_classes": 10},
        **{"classes": 10, "mean": [0.2] * 3, "std": [0.3] * 3, "size": [32, 32], "head": "fc"},
    },
    "classes": 10,
    "threat": {"norm": "Linf", "eps": 0.1},
    "head": "fc",
    "blocks": None,
}
SPEC = """name = "mine"
seeds = [0, 1]
baseline = "full"
[options]
images = 50
[vary]
dataset = ["signs", "fashion"]
[[run]]
strategy = "at"
[run.vary]
lr = [0.1, 0.01]
"""


# readers


def data_set(path: Path) -> None:
    found = open_dataset(f"npz:{path}", val_fraction=0.4)
    for split in ("train", "val", "test"):
        opened = found.split(split)  # type: ignore[arg-type]
        opened.images(slice(None)), opened.sha256


def image(path: Path) -> None:
    FilePixels([path], 8, base=path.parent).read(torch.arange(1))


@functools.cache
def fashion() -> Split:
    return open_dataset("fashion").split("test")


def foreign(path: Path) -> None:
    Foreign.read(path, fashion())


def corrupted(content: tuple[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="rtk-fuzz-") as folder:
        for name, data in zip(("fog", "labels"), content, strict=True):
            (Path(folder) / f"{name}.npy").write_bytes(data)
        found = CorruptedFolder(folder)
        found.images("fog", 5)


@functools.cache
def network() -> bytes:
    return save(open_backbone("rtk:fashion-resnet").model.native_state())


def specified(text: str) -> None:
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError):
        return
    rebuild(spec)


def earlier_run(text: str) -> None:
    with tempfile.TemporaryDirectory(prefix="rtk-fuzz-") as folder:
        (Path(folder) / "backbone.json").write_text(text, "utf-8", "surrogatepass")
        (Path(folder) / "model.safetensors").write_bytes(network())
        read_run(folder)
        open_backbone(f"run:{folder}")


def configuration(text: str) -> None:
    with tempfile.TemporaryDirectory(prefix="rtk-fuzz-") as folder:
        for name, content in (("config.json", text), ("result.json", text), ("evaluation.json", text)):
            (Path(folder) / name).write_text(content, "utf-8", "surrogatepass")
        for read in (
            lambda: rundir.read_config(Path(folder)),
            lambda: rundir.read_options(Path(folder)),
            lambda: build(folder, {}),
            lambda: request.own_dataset(f"run:{folder}"),
        ):
            try:
                read()
            except RtkError:
                continue


def shown(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Reads a result, and shows it as `rtk show` does."""

    def run(path: Path) -> None:
        found = read(path)
        print_checks(found)
        print_result(found, path) if isinstance(found, results.Result) else print_evaluation(found, path)

    return run


def configured(kind: type[config.Config]) -> Reader:
    return Reader(st.tuples(options(kind), options(kind)), lambda given: config.resolve(kind, *given).model_dump_json())


def finetuning(given: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    name, flags, file = given
    found = request.build(name, flags, file)
    json.dumps(found.describe()).encode(), found.directory


def evaluating(given: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    target, flags, file = given
    found = build(target, flags, file)
    json.dumps(found.describe()).encode(), found.directory


def backbone(uri: str) -> None:
    request.check_backbone(uri)
    open_backbone(uri, weights="random")


def threats(text: str) -> None:
    for threat in parse_threats(text):
        assert Threat.parse(str(threat)) == threat


def benchmark(path: Path) -> None:
    for settings_ in expand(read_spec(path)):
        str(settings_)


STRATEGIES = ["linear-probe", "rift", "at", "nonsense"]
FOLDERS = ("rtk:", "robustbench:", "timm:", "torchvision:", "run:", "", "RTK:")
PARTS = (
    "fashion-resnet",
    "cifar10/Linf/",
    "cifar10/Linf/Standard",
    "resnet18.",
    "resnet18.x",
    "/",
    ".",
    "..",
    "~",
    "~no-such-user",
    "~\0",
)
SOURCES = ("npz:", "folder:", "", "zip:")
SETS = ("fashion", "cifar10", "signs", "mnist", "/", "~no-such-user/a.npz", "~\0", "/dev/null", "/dev/zero", "..")
uris = st.builds("".join, st.tuples(st.sampled_from(FOLDERS), st.one_of(st.sampled_from(PARTS), texts), texts))
sets = st.builds("".join, st.tuples(st.sampled_from(SOURCES), st.one_of(st.sampled_from(SETS), texts)))
run_options = options(RunOptions, {"epochs": "1", "lr": "0.1", "trust-checkpoint": "false", "dataset": "signs"})
evaluate_options = options(EvaluateOptions, {"trust-checkpoint": "false", "dataset": "fashion"})
targets = st.one_of(st.just("rtk:fashion-resnet"), uris, texts)
names = st.one_of(st.sampled_from(("lr", "eps", "dataset", "strategy", "seed", "out")), texts)
vary = st.dictionaries(names, st.one_of(st.lists(values, min_size=1, max_size=3), values), max_size=3)
groups = st.dictionaries(st.one_of(st.just("vary"), names), st.one_of(values, vary), max_size=2)
specs = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("mine"), st.just("mine"), values),
        "options": st.one_of(st.just({"strategy": "at"}), st.dictionaries(names, values, max_size=3), values),
    },
    optional={
        "seeds": st.one_of(st.lists(st.integers(0, 9), min_size=1, max_size=3), values),
        "vary": st.one_of(vary, values),
        "run": st.one_of(st.lists(groups, min_size=1, max_size=3), values),
        "sede": values,
    },
)

READERS = {
    "state of torch": Reader(damaged(saved()), reading(read_state, "w.pt")),
    "state of old torch": Reader(damaged(saved(_use_new_zipfile_serialization=False)), reading(read_state, "w.pth")),
    "safetensors": Reader(damaged(save(state())), reading(read_state, "w.safetensors")),
    "spec of a backbone": Reader(changed(RECORD["spec"]), specified),
    "earlier run": Reader(changed(RECORD), earlier_run),
    "npz": Reader(damaged(DATA), reading(data_set, "data.npz")),
    "corrupted folder": Reader(st.tuples(damaged(npy(np.repeat(IMAGES, 5, 0))), damaged(npy(np.arange(6)))), corrupted),
    "png": Reader(damaged(picture("PNG")), reading(image, "a.png")),
    "jpeg": Reader(damaged(picture("JPEG")), reading(image, "a.jpg")),
    "tiff": Reader(damaged(picture("TIFF", compression="tiff_lzw")), reading(image, "a.tif")),
    "bmp, gif, ppm, webp": Reader(
        st.one_of(*(damaged(picture(format)) for format in ("BMP", "GIF", "PPM", "WEBP"))), reading(image, "a.bmp")
    ),
    "examples of others, npz": Reader(damaged(npz(images=PIXELS, indices=np.arange(2))), reading(foreign, "a.npz")),
    "examples of others, npy": Reader(damaged(npy(PIXELS)), reading(foreign, "a.npy")),
    "examples of others, safetensors": Reader(damaged(save(FOREIGN)), reading(foreign, "a.safetensors")),
    "robustbench.json": Reader(changed(MODEL_INFO), reading(read_model_info)),
    "toml": Reader(damaged(SPEC.encode()), reading(config.read_toml, "a.toml")),
    "benchmark's bytes": Reader(damaged(SPEC.encode()), reading(benchmark, "a.toml")),
    "benchmark's values": Reader(
        specs.map(lambda found: "\n".join(f"{toml(key)} = {_toml(value)}" for key, value in found.items())),
        reading(benchmark, "a.toml"),
    ),
    "backbone": Reader(uris, backbone),
    "data": Reader(sets, lambda uri: open_dataset(uri).split("train")),
    "checked data": Reader(sets, request.check_dataset),
    "threats": Reader(
        st.one_of(texts, st.lists(texts, max_size=3).map(",".join), st.builds("L2:{}".format, texts)), threats
    ),
    "options of a run": configured(RunOptions),
    "options of an evaluation": configured(EvaluateOptions),
    "options of verifying": configured(VerifyOptions),
    "options of all": configured(EvaluationOptions),
    "request of a run": Reader(st.tuples(st.sampled_from(STRATEGIES), run_options, run_options), finetuning),
    "request of an evaluation": Reader(st.tuples(targets, evaluate_options, evaluate_options), evaluating),
}
READERS |= {f"options of {name}": configured(Registry().strategy(name).config_type) for name in Registry().names()}


def _toml(value: Any) -> str:
    try:
        return toml(value)
    except RecursionError:
        return "[" * 2000


def readers_of_own_files(place: Path) -> dict[str, Reader]:
    """Readers of what rtk itself writes, with a real run and a real evaluation to damage."""
    finetune(run_request(Nudge, place / "run", suite=("clean",), images=8))
    few = {"suite": "clean,pgd20", "images": 8, "chunk_size": 8, "workers": 1, "device": "cpu", "save_examples": True}
    evaluate(build("rtk:fashion-resnet", {**few, "out": place / "judged"}))
    (kept,) = (place / "judged" / "examples").glob("*.safetensors")

    def json_of(path: Path) -> Any:
        return json.loads(path.read_text())

    return {
        "result": Reader(changed(json_of(place / "run" / "result.json")), reading(shown(results.read))),
        "result's bytes": Reader(damaged((place / "run" / "result.json").read_bytes()), reading(shown(results.read))),
        "evaluation": Reader(
            changed(json_of(place / "judged" / "evaluation.json")), reading(shown(results.read_evaluation))
        ),
        "configuration of a run": Reader(changed(json_of(place / "run" / "config.json")), configuration),
        "configuration of an evaluation": Reader(changed(json_of(place / "judged" / "config.json")), configuration),
        "examples": Reader(damaged(kept.read_bytes()), reading(examples.read, "a.safetensors")),
    }


MADE = (
    *("result", "result's bytes", "evaluation", "configuration of a run", "configuration of an evaluation"),
    "examples",
)
