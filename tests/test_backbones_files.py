"""Files of weights, good and bad; URIs, good and bad; caches; random weights."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rtk import backbones
from rtk.backbones import (
    Classifier,
    SmallResNet,
    catalogue,
    describe,
    hash_state,
    open_backbone,
    read_state,
    rebuild,
    torchvision_models,
    write_state,
)
from rtk.errors import BadBackbone, BadValue, UnknownName
from rtk.threat import Threat

FASHION = "rtk:fashion-resnet"


@pytest.fixture
def state() -> dict[str, Tensor]:
    return open_backbone(FASHION, weights="random", seed=3).model.native_state()


class Code:
    """A pickle of it calls a function."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, ("1",)


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "model": lambda state: {"model": state, "best": np.float64(0.5), "last": np.float32(1)},
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "model.": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "net.": lambda state: {f"net.{name}": value for name, value in state.items()},
    "module.model.": lambda state: {
        "model": {f"module.model.{name}": value for name, value in state.items()}
        | {"module.normalizer.new_mean": torch.zeros(3)}
    },
    "no counters": lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    "half": lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints_of_training_scripts_are_understood(wrapper: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(WRAPPERS[wrapper](state), tmp_path / "w.pt")
    opened = open_backbone(FASHION, weights=str(tmp_path / "w.pt"))
    tolerance = 1e-3 if wrapper == "half" else 0
    for name, value in opened.model.native_state().items():
        torch.testing.assert_close(value, state[name], rtol=tolerance, atol=tolerance)


def test_the_old_format_of_torch_and_safetensors_are_read(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    write_state(tmp_path / "w.safetensors", state)
    assert hash_state(read_state(tmp_path / "old.pth")) == hash_state(read_state(tmp_path / "w.safetensors"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["old.pth", "w.safetensors"]


def _half(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])


def _bad_files(folder: Path, state: dict[str, Tensor]) -> dict[str, Path]:
    good, old, safe = folder / "good.pt", folder / "old.pt", folder / "good.safetensors"
    torch.save(state, good)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    write_state(safe, state)
    paths = {name: folder / f"{name}.pt" for name in ("truncated", "truncated_old", "html", "text", "empty", "lfs")}
    _half(paths["truncated"], good.read_bytes())
    _half(paths["truncated_old"], old.read_bytes())
    paths["html"].write_text("<!DOCTYPE html><html><body>Too many requests</body></html>")
    paths["text"].write_text("hello")
    paths["empty"].write_bytes(b"")
    paths["lfs"].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    paths["truncated_safetensors"] = folder / "truncated.safetensors"
    _half(paths["truncated_safetensors"], safe.read_bytes())
    for name, content in {
        "code": {"state_dict": state, "hook": Code()},
        "whole_model": nn.Linear(2, 2),
        "list": [1, 2],
        "no_tensors": {"epoch": 3},
        "nan": {**state, "fc.bias": state["fc.bias"] * float("nan")},
        "other": nn.Linear(2, 2).state_dict(),
        "wider": SmallResNet(widths=(16, 16, 32, 48)).state_dict(),
    }.items():
        paths[name] = folder / f"{name}.pt"
        torch.save(content, paths[name])
    paths["pickle"] = folder / "pickle.pt"
    paths["pickle"].write_bytes(pickle.dumps({"state_dict": Code()}))
    paths["missing"] = folder / "missing.pt"
    paths["folder"] = folder
    return paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("folder", "a folder, not a file"),
        ("empty", "empty"),
        ("truncated", "truncated"),
        ("truncated_old", "truncated"),
        ("truncated_safetensors", "not a whole safetensors file"),
        ("html", "web page"),
        ("lfs", "Git LFS"),
        ("text", "not a file of torch.save"),
        ("pickle", "not a file of torch.save"),
        ("code", r"needs code from the file to be run.*eval"),
        ("whole_model", r"needs code from the file to be run.*Linear"),
        ("list", "no state dict"),
        ("no_tensors", r"no state dict.*epoch"),
        ("nan", r"'fc\.bias' holds NaN"),
        ("other", "checkpoint of another architecture"),
        ("wider", r"another architecture than rtk:fashion-resnet: 'fc.weight' is \(10, 48\)"),
    ],
)
def test_bad_files_are_refused_in_one_line(name: str, message: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = _bad_files(tmp_path, state)[name]
    with pytest.raises(BadBackbone, match=message) as caught:
        open_backbone(FASHION, weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("resnet18", BadBackbone, "says not where it comes from"),
        ("tim:resnet18", UnknownName, "Did you mean 'timm'"),
        ("timm:", BadBackbone, "name is missing"),
        ("timm:resnet118", UnknownName, "Unknown timm model 'resnet118'. Did you mean 'resnet"),
        ("timm:resnet18.a1_in2k", UnknownName, "Did you mean 'a1_in1k'"),
        ("timm:resnet18.", UnknownName, "Unknown weights of timm:resnet18 ''"),
        ("torchvision:resnt18", UnknownName, "Did you mean 'resnet18'"),
        ("torchvision:squeezenet1_0", BadBackbone, "No classifier was found"),
        ("rtk:fashion", UnknownName, "Did you mean 'fashion-resnet'"),
        ("run:/no/such/folder", BadBackbone, "no such folder"),
    ],
)
def test_bad_uris_are_refused(uri: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_backbone(uri, weights="random")


def test_missing_weights_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadBackbone, match=r"curl -L -o .*resnet18-f37072fd\.pth https://"):
        open_backbone("torchvision:resnet18")
    with pytest.raises(BadBackbone, match=r"repository timm/test_vit.*neither cached.*--weights FILE"):
        open_backbone("timm:test_vit")


def test_weights_in_the_caches_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    planted = open_backbone("torchvision:mobilenet_v3_small", weights="random", seed=4).model.native_state()
    file = tmp_path / "hub" / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
    file.parent.mkdir(parents=True)
    torch.save(planted, file)
    with pytest.raises(BadBackbone, match=r"not the file that was published .*published 047dcff4\).*--weights"):
        open_backbone("torchvision:mobilenet_v3_small")
    real = torchvision_models._weights("mobilenet_v3_small")
    stated = f"small-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(stated))
    record = SimpleNamespace(transforms=real.transforms, url=f"https://download.pytorch.org/models/{stated}")
    monkeypatch.setattr(torchvision_models, "_weights", lambda name: record)
    assert open_backbone("torchvision:mobilenet_v3_small").weights_sha256 == hash_state(planted)

    planted = open_backbone("timm:test_vit", weights="random", seed=4).model.native_state()
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    write_state(snapshot / "model.safetensors", planted)
    assert open_backbone("timm:test_vit").weights_sha256 == hash_state(planted)


def test_old_timm_files_are_translated(tmp_path: Path) -> None:
    planted = open_backbone("timm:swin_tiny_patch4_window7_224", weights="random", seed=4).model.native_state()
    old = {name.replace("head.fc.", "head."): value for name, value in planted.items()}
    for stage in (1, 2, 3):  # patch merging was numbered with the stage before it
        prefix = f"layers.{stage}.downsample"
        old |= {
            name.replace(prefix, f"layers.{stage - 1}.downsample_"): old.pop(name)
            for name in list(old)
            if name.startswith(prefix)
        }
    old = {name.replace("downsample_", "downsample"): value for name, value in old.items()}
    torch.save({"model": old}, tmp_path / "old.pth")
    opened = open_backbone("timm:swin_tiny_patch4_window7_224", weights=tmp_path / "old.pth")
    assert opened.weights_sha256 == hash_state(planted)


def test_a_checkpoint_keeps_its_own_number_of_classes(tmp_path: Path) -> None:
    seven = open_backbone("timm:test_vit", weights="random", classes=7, seed=2)
    torch.save(seven.model.state_dict(), tmp_path / "seven.pt")
    opened = open_backbone("timm:test_vit", weights=tmp_path / "seven.pt")
    assert (opened.classes, opened.new_head, opened.spec) == (7, False, seven.spec)
    assert opened.weights_sha256 == hash_state(seven.model.native_state())
    three = open_backbone("timm:test_vit", weights=tmp_path / "seven.pt", classes=3)
    assert (three.classes, three.new_head) == (3, True)


def test_a_checkpoint_without_a_classifier_gets_one(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "body.pt")
    with pytest.raises(BadBackbone, match="has no classifier"):
        open_backbone(FASHION, weights=tmp_path / "body.pt")
    opened = open_backbone(FASHION, weights=tmp_path / "body.pt", classes=10)
    assert opened.new_head
    assert torch.equal(opened.model.native_state()["conv1.weight"], state["conv1.weight"])


def test_replacing_one_of_two_classifiers_is_refused() -> None:
    with pytest.raises(BadBackbone, match="not the only classifier"):
        open_backbone("timm:deit_tiny_distilled_patch16_224", weights="random", head="head", classes=7)


def test_a_new_classifier_can_be_asked_for(state: dict[str, Tensor], tmp_path: Path) -> None:
    write_state(tmp_path / "w.safetensors", state)
    opened = open_backbone(FASHION, weights=tmp_path / "w.safetensors", new_head=True)
    assert (opened.classes, opened.new_head, opened.weights_sha256) == (10, True, hash_state(state))
    fresh = opened.model.native_state()
    assert {name for name in fresh if not torch.equal(fresh[name], state[name])} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("classes", [0, 1, -3, 2.5, True])
def test_a_wrong_number_of_classes_is_refused(classes: Any) -> None:
    with pytest.raises(BadValue, match="2 or more"):
        open_backbone(FASHION, weights="random", classes=classes)


def test_random_weights_follow_the_seed_and_disturb_nothing() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, again, other = (open_backbone(FASHION, weights="random", classes=4, seed=seed) for seed in (1, 1, 2))
    rebuild(first.spec)
    assert torch.equal(torch.get_rng_state(), before)
    assert hash_state(first.model.native_state()) == hash_state(again.model.native_state())
    mine, others = first.model.native_state(), other.model.native_state()
    assert all(not torch.equal(mine[name], others[name]) for name in mine if mine[name].ndim > 1)
    assert first.weights_sha256 is None
    torch.manual_seed(99)
    assert hash_state(open_backbone(FASHION, weights="random", classes=4, seed=1).model.native_state()) == hash_state(
        first.model.native_state()
    )


def test_the_hash_sees_content_and_nothing_else(state: dict[str, Tensor]) -> None:
    reference = hash_state(state)
    assert hash_state(dict(reversed(list(state.items())))) == reference
    assert (
        hash_state({n: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for n, v in state.items()})
        == reference
    )
    for changed in (
        {**state, "fc.bias": state["fc.bias"] + 1},
        {**state, "fc.bias": state["fc.bias"].double()},
        {**state, "fc.weight": state["fc.weight"].t().reshape(10, 64)},
        {**state, "fc.weight": state["fc.weight"].view(64, 10)},
        {name: value for name, value in state.items() if name != "fc.bias"},
        {**state, "more": torch.zeros(0)},
    ):
        assert hash_state(changed) != reference


def test_strided_and_shared_tensors_are_written(state: dict[str, Tensor], tmp_path: Path) -> None:
    strided = {
        name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value for name, value in state.items()
    }
    strided["alias"] = strided["fc.weight"]
    write_state(tmp_path / "w.safetensors", strided)
    assert hash_state(read_state(tmp_path / "w.safetensors")) == hash_state(strided)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_native_loading_is_strict(state: dict[str, Tensor]) -> None:
    model = Classifier(SmallResNet())
    model.load_native(state)
    for bad, message in (
        ({name: value for name, value in state.items() if name != "fc.bias"}, r"missing 'fc\.bias'"),
        ({**state, "more": torch.zeros(1)}, "unexpected 'more'"),
        ({**state, "fc.bias": torch.zeros(3)}, r"'fc\.bias' is \(3,\), the network has \(10,\)"),
    ):
        with pytest.raises(BadBackbone, match=message):
            model.load_native(bad)


def test_a_run_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    backbone = open_backbone(FASHION, weights="random")
    record = tmp_path / "backbone.json"
    with pytest.raises(BadBackbone, match="not the folder of a finished run"):
        open_backbone(f"run:{tmp_path}")
    record.write_text(json.dumps(describe(backbone)))
    with pytest.raises(BadBackbone, match="did not finish"):
        open_backbone(f"run:{tmp_path}")
    write_state(tmp_path / "model.safetensors", backbone.model.native_state())
    for text in ("{", "[]", "{}", json.dumps({"spec": {"family": "rtk"}}), json.dumps({"spec": 3})):
        record.write_text(text)
        with pytest.raises(BadBackbone):
            open_backbone(f"run:{tmp_path}")


def test_given_blocks_are_kept_in_the_record(tmp_path: Path) -> None:
    backbone = open_backbone(FASHION, weights="random", blocks=["layer2", "layer3"])
    (tmp_path / "backbone.json").write_text(json.dumps(describe(backbone)))
    write_state(tmp_path / "model.safetensors", backbone.model.native_state())
    again = open_backbone(f"run:{tmp_path}")
    assert again.structure.blocks == backbone.structure.blocks
    assert json.loads(json.dumps(describe(again)))["blocks"] == ["layer2", "layer3"]


@pytest.mark.parametrize("spec", [{}, {"family": "rtk"}, 3])
def test_a_spec_that_is_not_whole_is_refused(spec: Any) -> None:
    with pytest.raises(BadBackbone, match="spec"):
        rebuild(spec)


def test_embedded_weights_come_from_the_package(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "assets", lambda: tmp_path)
    with pytest.raises(BadBackbone, match=r"fashion-resnet\.safetensors are not installed"):
        open_backbone(FASHION)
    weights = tmp_path / "fashion-resnet.safetensors"
    write_state(weights, state)
    sidecar = tmp_path / "fashion-resnet.json"
    sidecar.write_text(json.dumps({"sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "recipe": "..."}))
    opened = open_backbone(FASHION)
    assert (opened.weights_sha256, opened.threat) == (hash_state(state), Threat("Linf", 0.1))
    sidecar.write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(BadBackbone, match="not the file that was published"):
        open_backbone(FASHION)
    sidecar.write_text("{")
    with pytest.raises(BadBackbone, match="not JSON"):
        open_backbone(FASHION)


def test_a_sidecar_adds_an_embedded_backbone(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "assets", lambda: tmp_path)
    facts = {"architecture": "small-resnet", "classes": 5, "mean": [0.5] * 3, "std": [0.2] * 3}
    facts |= {"dataset": "signs", "threat": {"norm": "L2", "eps": 0.5}}
    (tmp_path / "signs.json").write_text(json.dumps({"classes": ["stop"], "tile": [32, 32, 3]}))
    (tmp_path / "signs-resnet.json").write_text(json.dumps(facts))
    opened = open_backbone("rtk:signs-resnet", weights="random")
    assert (opened.classes, opened.threat) == (5, Threat("L2", 0.5))
    assert [row.uri for row in catalogue.list_backbones()[:2]] == ["rtk:fashion-resnet", "rtk:signs-resnet"]
    del facts["mean"]
    (tmp_path / "signs-resnet.json").write_text(json.dumps(facts))
    with pytest.raises(BadBackbone, match="lacks mean"):
        open_backbone("rtk:signs-resnet", weights="random")


def test_every_public_name_exists() -> None:
    assert all(hasattr(backbones, name) for name in backbones.__all__)
    missing = "nonsense"
    with pytest.raises(AttributeError):
        getattr(backbones, missing)
