"""RiFT against its paper; the ids are those of the properties R1 to R12 that follow from its equations."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtk_plugins import rift
from rtk_plugins.rift import Losses, Rift, RiftConfig, code_ascent, mix, modules, project, relative_ascent, select
from torch import nn

import rtk
from rtk import Refusal, UnknownName
from rtk.backbones import Classifier, open_backbone

from .small_run import changed, small_run, snapshot

QUICK = {"criticality_images": 32, "ascent_steps": 2, "attack_steps": 2, "epochs": 1, "alphas": 2}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def mlp(scale: float = 1.0, bias: bool = False) -> Classifier:
    """A two-layer ReLU network; `scale` moves norm between the layers without changing the function."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16, bias=bias), nn.ReLU(), nn.Linear(16, 4, bias=bias))
    with torch.no_grad():
        net[1].weight *= scale
        net[3].weight /= scale
    return Classifier(net.double())


def some(n: int = 20) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [((torch.rand(n, 3, 4, 4, generator=generator, dtype=torch.float64),), torch.arange(n) % 4)]


def score(model: nn.Module, name: str, epsilon: float = 0.1, steps: int = 10) -> float:
    losses = Losses(model, some())
    base, first = losses.gradients([name])
    return relative_ascent(losses, name, base, first[name], epsilon, steps)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), st.integers(0, 2**31 - 1))
def test_R1_the_ends_of_the_interpolation_are_bitwise_exact(values: list[float], seed: int) -> None:
    a = {"w": torch.tensor(values), "n": torch.tensor(3)}
    generator = torch.Generator().manual_seed(seed)
    b = {"w": torch.randn(len(values), generator=generator), "n": torch.tensor(7)}
    for alpha, expected in ((0.0, a), (1.0, b)):
        assert all(torch.equal(mix(a, b, alpha)[name], expected[name]) for name in a)


def test_R1_exact_also_for_infinity_and_minus_zero() -> None:
    a, b = {"w": torch.tensor([-0.0, 1.0])}, {"w": torch.tensor([5.0, torch.inf])}
    assert torch.signbit(mix(a, b, 0.0)["w"][0])
    assert mix(a, b, 1.0)["w"][1] == torch.inf


@pytest.mark.parametrize("buffers", ["frozen", "drift"])
def test_R2_R3_only_the_chosen_module_moves(source, tmp_path: Path, buffers: str) -> None:
    strategy = Rift(RiftConfig(**QUICK, buffers=buffers, weight_decay=0.1, lr=0.1))
    model = copy.deepcopy(source.model)
    before = snapshot(model)
    strategy.fine_tune(model, ["layer2.0.conv1.weight"], small_run(source, tmp_path))
    moved = changed(before, snapshot(model))
    statistics = {name for name in moved if name.endswith(STATISTICS)}
    assert moved - statistics == {"layer2.0.conv1.weight"}
    assert bool(statistics) == (buffers == "drift")


def test_R2_the_bias_of_a_linear_module_moves_with_it(source, tmp_path: Path) -> None:
    model = copy.deepcopy(source.model)
    before = snapshot(model)
    Rift(RiftConfig(**QUICK)).fine_tune(model, ["fc.weight"], small_run(source, tmp_path))
    assert changed(before, snapshot(model)) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("ascent", ["relative", "code"])
def test_R4_criticality_is_never_negative_and_zero_without_a_ball(ascent: str) -> None:
    model = mlp()
    losses = Losses(model, some())
    base, first = losses.gradients(list(modules(model)))
    for name in modules(model):
        for epsilon in (0.0, 0.05, 0.1, 0.2):
            if ascent == "code":
                value = code_ascent(losses, name, base, epsilon, 5, seed=0)
            else:
                value = relative_ascent(losses, name, base, first[name], epsilon, 5)
            assert value >= 0 and (epsilon > 0 or value == 0)


def test_R4_more_steps_and_a_larger_ball_never_find_less() -> None:
    model = mlp()
    for name in modules(model):
        by_steps = [score(model, name, steps=steps) for steps in (1, 2, 5, 10)]
        assert by_steps == sorted(by_steps)
        by_radius = [score(model, name, epsilon=epsilon, steps=20) for epsilon in (0.05, 0.1, 0.2)]
        assert by_radius == sorted(by_radius)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_R5_projection_stays_in_the_ball(seed: int, size: float, radius: float) -> None:
    delta = size * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    projected = project(delta, radius)
    assert projected.norm() <= radius * (1 + 1e-5)
    assert torch.equal(project(projected * 0.5, radius), projected * 0.5), "inside, nothing is changed"


