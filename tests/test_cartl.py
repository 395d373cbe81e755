"""CARTL against its paper; the ids are those of the properties C1 to C15 that follow from its equations."""

from __future__ import annotations

import copy
import json
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rtk_plugins import cartl
from rtk_plugins.at import AT, ATConfig
from rtk_plugins.cartl import Cartl, CartlConfig, Fdm, FdmConfig, attach, detach, feature_distance, input_of, spectral
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import rtk
from rtk import Refusal
from rtk.backbones import Backbone, Classifier, open_backbone
from rtk.errors import BadBackbone, BadValue
from rtk.host import finetune
from rtk.registry import Plugin
from rtk.request import Request, RunOptions
from rtk.run import Origin
from rtk.threat import Threat

from .small_run import changed, snapshot
from .test_last_k import STATISTICS, Naive, convnext, norms_in, resnet, run_of, vit, wrap

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "warmup": 0.0, "augment": "none"}
FDM = {**SHORT, "k": 2, "attack_steps": 2, "select_steps": 0}


def matrix(weight: Tensor) -> Tensor:
    return weight.detach().double().flatten(1)


def norm(weight: Tensor) -> float:
    """Spectral norm of the kernel matrix."""
    return float(torch.linalg.matrix_norm(matrix(weight), ord=2))


def fdm(backbone: Backbone, directory: Path, changes: dict | None = None, **config: object) -> dict[str, Tensor]:
    run = run_of(backbone, directory, **(changes or {}))
    return snapshot(Fdm(FdmConfig(**{**FDM, **config})).finetune(copy.deepcopy(backbone.model), run))


def neft(backbone: Backbone, directory: Path, changes: dict | None = None, **config: object) -> dict[str, Tensor]:
    run = run_of(backbone, directory, **(changes or {}))
    return snapshot(Cartl(CartlConfig(**{**SHORT, "k": 2, **config})).finetune(copy.deepcopy(backbone.model), run))


def report(directory: Path) -> dict:
    return json.loads((directory / "report.json").read_text())


# source: feature distance minimisation


def pgd(naive: Naive, x: Tensor, y: Tensor, eps: float, steps: int, seed: int) -> Tensor:
    """PGD with a random start and step eps/4 on the network in evaluation mode."""
    moving, naive.batch_norms = naive.batch_norms, set()
    torch.manual_seed(seed)
    adversarial = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        loss = F.cross_entropy(naive(adversarial)["logits"], y)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + eps / 4 * gradient.sign()
        adversarial = (x + (adversarial - x).clamp(-eps, eps)).clamp(0, 1)
    naive.batch_norms = moving
    return adversarial.detach()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_fdm_equals_a_naive_one_in_float64(tmp_path: Path, reduction: str) -> None:
    """k = 2 cuts before layer3; BatchNorm sees the adversarial batch, then the clean one."""
    backbone = resnet(double=True)
    run = run_of(backbone, tmp_path)
    config = FdmConfig(**{**FDM, "epochs": 1}, penalty=0.3, reduction=reduction)
    tuned = Fdm(config).finetune(copy.deepcopy(backbone.model), run)

    naive = Naive(backbone, [name for name, _ in backbone.model.net.named_parameters()])
    naive.batch_norms = norms_in(backbone, "bn1", "layer")
    for number, batch in enumerate(run.loader(batch_size=8, shuffle=True, name="fine-tune").epoch(0)):
        adversarial = pgd(naive, batch.images, batch.labels, 0.05, 2, run.derive("fine-tune", 0, number))
        state = naive.leaves()
        attacked, clean = naive(adversarial, state), naive(batch.images, state)
        pairs = zip(attacked["layer3.0"], clean["layer3.0"], strict=True)
        apart = torch.stack([((a - b).square().sum() / (8 * 4 * 4)).sqrt() for a, b in pairs])
        loss = F.cross_entropy(attacked["logits"], batch.labels)
        loss = loss + 0.3 * (apart.sum() if reduction == "sum" else apart.sum() / len(batch.labels))
        naive.step(loss, state, 0.05, 0.9, 5e-4)
    assert naive.difference(tuned) < 1e-8
    assert report(tmp_path).items() >= {"k": 2, "cut": "layer3.0"}.items()


