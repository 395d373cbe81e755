"""Training attacks search on the same function of images as the network that trains, whatever its weights are."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import rtk
from rtk.attacks import pgd
from rtk.backbones import Classifier
from rtk.backbones.folded import Twin
from rtk.errors import BadValue
from rtk.searched import Padded, Searched
from rtk.threat import Threat

from . import masked_networks as networks
from .backbones_planted import from_timm, from_zoo
from .small_run import small_run

EPS = Threat("Linf", 0.1)


def searched(asked: str, said: list[str] | None = None) -> Searched:
    return Searched(asked, "float32", lambda name, compute: compute(), (said if said is not None else []).append)


def trained(model: Classifier, images: torch.Tensor, labels: torch.Tensor, steps: int = 3) -> None:
    """Steps of SGD that move weights and statistics."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize(
    "build",
    [
        from_zoo("cifar10", "Linf", "Addepalli2022Efficient_RN18"),
        from_zoo("cifar10", "Linf", "Carmon2019Unlabeled"),  # with BatchNorm that is not folded
    ],
    ids=["ResNet-18", "WRN-28-10"],
)
def test_a_twin_follows_weights_and_statistics(build) -> None:
    torch.manual_seed(0)
    model, images, labels = Classifier(build()).eval(), torch.rand(6, 3, 32, 32), torch.arange(6)
    twin = Twin.of(model)
    assert twin is not None and twin.agrees(model, images)
    trained(model, images, labels, steps=1)
    assert not twin.agrees(model, images)
    twin.follow()
    assert twin.agrees(model, images)


def test_what_is_kept_is_what_folding_anew_gives(source, images) -> None:
    model = copy.deepcopy(source.model).eval()
    twin = Twin.of(model)
    trained(model, *images)
    twin.follow()
    anew = Twin.of(model)
    for name, value in anew.network.state_dict().items():
        assert torch.equal(value, twin.network.state_dict()[name]), name


def test_the_attack_of_every_step_is_that_on_the_network_but_for_rounding(source, images) -> None:
    model, (x, y) = copy.deepcopy(source.model).eval(), images
    plain, said = pgd(EPS, steps=5), []
    attack = replace(plain, search=searched("auto", said))
    for seed in range(3):
        expected, found = plain(model, x, y, seed=seed), attack(model, x, y, seed=seed)
        assert (expected - found).abs().mean() < 1e-4  # where a gradient is next to nothing its sign may differ
        trained(model, x, y, steps=2)
    assert said == ["9 BatchNorm layers folded into what comes before"]


def test_every_network_is_followed_whatever_was_attacked_before(source, images) -> None:
    first, second = (copy.deepcopy(source.model).eval() for _ in range(2))
    trained(second, *images)
    mixed, alone = searched("auto"), searched("auto")
    mixed(first, images[0])
    found, expected = (search(second, images[0]).state_dict() for search in (mixed, alone))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert mixed(first, images[0]) is not mixed(second, images[0])
    del second
    assert len(mixed.known) == 1, "what is gone is forgotten"


def test_a_network_that_was_rebuilt_is_folded_anew(source, images) -> None:
    model, search = copy.deepcopy(source.model).eval(), searched("auto")
    search(model, images[0])
    model.net.fc = nn.Linear(model.net.fc.in_features, 10)
    assert torch.allclose(search(model, images[0])(images[0]), model(images[0]), atol=1e-3)


def test_hooks_are_asked_about_again(source, images) -> None:
    """What one network was found to be says nothing of one that prints alike and answers otherwise."""
    model, kept = copy.deepcopy(source.model).eval(), {}

    def once(name, compute):
        return kept.setdefault(name, compute()) if name not in kept else kept[name]

    Searched("auto", "float32", once, lambda _: None)(model, images[0])
    model.net.bn1.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert Searched("auto", "float32", once, lambda _: None)(model, images[0]) is model
    assert len(kept) == 2


@pytest.mark.parametrize("asked", ["auto", "none"])
def test_where_nothing_is_folded_it_is_the_network_itself(source, images, asked: str) -> None:
    said: list[str] = []
    nets = [networks.plain_cnn(), from_timm("resnet50_gn", num_classes=10)()] if asked == "auto" else [source.model.net]
    for net in nets:
        model = Classifier(net).eval()
        assert searched(asked, said)(model, images[0][:4]) is model
    assert set(said) == {"the network as it is"}


class Draws(networks.Wrapped):
    """What tracing sees is not what it computes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            known = self.net(images)
        return known + images.flatten(1)[:, :10] / 100


def test_where_folding_changes_something_it_is_the_network_itself(source, images) -> None:
    model = Classifier(Draws(source.model.net)).eval()
    assert searched("auto")(model, images[0]) is model


def test_a_resumed_run_does_not_ask_again(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.rand(8, *source.model.mean.shape[1:2], 28, 28), torch.arange(8)
    for answer in (True, False):
        run = small_run(source, tmp_path / str(answer))
        monkeypatch.setattr(Twin, "agrees", lambda *_, answer=answer: answer)
        run.attack(steps=1)(source.model, x, y, seed=0)
        monkeypatch.setattr(Twin, "agrees", lambda *_: pytest.fail("asked again"))
        attack = small_run(source, tmp_path / str(answer)).attack(steps=1)
        attack(source.model, x, y, seed=0)
        assert (attack.search(source.model, x) is not source.model) == answer
        monkeypatch.undo()


def test_networks_are_padded_to_the_number_that_they_are_compiled_for(source, images) -> None:
    sizes: list[int] = []

    def counted(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return source.model(part)

    padded = Padded(counted, 16)
    for count in (16, 5, 40):
        x = images[0][:count]
        assert torch.allclose(padded(x), source.model(x), atol=1e-5)
    assert set(sizes) == {16}


OPTIONS = {
    "dataset": "fashion",
    "epochs": 1,
    "attack_steps": 1,
    "select": "last",
    "batch_size": 1000,
    "suite": "clean",
    "images": 200,
    "precision": "float32",
}


@pytest.mark.slow  # compiling takes a minute
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_networks_train_as_others_do(tmp_path: Path) -> None:
    found = {}
    for asked in ("none", "inductor"):
        found[asked] = rtk.finetune("at", out=tmp_path / asked, compile=asked, **OPTIONS)
    said = found["inductor"].report["training_attack"]
    assert said.endswith("9 BatchNorm layers folded into what comes before; compiled by torch.compile"), said
    clean = [result.rows[1].scores["clean"].correct for result in found.values()]
    assert abs(clean[0] - clean[1]) <= 4, clean


def test_what_cannot_be_compiled_is_said(source, images, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCompiler(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("No working C++ compiler found\nin torch._inductor.config.cpp.cxx")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: NoCompiler())
    with pytest.raises(
        BadValue, match=r"--compile inductor: torch.compile failed here \(RuntimeError: No working C\+\+"
    ):
        searched("inductor")(copy.deepcopy(source.model).eval(), images[0][:4])