def test_R6_rescaling_layers_changes_no_score() -> None:
    for name in modules(mlp()):
        assert [score(mlp(beta), name) for beta in (0.1, 10.0)] == pytest.approx([score(mlp(), name)] * 2, rel=1e-6)


def test_R6_the_published_ascent_is_not_invariant() -> None:
    """Why relative ascent is the default: the same function, another score."""
    each = [Losses(mlp(beta), some()) for beta in (1.0, 10.0)]
    plain, scaled = (code_ascent(losses, "1.weight", losses.mean({}), 0.1, 10, seed=0) for losses in each)
    assert scaled < 0.5 * plain


@pytest.mark.parametrize("ascent", ["relative", "code"])
def test_R7_criticality_leaves_the_network_untouched(source, tmp_path: Path, ascent: str) -> None:
    model = copy.deepcopy(source.model).train()
    before, modes = snapshot(model), [module.training for module in model.modules()]
    Rift(RiftConfig(**QUICK, ascent=ascent)).choose(model, small_run(source, tmp_path))
    assert changed(before, snapshot(model)) == set()
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("ascent", ["relative", "code"])
def test_R7_what_comes_before_a_module_is_computed_once_and_changes_no_score(source, ascent: str) -> None:
    generator = torch.Generator().manual_seed(3)
    losses = Losses(source.model, [((torch.rand(6, 3, 32, 32, generator=generator),), torch.arange(6)) for _ in "ab"])
    operations = rtk.Operations.of(source.model, torch.rand(5, 3, 32, 32, generator=generator))
    base, first = losses.gradients(list(modules(source.model)))

    def score(losses: Losses, name: str) -> float:
        if ascent == "code":
            return code_ascent(losses, name, base, 0.1, 2, seed=0)
        return relative_ascent(losses, name, base, first[name], 0.1, 3)

    for name in modules(source.model):
        later = losses.beginning_at(name, operations)
        assert later.model is not losses.model
        assert score(later, name) == pytest.approx(score(losses, name), rel=1e-5, abs=1e-7)


def test_R8_no_random_perturbation_beats_the_score_of_a_convex_loss() -> None:
    torch.manual_seed(0)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double())
    losses, name = Losses(model, some()), "1.weight"
    base, first = losses.gradients([name])
    reported = relative_ascent(losses, name, base, first[name], 0.1, 20)
    weight = losses.weights[name]
    for _ in range(200):
        delta = torch.randn_like(weight)
        moved = weight + delta / delta.norm() * 0.1 * weight.norm()
        assert losses.mean({name: moved}) - base <= reported * (1 + 1e-6)


def test_R8_the_score_is_the_true_maximum_where_it_is_known() -> None:
    """One ascent direction on a linear loss: f(w) = <w, g> rises by exactly radius * ||g|| at most."""

    class Linear(Losses):
        gradient = torch.tensor([[3.0, 4.0]])

        def __init__(self) -> None:
            self.weights = {"w": torch.tensor([[1.0, 0.0]])}

        def gradients(self, names, weights=None):
            return self.mean(weights or self.weights), {names[0]: self.gradient}

        def mean(self, weights):
            return float((weights["w"] * self.gradient).sum())

    base, first = Linear().gradients(["w"])
    assert relative_ascent(Linear(), "w", base, first["w"], 0.1, 5) == pytest.approx(0.1 * 5.0)


def test_R9_the_loss_along_the_path_of_a_linear_model_is_convex() -> None:
    torch.manual_seed(0)
    model, batches = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double()), some()
    losses, source = Losses(model, batches), dict(model.native_state())
    target = {name: value + torch.randn_like(value) for name, value in source.items()}
    values = [losses.mean(mix(source, target, step / 10)) for step in range(11)]
    for left, middle, right in zip(values, values[1:], values[2:], strict=False):
        assert middle <= (left + right) / 2 + 1e-9


points = st.tuples(st.integers(0, 1000), st.integers(0, 1000))


@given(st.lists(points, min_size=1, max_size=11), st.floats(0, 2))
def test_R10_the_selection_never_breaks_its_constraint(values: list[tuple[int, int]], tolerance: float) -> None:
    curve = [{"alpha": i / 10, "clean": c / 1000, "robust": r / 1000} for i, (c, r) in enumerate(values)]
    best = next(point for point in curve if point["alpha"] == select(curve, tolerance / 100))
    assert best["robust"] >= curve[0]["robust"] - tolerance / 100 - 1e-9
    for point in curve:
        if point["robust"] >= curve[0]["robust"]:
            assert best["clean"] >= point["clean"]