def test_C1_without_a_weight_it_is_adversarial_training(tmp_path: Path) -> None:
    """On GroupNorm, where the second forward leaves no trace."""
    backbone = resnet("group")
    common = {"epochs": 2, "batch_size": 8, "lr": 0.05, "weight_decay": 5e-4, "milestones": (), "augment": "none"}
    at = AT(ATConfig(**common, attack_steps=2, select_steps=0))
    expected = snapshot(at.finetune(copy.deepcopy(backbone.model), run_of(backbone, tmp_path / "at")))
    assert changed(expected, fdm(backbone, tmp_path / "fdm", penalty=0, milestones=())) == set()
    assert changed(expected, fdm(backbone, tmp_path / "far", penalty=1, milestones=())) != set()


def test_C1_without_a_ball_the_term_is_zero_and_so_is_its_gradient(tmp_path: Path) -> None:
    changes = {"threat": Threat("Linf", 0.0)}
    found = [fdm(resnet(), tmp_path / f"{weight}", changes, penalty=weight) for weight in (0, 100)]
    assert changed(*found) == set() and all(torch.isfinite(value).all() for value in found[1].values())


def test_C2_C3_what_the_distance_depends_on() -> None:
    a, b = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64)
    for reduction, factor in (("sum", 2.0), ("mean", 1.0)):
        once = feature_distance(a, b, reduction)
        assert feature_distance(torch.cat([a, a], 1), torch.cat([b, b], 1), reduction) == pytest.approx(float(once))
        assert feature_distance(torch.cat([a, a]), torch.cat([b, b]), reduction) == pytest.approx(factor * float(once))


def test_C4_gradients_reach_both_branches() -> None:
    a, b = torch.rand(2, 5, 6, dtype=torch.float64).requires_grad_()
    for_both = torch.autograd.grad(feature_distance(a, b, "sum"), (a, b))
    assert torch.equal(for_both[0], -for_both[1]) and for_both[0].abs().min() > 0


def test_C4_C5_the_features_are_what_the_cut_is_given_and_the_hook_is_gone_afterwards() -> None:
    backbone = resnet(double=True)
    images = torch.rand(3, 3, 16, 24)
    expected = Naive(backbone)(images)
    for k, name in ((1, "fc"), (2, "layer3.0"), (3, "layer2.0")):
        cut = backbone.structure.last(k)[0].modules[0]
        with input_of(backbone.model, cut) as caught:
            backbone.model(images)
            backbone.model(images)
        backbone.model(images)
        assert cut == name and len(caught) == 2 and caught[0].requires_grad
        assert (caught[0] - expected[name]).abs().max() < 1e-12


@pytest.mark.parametrize("build", [lambda: resnet("group"), convnext, vit])
def test_fdm_trains_networks_without_batchnorm(tmp_path: Path, build) -> None:
    backbone = build()
    tuned = fdm(backbone, tmp_path, {"n": 9, "shape": (32, 32)}, epochs=1, k=3)
    assert changed(snapshot(backbone.model), tuned) >= {name for name, _ in backbone.model.net.named_parameters()}


# target: what moves


@pytest.mark.parametrize("reuse", [None, False])
def test_neft_equals_a_naive_one_in_float64(tmp_path: Path, reuse: bool | None) -> None:
    """Effective weights by hand, one power iteration per step, gradient through sigma, exact norms at the end."""
    backbone = resnet(double=True)
    run = run_of(backbone, tmp_path)
    config = CartlConfig(**SHORT, k=2, beta=0.4, reuse_statistics=reuse)
    tuned = Cartl(config).finetune(copy.deepcopy(backbone.model), run)

    weights = ["layer3.0.conv1.weight", "layer3.0.conv2.weight", "layer3.0.shortcut.0.weight", "fc.weight"]
    everywhere = ("bn1", "layer")
    norms = norms_in(backbone, *(("layer3",) if reuse is None else everywhere))
    naive, vectors = Naive(backbone, [*weights, "fc.bias"], norms), {}
    for name in weights:
        left, _, right = torch.linalg.svd(matrix(naive.state[name]))
        vectors[name] = [left[:, 0], right[0]]
    loader = run.loader(batch_size=8, shuffle=True, name="fine-tune")
    for batch in (batch for epoch in range(2) for batch in loader.epoch(epoch)):
        state = naive.leaves()
        effective = dict(state)
        for name in weights:
            w = state[name].flatten(1)
            v = w.detach().T @ vectors[name][0]
            v = v / v.norm()
            u = w.detach() @ v
            vectors[name] = [u / u.norm(), v]
            effective[name] = (0.4 * w / (vectors[name][0] @ w @ v)).view_as(state[name])
        loss = F.cross_entropy(naive(batch.images, effective)["logits"], batch.labels)
        naive.step(loss, state, 0.05, 0.9, 5e-4)
    for name in weights:
        naive.state[name] = 0.4 * naive.state[name] / norm(naive.state[name])
    assert naive.difference(tuned) < 1e-8


