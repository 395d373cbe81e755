"""The RobustBench zoo: every identifier, its own loader, where checkpoints are looked for, and listings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rtk.backbones import list_backbones, load_robustbench, open_backbone
from rtk.backbones.catalogue import ENSEMBLES, ZOO, zoo_threat
from rtk.backbones.zoo import ZooSource, import_robustbench
from rtk.errors import BadBackbone, UnknownName
from rtk.threat import Threat

from .backbones_planted import CASES, images, plant

RESNET = next(case for case in CASES if case.uri.endswith("Addepalli2022Efficient_RN18"))
PREACT = next(case for case in CASES if case.uri.endswith("Wong2020Fast"))
XCIT = next(case for case in CASES if case.uri.endswith("XCiT-S12"))
IDS = [f"{dataset}/{norm}/{name}" for (dataset, norm), names in ZOO.items() for name in names]
# Their constructors read values of their weights, which tensors without data do not have.
NEED_DATA = ("Kang2021Stable", "imagenet/")


def test_the_catalogue_is_that_of_the_installed_release() -> None:
    tables = import_robustbench().model_dicts
    installed = {
        (dataset.value, threat.value): set(models)
        for dataset, threats in tables.items()
        for threat, models in threats.items()
        if threat.value in ("Linf", "L2")
    }
    assert installed == {group: set(names) for group, names in ZOO.items()}


def test_every_cifar_network_of_the_zoo_is_built() -> None:
    for name in IDS:
        if name.rsplit("/", 1)[-1] not in ENSEMBLES and not any(part in name for part in NEED_DATA):
            spec, _ = ZooSource().spec(name)
            with torch.device("meta"):
                assert next(ZooSource().build(spec).parameters()).is_meta


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_every_network_of_the_zoo_is_opened(name: str) -> None:
    if name.rsplit("/", 1)[-1] in ENSEMBLES:
        with pytest.raises(BadBackbone, match="several networks"):
            open_backbone(f"robustbench:{name}", weights="random")
        return
    structure = open_backbone(f"robustbench:{name}", weights="random", classes=7).structure
    places = [*structure.stem, *structure.unused, *(each for block in structure.blocks for each in block.modules)]
    found = [parameter for place in places for parameter in structure.parameters_in([place])]
    assert sorted(found) == sorted(structure.parameters)


def assert_same_logits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """But for the rounding of another memory layout."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_import_leaves_no_stand_in() -> None:
    code = "import sys, rtk.backbones.zoo as z; z.import_robustbench(); assert 'autoattack' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("case", [RESNET, PREACT, XCIT], ids=lambda case: case.uri.split("/")[-1])