def test_R10_alpha_0_when_nothing_else_keeps_the_robustness_and_the_tolerance_is_in_points() -> None:
    curve = [{"alpha": 0.0, "clean": 0.8, "robust": 0.5}, {"alpha": 1.0, "clean": 0.9, "robust": 0.4985}]
    assert select(curve, 0.1 / 100) == 0.0
    assert select(curve, 0.2 / 100) == 1.0


def test_R11_integer_buffers_keep_their_type() -> None:
    mixed = mix({"n": torch.tensor(3)}, {"n": torch.tensor(7)}, 0.3)
    assert mixed["n"].dtype == torch.int64 and int(mixed["n"]) == 4


@pytest.mark.filterwarnings("error")
def test_R12_a_module_of_zeros_scores_zero() -> None:
    model = mlp()
    with torch.no_grad():
        model.net[1].weight.zero_()
    assert score(model, "1.weight") == 0
    losses = Losses(model, some())
    assert code_ascent(losses, "1.weight", losses.mean({}), 0.1, 3, seed=0) == 0


def test_the_modules_are_the_linear_maps(source) -> None:
    """Ten in the embedded network: the stem, six convolutions of blocks, two shortcuts, the classifier."""
    names = list(modules(source.model))
    assert len(names) == 10 and {"conv1.weight", "layer2.0.shortcut.0.weight", "fc.weight"} <= set(names)


@pytest.mark.parametrize(
    "name, count", [("timm:vit_tiny_patch16_224", 4 * 12 + 2), ("torchvision:vit_b_16", 4 * 12 + 2)]
)
def test_attention_projections_are_modules_and_tokens_are_not(name: str, count: int) -> None:
    names = modules(open_backbone(name, weights="random", classes=10).model)
    assert len(names) == count
    assert any("qkv" in each or "in_proj_weight" in each for each in names)
    assert not any(word in each for each in names for word in ("norm", "ln", "pos_embed", "cls_token"))


def test_the_counts_of_the_paper() -> None:
    """21 modules in a CIFAR ResNet-18, 35 in a WRN-34-10, as the published code lists."""
    for name, count in (("Addepalli2022Efficient_RN18", 21), ("Addepalli2022Efficient_WRN_34_10", 35)):
        assert len(modules(open_backbone(f"robustbench:cifar10/Linf/{name}", weights="random").model)) == count


def test_the_whole_method_on_real_images(source, tmp_path: Path) -> None:
    run = small_run(source, tmp_path)
    before = snapshot(source.model)
    tuned = Rift(RiftConfig(**QUICK)).finetune(copy.deepcopy(source.model), run)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["chosen"] == [min(report["criticality"], key=report["criticality"].get)]
    assert [point["alpha"] for point in report["interpolation"]] == [0, 0.5, 1]
    assert changed(before, snapshot(tuned)) <= {report["chosen"][0], report["chosen"][0].replace("weight", "bias")}
    assert run.robust_accuracy(tuned, attack=run.attack(steps=2)).value >= report["interpolation"][0]["robust"] - 0.001


@pytest.mark.parametrize("module, expected", [("last", ["fc.weight"]), ("conv1", ["conv1.weight"])])
def test_the_module_can_be_named(source, tmp_path: Path, module: str, expected: list[str]) -> None:
    run = small_run(source, tmp_path)
    assert Rift(RiftConfig(module=module)).choose(source.model, run) == expected


def test_most_critical_and_top_k(source, tmp_path: Path) -> None:
    run = small_run(source, tmp_path)
    scores = Rift(RiftConfig(**QUICK)).criticality(source.model, list(modules(source.model)), run)
    most = Rift(RiftConfig(**QUICK, module="most", top=2)).choose(source.model, run)
    assert most == sorted(scores, key=scores.__getitem__)[::-1][:2]


def test_an_unknown_module_is_refused_with_the_nearest_name(source, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"layer2\.0\.conv1\.weight"):
        Rift(RiftConfig(module="layer2.0.conv11")).choose(source.model, small_run(source, tmp_path))


def test_a_new_classifier_is_refused(tmp_path: Path) -> None:
    other = open_backbone("rtk:fashion-resnet", weights="random", classes=10, new_head=True)
    with pytest.raises(Refusal, match="own data"):
        Rift(RiftConfig(**QUICK)).finetune(other.model, small_run(other, tmp_path))


def test_the_paper_and_the_departures_are_stated() -> None:
    assert rift.Rift.paper is not None and rift.Rift.paper.venue == "ICCV 2023"
    assert len(rift.Rift.departures) >= 6