@pytest.mark.parametrize("reuse, affine", [(True, True), (None, False), (False, True)])
def test_C6_C14_C15_the_extractor_and_the_two_switches(tmp_path: Path, reuse: bool | None, affine: bool) -> None:
    """Also after an evaluation in the middle, which puts every layer in evaluation mode and back."""
    backbone = resnet()
    tuned = neft(backbone, tmp_path, reuse_statistics=reuse, freeze_affine=affine, select="clean")
    moved = changed(snapshot(backbone.model), tuned)
    outside = {name for name in moved if not name.startswith(("layer3", "fc"))}
    assert all(name.endswith(STATISTICS) for name in outside)
    assert any(name.endswith("running_mean") for name in outside) == (reuse is False)
    assert "layer3.0.bn1.running_mean" in moved
    assert ("layer3.0.bn1.weight" in moved) != affine and ("layer3.0.bn2.bias" in moved) != affine


def test_C12_the_stem_never_moves_and_k_1_is_the_classifier(tmp_path: Path) -> None:
    backbone, moved = resnet(), []
    for k in (1, 2, 3, 4):
        tuned = neft(backbone, tmp_path / str(k), k=k, epochs=1, freeze_affine=False)
        moved.append({n for n in changed(snapshot(backbone.model), tuned) if not n.endswith(STATISTICS)})
    assert moved[0] == {"fc.weight", "fc.bias"} and moved[0] < moved[1] < moved[2] < moved[3]
    assert not any(name.startswith(("conv1", "bn1")) for name in moved[3])


# target: non-expansive fine-tuning


def test_C7_the_kept_norms_are_beta_and_no_other_weight_changes(tmp_path: Path) -> None:
    backbone = resnet()
    tuned = neft(backbone, tmp_path, k=3, beta=0.6, lr=0.3)
    kernels = [name for name, value in tuned.items() if value.ndim > 1]
    inside = [name for name in kernels if name.startswith(("layer2", "layer3", "fc"))]
    assert len(inside) == len(report(tmp_path)["normalised"]) == 3 + 3 + 1
    for name in inside:
        assert norm(tuned[name]) == pytest.approx(0.6, rel=1e-4)
    for name in set(kernels) - set(inside):
        assert torch.equal(tuned[name], snapshot(backbone.model)[name])
    residual = report(tmp_path)["norm_residual"]
    assert residual["kept"] < 1e-6 < residual["trained"], "training leaves its estimates; what is kept is exact"


def test_C7_power_iteration_underestimates_and_converges() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 27, dtype=torch.float64)
    rule = spectral()(weight, 1, 0.4)
    for vector in (rule.u, rule.v):
        vector.copy_(F.normalize(torch.randn_like(vector), dim=1))
    deployed = [norm(rule(weight)) for _ in range(200)]
    assert all(value >= 0.4 * (1 - 1e-12) for value in deployed) and deployed[0] > 0.41
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(deployed)) and deployed[
        -1
    ] == pytest.approx(0.4, rel=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_C8_only_the_direction_of_a_weight_matters(groups: int) -> None:
    """For any u and v, converged or not; group by group."""
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3, dtype=torch.float64).requires_grad_()
    rule = spectral()(weight.detach(), groups, 0.4).eval()
    for vector in (rule.u, rule.v):
        vector.copy_(torch.randn_like(vector))
    effective = rule(weight)
    assert torch.allclose(rule(3.7 * weight), effective, rtol=1e-12)
    (gradient,) = torch.autograd.grad((effective.square() * torch.randn_like(effective)).sum(), weight)
    products = (gradient * weight.detach()).reshape(groups, -1).sum(1)
    assert products.abs().max() < 1e-10 * gradient.norm() * weight.detach().norm()


def mlp(bias: bool = False) -> Classifier:
    torch.manual_seed(0)
    layers = [nn.Linear(48, 16, bias=bias), nn.ReLU(), nn.Linear(16, 12, bias=bias), nn.Tanh(), nn.Linear(12, 4, bias)]
    return Classifier(nn.Sequential(nn.Flatten(), *layers).double())