def test_its_own_loader_gives_the_same_network(
    case: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, norm, name = case.uri.split(":")[1].split("/")  # type: ignore[attr-defined]
    folder = tmp_path / dataset / norm
    folder.mkdir(parents=True)
    _, path = plant(case, tmp_path)  # type: ignore[arg-type]
    path.rename(folder / f"{name}.pt")
    monkeypatch.setenv("RTK_MODELS", str(tmp_path))
    ours = open_backbone(case.uri).model  # type: ignore[attr-defined]
    theirs = load_robustbench(name, dataset, norm, tmp_path)
    with torch.no_grad():
        assert_same_logits(ours(images()), theirs(images()))
    assert capsys.readouterr().out == ""


def test_the_last_epoch_is_taken_where_there_are_two(tmp_path: Path) -> None:
    uri = "robustbench:cifar10/Linf/Andriushchenko2020Understanding"
    last, best = (open_backbone(uri, weights="random", seed=seed).model.native_state() for seed in (1, 2))
    torch.save({"best": best, "last": last}, tmp_path / "both.pt")
    loaded = open_backbone(uri, weights=tmp_path / "both.pt").model.native_state()
    assert torch.equal(loaded["linear.weight"], last["linear.weight"])
    torch.save(best, tmp_path / "one.pt")
    loaded = open_backbone(uri, weights=tmp_path / "one.pt").model.native_state()
    assert torch.equal(loaded["linear.weight"], best["linear.weight"])


def test_what_the_zoo_files_omit_or_add_is_tolerated(tmp_path: Path) -> None:
    net, path = plant(PREACT, tmp_path)
    state = {f"module.{name}": value for name, value in net.state_dict().items() if name not in ("mu", "sigma")}
    torch.save({**state, "module.model_preact_hl1.1.weight": torch.ones(3)}, path)
    with torch.no_grad():
        assert_same_logits(open_backbone(PREACT.uri, weights=path).model(images()), net(images()))
    _, other = plant(RESNET, tmp_path)
    state = torch.load(other, weights_only=True)["state_dict"]
    torch.save({**state, "extra.weight": torch.ones(3)}, other)
    with pytest.raises(BadBackbone, match=r"unexpected 'extra\.weight'"):
        open_backbone(RESNET.uri, weights=other)


def test_imagenet_files_lack_the_wrapper_of_the_network(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.uri.endswith("Salman2020Do_R18"))
    net, path = plant(case, tmp_path)
    bare = {name.removeprefix("model."): value for name, value in net.state_dict().items() if "normalize" not in name}
    torch.save({"state_dict": {f"module.{name}": value for name, value in bare.items()}}, path)
    with torch.no_grad():
        assert_same_logits(open_backbone(case.uri, weights=path).model(images(1, 224)), net(images(1, 224)))


def test_a_missing_checkpoint_is_named_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTK_MODELS", str(tmp_path))
    wanted = tmp_path / "cifar10" / "Linf" / "Addepalli2022Efficient_RN18.pt"
    with pytest.raises(BadBackbone) as caught:
        open_backbone(RESNET.uri)
    assert str(wanted) in caught.value.message
    assert "--weights FILE" in caught.value.message
    assert f"gdown 1m5vhdzIUUKhDbsZdOG9z76Eyp6f4xe_f -O {wanted}" in (caught.value.hint or "")
    with pytest.raises(BadBackbone, match=r"curl -L -o .*XCiT-S12\.pt https://.*xcit-s-cifar10"):
        open_backbone(XCIT.uri)
    with pytest.raises(BadBackbone, match=r"curl -L -o .*Standard_R50\.pt https://"):
        open_backbone("robustbench:imagenet/Linf/Standard_R50")
    with pytest.raises(BadBackbone, match="gdown"):
        load_robustbench("Wong2020Fast", model_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Wong2020Fast", BadBackbone, "DATASET/THREAT/NAME"),
        ("cifar/Linf/Wong2020Fast", UnknownName, "Did you mean 'cifar10"),
        ("cifar10/linf/Wong2020Fast", UnknownName, "Did you mean 'Linf'"),
        ("cifar10/Linf/Wong2020Fats", UnknownName, "Did you mean 'Wong2020Fast'"),
        ("cifar10/Linf/Rade", UnknownName, "robustbench:cifar10/Linf/Rade2021Helper_R18"),
        ("cifar10/corruptions/Hendrycks2020AugMix_WRN", UnknownName, "Allowed: L2, Linf"),
        ("cifar10/Linf/Chen2020Adversarial", BadBackbone, "several networks"),
    ],
)
def test_wrong_names_are_refused(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_backbone(f"robustbench:{name}", weights="random")


def test_the_threat_is_that_of_the_leaderboard() -> None:
    assert open_backbone(RESNET.uri, weights="random").threat == Threat("Linf", 8 / 255)
    assert zoo_threat("cifar10", "L2", "Wu2020Adversarial") == Threat("L2", 0.5)
    assert zoo_threat("imagenet", "Linf", "Salman2020Do_R18") == Threat("Linf", 4 / 255)
    assert zoo_threat("cifar10", "Linf", "Standard") is None
    assert open_backbone("rtk:fashion-resnet", weights="random").threat == Threat("Linf", 0.1)


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from rtk.backbones.catalogue import list_backbones; import rtk.backbones as b; "
        "assert len(b.list_backbones()) == len(list_backbones()) > 160; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listings_name_what_can_be_opened() -> None:
    rows = list_backbones()
    own = [row.uri for row in rows if row.uri.startswith("rtk:")]
    assert own == ["rtk:cifar10-at", "rtk:cifar100-at", "rtk:fashion-resnet"]
    assert len({row.uri for row in rows}) == len(rows)
    marked = [row.uri.rsplit("/", 1)[-1] for row in rows if "cannot be fine-tuned" in row.note]
    assert set(marked) == ENSEMBLES
