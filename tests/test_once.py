"""Computing what no epoch changes once: the same weights, whatever the network."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rtk.backbones import Backbone, Classifier, inspect
from rtk.backbones.prefix import After
from rtk.once import cut

from .small_run import changed, small_run, snapshot


def probe(backbone: Backbone, directory: Path, seen: list[nn.Module], **changes: object) -> dict[str, torch.Tensor]:
    """The weights after three epochs of the classifier alone."""
    run, model = small_run(backbone, directory), copy.deepcopy(backbone.model)

    def loss(model, step):
        seen.append(model)
        return F.cross_entropy(model(step.images), step.labels)

    settings = {
        "trainable": run.structure.parameters_in([run.structure.head]),
        "statistics": "keep",
        "mode": "eval",
        "augment": "none",
        "select": "clean",
        **changes,
    }
    run.fit(model, loss, epochs=3, lr=0.1, batch_size=20, **settings)  # type: ignore[arg-type]
    return snapshot(model)


def test_it_gives_the_weights_that_all_epochs_would(source: Backbone, tmp_path: Path) -> None:
    whole, once = [], []
    expected = probe(source, tmp_path / "whole", whole)
    found = probe(source, tmp_path / "once", once, once=True)
    assert {type(model) for model in whole} == {Classifier} and {type(model) for model in once} == {After}
    head = {f"{source.structure.head}.weight", f"{source.structure.head}.bias"}
    assert changed(snapshot(source.model), found) == head
    for name in head:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    selections = [(tmp_path / name / "report.json").read_text() for name in ("whole", "once")]
    assert selections[0] == selections[1]


@pytest.mark.parametrize(
    "changes", [{"augment": "crop"}, {"statistics": "update"}, {"mode": "train"}], ids=["crop", "statistics", "dropout"]
)
def test_what_changes_from_epoch_to_epoch_is_computed_in_each(
    source: Backbone, tmp_path: Path, changes: dict[str, str]
) -> None:
    seen: list[nn.Module] = []
    probe(source, tmp_path, seen, once=True, **changes)
    assert {type(model) for model in seen} == {Classifier}


@pytest.mark.parametrize("select", ["robust", None])
def test_what_judges_epochs_is_given_the_network_and_images(source: Backbone, tmp_path: Path, select) -> None:
    whole, once = [], []
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changes = {"select": select or (lambda model: float(model(image)[0, 0].detach())), "select_steps": 2}
    expected = probe(source, tmp_path / "whole", whole, **changes)
    found = probe(source, tmp_path / "once", once, once=True, **changes)
    assert {type(model) for model in once} == {After}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_normalisation_by_the_batch_is_not_computed_once(source: Backbone, tmp_path: Path) -> None:
    """BatchNorm without running statistics answers for an image by the others of its mini-batch."""
    backbone, seen = copy.deepcopy(source), []
    norm = backbone.model.net.get_submodule("bn1")
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    probe(backbone, tmp_path, seen, once=True)
    assert {type(model) for model in seen} == {Classifier}


class TwoWays(nn.Module):
    """Two tensors go from what is frozen to the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(3072, 8), nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images.flatten(1))
        return self.fc(hidden) + hidden.mean(1, keepdim=True)


def test_two_tensors_between_the_parts_are_not_kept(source: Backbone, tmp_path: Path) -> None:
    model = Classifier(TwoWays()).eval()
    structure = inspect(model, torch.rand(1, 3, 32, 32))
    run = small_run(source, tmp_path, structure=structure)
    assert cut(model, ["fc.weight"], [run.loader("train"), run.loader("val")]) is None


def test_nor_is_more_than_memory_is_meant_for(
    source: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(source, tmp_path)
    loaders = [run.loader("train"), run.loader("val")]
    assert cut(source.model, ["fc.weight"], loaders) is not None
    monkeypatch.setattr("rtk.once.KEPT_BYTES", 1000)
    assert cut(source.model, ["fc.weight"], loaders) is None


def test_where_memory_runs_out_fewer_images_go_at_once(
    source: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = probe(source, tmp_path / "whole", [], once=True)
    compute, most = nn.Conv2d.forward, []

    def small(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        most.append(len(images))
        return compute(layer, images)

    monkeypatch.setattr(nn.Conv2d, "forward", small)
    found = probe(source, tmp_path / "parts", [], once=True)
    assert 10 < max(most) <= 20
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