def test_C9_C10_attaching_and_detaching_scales_and_nothing_else() -> None:
    images = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    source, outputs = mlp(), []
    for beta in (1.0, 0.5):
        model = mlp()
        names = list(model.state_dict())
        assert attach(model, ["1", "3", "5"], beta) == ["1.weight", "3.weight", "5.weight"]
        assert set(model.state_dict()) != set(names) and copy.deepcopy(model) is not model
        detach(model)
        assert sorted(model.state_dict()) == sorted(names) and not any(
            map(parametrize.is_parametrized, model.modules())
        )
        for name, value in source.state_dict().items():
            assert torch.allclose(model.state_dict()[name], beta * value / norm(value), rtol=1e-12)
        outputs.append(model.net[:2](images))
    assert torch.allclose(0.5 * outputs[0], outputs[1], rtol=1e-12)


def test_C11_a_chain_of_such_layers_is_beta_to_the_k_lipschitz() -> None:
    model = mlp()
    attach(model, ["1", "3", "5"], 0.7)
    detach(model)
    a, b = torch.randn(2, 500, 3, 4, 4, dtype=torch.float64)
    apart = (model.net(a) - model.net(b)).norm(dim=1)
    assert (apart <= 0.7**3 * (a - b).flatten(1).norm(dim=1) * (1 + 1e-9)).all()


def test_C13_every_convolution_and_linear_layer_is_reached_however_nested() -> None:
    """In a bottleneck ResNet, a ConvNeXt and two transformers; the published code stops at direct children."""
    import torchvision

    small = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 16, num_classes=10)
    for backbone, k in ((open_backbone("timm:test_byobnet", weights="random"), 3), (convnext(), 3), (wrap(small), 3)):
        model = backbone.model
        modules = [module for block in backbone.structure.last(k) for module in block.modules]
        wanted = {
            name
            for name, value in model.net.named_parameters()
            if name.startswith(tuple(f"{module}." for module in modules))
            and value.ndim > 1
            and name.endswith("weight")  # layer scale and tokens are none
        }
        names = attach(model, modules, 0.5)
        assert set(names) == wanted and len(names) == len(wanted) > 2
        images = torch.rand(2, 3, 32, 32)
        assert torch.isfinite(model(images)).all()
        with torch.no_grad():  # attention takes another path here
            assert torch.isfinite(model(images)).all()
        detach(model)
        assert torch.isfinite(model(images)).all()


def test_depthwise_convolutions_are_normalised_channel_by_channel(tmp_path: Path) -> None:
    backbone = convnext()
    tuned = neft(backbone, tmp_path, {"n": 9, "shape": (32, 32)}, k=3, epochs=1)
    (name,) = [n for n in report(tmp_path)["normalised"] if "dw" in n and n.startswith("stages.3")]
    assert tuned[name].shape[1] == 1
    assert torch.allclose(tuned[name].flatten(1).norm(dim=1), torch.tensor(0.4), rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_kernel_of_zeros_stays_finite() -> None:
    weight = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    weight[1] = 0
    weight.requires_grad_()
    rule = spectral()(weight.detach(), 4, 0.4)
    effective = rule(weight)
    (gradient,) = torch.autograd.grad(effective.square().sum() + effective.sum(), weight)
    assert torch.isfinite(effective).all() and gradient.abs().max() < 1e3
    assert torch.equal(rule.exact(weight.detach())[1], torch.zeros(1, 3, 3, dtype=torch.float64))
    assert rule.residual(rule.exact(weight.detach())) < 1e-12


# refusals and reports


@pytest.mark.parametrize("build, guaranteed", [(resnet, True), (lambda: resnet("group"), False), (vit, False)])
def test_the_missing_guarantee_is_said_and_reported(tmp_path: Path, build, guaranteed: bool) -> None:
    said: list[str] = []

    class Listening(rtk.progress.Silent):
        def say(self, text: str) -> None:
            said.append(text)

    backbone = build()
    tuned = neft(backbone, tmp_path, {"progress": Listening(), "n": 9}, epochs=1)
    assert set(tuned) == set(snapshot(backbone.model))
    assert bool(said) != guaranteed and ("lipschitz" in report(tmp_path)) != guaranteed
    assert all("no Lipschitz guarantee" in text for text in said)


@pytest.mark.parametrize("build", [lambda: resnet("group"), convnext, vit])
def test_statistics_that_do_not_exist_cannot_be_reused(tmp_path: Path, build) -> None:
    with pytest.raises(Refusal, match="no running statistics to reuse"):
        neft(build(), tmp_path, reuse_statistics=True)


def test_k_beyond_the_network_and_a_network_without_blocks_are_refused(tmp_path: Path) -> None:
    plain = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)))
    for train in (fdm, neft):
        with pytest.raises(BadValue, match="1 to 4"):
            train(resnet(), tmp_path, k=5)
        with pytest.raises(BadBackbone, match="No ordered blocks"):
            train(plain, tmp_path)
    for kind, wrong in ((FdmConfig, {"k": 0}), (CartlConfig, {"k": 0}), (CartlConfig, {"beta": 0})):
        with pytest.raises(ValueError):
            kind(**wrong)


