"""Every family of backbones: loading, structure, features, a new classifier, and the way through a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from rtk.backbones import Backbone, describe, hash_state, open_backbone, rebuild, write_state

from .backbones_planted import CASES, Case, images, plant, reference_logits


@dataclass
class Planted:
    case: Case
    net: nn.Module
    path: Path
    backbone: Backbone


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.uri.split("/")[-1])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    case: Case = request.param
    net, path = plant(case, tmp_path_factory.mktemp("planted"))
    backbone = open_backbone(case.uri, weights=path)
    return Planted(case, net, path, backbone)


def test_the_weights_of_the_file_are_used(planted: Planted) -> None:
    backbone = planted.backbone
    with torch.no_grad():
        logits = backbone.model(images())
        expected = reference_logits(planted.case, planted.net, images())
    assert logits.shape == (2, backbone.classes)
    torch.testing.assert_close(logits, expected)
    assert backbone.weights_sha256 == hash_state(planted.net.state_dict())
    assert not backbone.new_head
    assert not any(module.training for module in backbone.model.modules())


def test_the_structure_is_that_of_the_paper(planted: Planted) -> None:
    case, structure = planted.case, planted.backbone.structure
    assert len(structure.blocks) == case.length
    assert (structure.head, structure.feature_dim) == (case.head, case.features)
    assert str(structure.norms) == case.norms
    assert structure.unused == case.unused
    assert structure.last(1)[0].modules == (case.head,)
    assert structure.stem


def test_every_parameter_is_in_one_place(planted: Planted) -> None:
    structure = planted.backbone.structure
    places = [*structure.stem, *structure.unused, *(name for block in structure.blocks for name in block.modules)]
    found = [name for place in places for name in structure.parameters_in([place])]
    assert sorted(found) == sorted(name for name, _ in planted.net.named_parameters())


def test_features_enter_the_classifier_and_gradients_reach_the_image(planted: Planted) -> None:
    backbone = planted.backbone
    batch = images(1).requires_grad_()
    logits, features = backbone.structure.features(backbone.model, batch)
    assert features.shape == (1, planted.case.features)
    torch.testing.assert_close(backbone.structure.head_of(backbone.model)(features), logits)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum() + features.square().sum(), batch)
    assert gradient.shape == batch.shape
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_a_new_classifier_changes_nothing_else_and_survives_a_run_folder(planted: Planted, tmp_path: Path) -> None:
    changed = open_backbone(planted.case.uri, weights=planted.path, classes=7, seed=5)
    assert (changed.classes, changed.new_head) == (7, True)
    assert changed.weights_sha256 == planted.backbone.weights_sha256
    before, after = planted.backbone.model.native_state(), changed.model.native_state()
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    assert differing == {name for name in before if name.startswith(f"{planted.case.head}.")}

    (tmp_path / "backbone.json").write_text(json.dumps(describe(changed)))
    write_state(tmp_path / "model.safetensors", after)
    again = open_backbone(f"run:{tmp_path}")
    assert (again.classes, again.new_head, again.threat) == (7, False, changed.threat)
    assert again.weights_sha256 == hash_state(after)
    assert again.structure == changed.structure
    assert again.spec == json.loads(json.dumps(changed.spec))
    bare = rebuild(again.spec)
    bare.load_native(after)
    with torch.no_grad():
        logits = changed.model(images())
        assert torch.equal(again.model(images()), logits)
        assert torch.equal(bare(images()), logits)