def test_weights_whose_norm_cannot_be_set_are_refused(tmp_path: Path) -> None:
    from timm.layers import ScaledStdConv2d, StdConv2d

    for kind in (StdConv2d, ScaledStdConv2d):
        backbone = resnet()
        backbone.model.net.layer3[0].conv2 = kind(8, 8, 3, padding=1)
        with pytest.raises(Refusal, match=r"'layer3\.0\.conv2\.weight' is standardised"):
            neft(backbone, tmp_path)
    for wrapper in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        model = mlp()
        wrapper(model.net[3])
        with pytest.raises(Refusal, match=r"'3\.weight' is parametrised already"):
            attach(model, ["1", "3"], 0.5)
        assert not parametrize.is_parametrized(model.net[1]), "nothing is changed by a request that is refused"
    with pytest.raises(Refusal, match="no convolution or linear layer"):
        attach(mlp(), ["2"], 0.5)


def test_the_published_start_of_the_classifier(tmp_path: Path) -> None:
    weight = neft(resnet(), tmp_path, epochs=0, head_init="uniform")["fc.weight"]
    assert weight.min() >= 0 and norm(weight) == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize("classes, shape", [(2, (16, 24)), (3, (40, 16))])
def test_few_classes_oblong_images_an_odd_last_batch_and_the_same_bits_again(
    tmp_path: Path, classes: int, shape: tuple[int, int]
) -> None:
    backbone = resnet(classes=classes)
    for train in (fdm, neft):
        changes = {"n": 17, "shape": shape}
        found = [train(backbone, tmp_path / f"{train.__name__}{i}", changes) for i in range(2)]
        assert changed(*found) == set() and all(torch.isfinite(value).all() for value in found[0].values())


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Weights, norms' vectors and optimiser come back from the checkpoint."""
    whole = neft(resnet(), tmp_path / "whole", epochs=3)
    neft(resnet(), tmp_path / "parts", epochs=1)
    assert changed(whole, neft(resnet(), tmp_path / "parts", epochs=3)) == set()


# both stages


def test_k_comes_from_the_source_stage_and_another_is_refused(tmp_path: Path) -> None:
    origin = Origin("fdm", {}, {"k": 1})
    neft(resnet(), tmp_path / "a", {"origin": origin}, k=None, epochs=0)
    assert report(tmp_path / "a")["k"] == 1
    neft(resnet(), tmp_path / "b", {"origin": Origin("at", {}, {"k": 1})}, k=None, epochs=0)
    assert report(tmp_path / "b")["k"] == cartl.K
    with pytest.raises(Refusal, match="--k 2: the backbone was trained by fdm for the last 1 blocks"):
        neft(resnet(), tmp_path / "c", {"origin": origin}, k=2)


def request(strategy: type[rtk.Strategy], out: Path, backbone: str, **config: object) -> Request:
    plugin = Plugin(strategy.name, "x", "rtk", "0", metadata.EntryPoint(strategy.name, "x", "rtk"))
    options = {"suite": ("clean",), "images": 20, "chunk_size": 20, "workers": 1, "device": "cpu", "out": out}
    weights = "random" if backbone.startswith("rtk:") else None
    settings = RunOptions(**options, backbone=backbone, weights=weights)
    return Request(strategy, plugin, strategy.config_type(epochs=0, **config), settings)


def test_the_host_hands_the_report_of_the_source_stage_on(tmp_path: Path) -> None:
    """`rtk finetune --strategy cartl --backbone run:DIR` after `--strategy fdm --k 2`."""
    finetune(request(Fdm, tmp_path / "source", "rtk:fashion-resnet", k=2))
    source = f"run:{tmp_path / 'source'}"
    result = finetune(request(Cartl, tmp_path / "target", source))
    assert result.report["k"] == 2 and result.report["norm_residual"]["kept"] < 1e-6
    assert set(result.trained["changed"]) == set(result.report["normalised"]), "the norms, since nothing was trained"
    with pytest.raises(Refusal, match="must cut the network at the same place"):
        finetune(request(Cartl, tmp_path / "other", source, k=3))
    assert not (tmp_path / "other").exists()


def test_the_paper_and_the_departures_are_stated() -> None:
    assert Cartl.setting == "target" and Fdm.setting == "source"
    assert Cartl.paper is Fdm.paper is not None and len(Cartl.departures) >= 8 and len(Fdm.departures) >= 3
