"""Several processes train one network: they take the steps that one process takes, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from rtk import environment
from rtk.backbones import hash_state
from rtk.distributed import shares
from rtk.errors import BadValue, Refusal
from rtk.results import read
from rtk.whole_batch import WholeBatch

from .distributed_cases import CASES, OTHERS, QUICKLY, SLOWLY
from .test_cli import wait_for
from .test_isolation import install

TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ROOT = Path(__file__).parent.parent
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest relative distance of a tensor from its counterpart."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - value).double().norm() / value.double().norm().clamp(min=1e-30))
        for name, value in expected.items()
    )


# the steps are those of one process


def together(folder: Path, names: Iterable[str]) -> dict[str, list[dict]]:
    """What two processes end with, by case."""
    command = [*TOGETHER, "-m", "tests.distributed_cases", str(folder), *names]
    subprocess.run(command, cwd=ROOT, env=ALONE, check=True)
    return {name: [torch.load(folder / name / f"{rank}.pt") for rank in (0, 1)] for name in names}


def check_equal(name: str, found: list[dict], folder: Path) -> None:
    """Both processes have the same bits, and those are what one process ends with, but for rounding."""
    assert hash_state(found[0]) == hash_state(found[1])
    assert difference(found[0], CASES[name](folder)) < (1e-5 if "float32" in name else 1e-9)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    return together(tmp_path_factory.mktemp("together"), [*QUICKLY, *OTHERS])


@pytest.mark.parametrize("name", QUICKLY)
def test_two_processes_end_with_the_weights_of_one(name: str, ends: dict[str, list[dict]], tmp_path: Path) -> None:
    """With an odd step at the end of every epoch; attack noise, augmentation and dropout are those of one process."""
    check_equal(name, ends[name], tmp_path)


@pytest.mark.slow
def test_the_other_strategies_do_so_too(tmp_path: Path) -> None:
    """Slow, as it trains six more of them."""
    for name, found in together(tmp_path / "together", SLOWLY).items():
        check_equal(name, found, tmp_path / name)


def test_a_resumed_run_of_two_ends_with_the_bits_of_an_unbroken_one(ends: dict[str, list[dict]]) -> None:
    assert hash_state(ends["resumed"][0]) == hash_state(ends["noise"][0])


def test_every_image_of_a_step_is_seen_once(ends: dict[str, list[dict]], tmp_path: Path) -> None:
    """Steps of 16, 16 and 11 images in two parts each; the order of images is that of one process."""
    first, second = (each["rows"] for each in ends["seen"])
    alone = CASES["seen"](tmp_path)["rows"]
    for one, other, whole in zip(first, second, alone, strict=True):
        assert one[:3] == other[:3] == whole[:3]
        assert one[4] + other[4] == whole[4] and abs(len(one[4]) - len(other[4])) <= 1
        assert one[3] + other[3] == pytest.approx(whole[3])


def test_what_cannot_go_on_ends_with_one_error_in_all_processes(ends: dict[str, list[dict]]) -> None:
    said = [each["said"] for each in ends["too small"]]
    assert (
        said
        == ["fine-tune: needs steps of 2 images or more for 2 processes (got --batch-size 1 and 43 training images)."]
        * 2
    )
    said = [each["said"] for each in ends["infinite"]]
    assert said[0] == said[1] and "the loss is nan at epoch 1, step 2" in said[0]


@given(st.integers(0, 70), st.integers(1, 3), st.integers(1, 5))
def test_shares_are_a_partition_that_respects_sections(count: int, sections: int, processes: int) -> None:
    found = shares(count, sections, processes)
    length = count // sections
    assert sorted(torch.cat(found).tolist()) == list(range(length * sections))
    for part in found:
        assert part.tolist() == sorted(part.tolist())
        sizes = [int(((part >= s * length) & (part < (s + 1) * length)).sum()) for s in range(sections)]
        assert len(set(sizes)) == 1 and abs(sizes[0] - length / processes) < 1


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 2**31))
def test_the_draws_of_the_parts_are_those_of_the_whole(count: int, processes: int, seed: int) -> None:
    whole = torch.ones(count, 3, 2)

    def draws(images: torch.Tensor) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [
            torch.randn_like(images),
            torch.rand(len(images), 5),
            images.clone().uniform_(-1, 1),
            F.dropout(images, 0.3),
            torch.randn((len(images), 1)),
            torch.empty_like(images).bernoulli_(0.4),
            torch.zeros_like(images).exponential_(2.0),
            torch.empty_like(images).log_normal_(),
            torch.empty_like(images).random_(9),
            torch.randint_like(images, 7),
            torch.randint(9, (len(images), 2)),
            torch.randint(1, 9, size=(len(images),)),
            torch.bernoulli(0.3 * images),
            torch.normal(images, 0.5 * images),
            torch.normal(0.0, 0.5 * images),
            torch.normal(0.0, 2.0, (len(images), 3)),
            torch.multinomial(images.flatten(1), 2),
            torch.dropout(images, 0.4, True),
            F.gumbel_softmax(images),
            F.alpha_dropout(images, 0.3, training=True),
            F.feature_alpha_dropout(images, 0.3, training=True),
            F.scaled_dot_product_attention(images, images, images, dropout_p=0.3),
        ]

    expected = draws(whole)
    for part in shares(count, 1, processes):
        with WholeBatch(part, count):
            found = draws(whole[part])
        assert all(torch.equal(one, other[part]) for one, other in zip(found, expected, strict=True))


@given(st.integers(2, 20), st.integers(2, 4), st.sampled_from(["last", "first", "turned"]))
def test_draws_follow_the_memory_of_the_whole(count: int, processes: int, form: str) -> None:
    """Networks compute with channels innermost, and draws are made in the order of the memory."""
    whole = torch.randn(count, 3, 5, 4)
    turned = {
        "first": lambda images: images.contiguous(),
        "last": lambda images: images.contiguous(memory_format=torch.channels_last),
        "turned": lambda images: images.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
    }[form]

    def draws(images: torch.Tensor) -> list[torch.Tensor]:
        torch.manual_seed(0)
        kept = [F.dropout(images, 0.5), F.dropout2d(images, 0.5), torch.rand_like(images)]
        return [*kept, images.clone().uniform_(), torch.bernoulli(torch.ones_like(images) / 2)]

    expected = draws(turned(whole))
    for part in shares(count, 1, processes):
        if len(part) < 2:  # of one image alone the memory does not say in which order more would lie
            continue
        with WholeBatch(part, count):
            found = draws(turned(whole[part]))
        assert all(torch.equal(one, other[part]) for one, other in zip(found, expected, strict=True))


def test_what_cannot_be_drawn_in_parts_is_refused() -> None:
    attention, images = torch.nn.MultiheadAttention(4, 2, dropout=0.5), torch.randn(3, 2, 4)
    with WholeBatch(torch.tensor([0, 1]), 4):
        attention.eval()(images, images, images)
        with pytest.raises(Refusal, match="multi_head_attention_forward"):
            attention.train()(images, images, images)
        with pytest.raises(Refusal, match="rrelu"):
            F.rrelu(images, training=True)


# devices


def test_a_gpu_for_all_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadValue, match="several processes need a GPU each"):
        environment.device("cuda:0")
    assert environment.device("cpu") == torch.device("cpu")


# the command


# a small rate: rounding alone grows beyond 1e-5 within a few epochs at ten times this one, also in a single process
TRAIN = ["finetune", "--strategy", "last-k", "--epochs", "3", "--lr", "0.001", "--select", "clean", "--quiet"]
TRAIN += ["--suite", "clean", "--images", "40", "--device", "cpu"]


def begin(folder: Path, *typed: str, environment: dict[str, str] = ALONE) -> subprocess.Popen[str]:
    command = [*TOGETHER, "-m", "rtk.cli", *typed]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1, text=True)


def main_alone(folder: Path, *typed: str) -> int:
    return subprocess.run([sys.executable, "-m", "rtk.cli", *typed], cwd=folder, env=ALONE, stdout=-3).returncode


def said(process: subprocess.Popen[str]) -> list[str]:
    """Wait for the end; what rtk printed on stderr, without torchrun's own report."""
    _, err = process.communicate(timeout=120)
    return [line for line in err.splitlines() if line.startswith("rtk: ")]


def rank_of(process: str) -> str | None:
    variables = (Path("/proc") / process / "environ").read_text().split("\0")
    return next((each.removeprefix("RANK=") for each in variables if each.startswith("RANK=")), None)


def children(parent: int) -> dict[str | None, int]:
    """The processes that torchrun has started, by rank."""
    found = {}
    for task in (Path("/proc") / str(parent) / "task").glob("*/children"):
        found.update({rank_of(child): int(child) for child in task.read_text().split()})
    return found


@pytest.mark.slow
def test_a_run_of_two_processes_survives_the_death_of_one(tmp_path: Path) -> None:
    """One folder, one table, one line of error; the same command goes on to the weights of an unbroken run.

    Slow for its runs, of two processes each.
    """
    broken = begin(tmp_path, *TRAIN, "--out", "run")
    wait_for(lambda: (tmp_path / "run" / "log.jsonl").exists() or broken.poll() is not None)
    os.kill(children(broken.pid)["1"], signal.SIGKILL)
    lines = said(broken)
    assert len(lines) == 1 and "what was finished is kept" in lines[0] and "the same command" in lines[0]
    assert broken.returncode == 1 and not (tmp_path / "run" / "result.json").exists()

    again = begin(tmp_path, *TRAIN, "--out", "run")
    assert said(again) == [] and again.returncode == 0
    assert main_alone(tmp_path, *TRAIN, "--out", "alone") == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("run", "alone")]
    assert difference(*weights) < 1e-5
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]

    result = read(tmp_path / "run" / "result.json")
    assert result.environment["processes"] == 2 and result.environment["backend"] == "gloo"
    assert "processes" not in read(tmp_path / "alone" / "result.json").environment
    assert not list((tmp_path / "run" / "work").glob("*.pt"))


WRONG = {
    "one fails": (
        "import os\n"
        "        if os.environ['RANK'] == '1':\n"
        "            raise rtk.RtkError('No luck.', 'another day')\n"
        "        run.accuracy(model)",
        "rtk: No luck. Try: another day",
    ),
    "they differ": (
        "import os; next(model.parameters()).data.add_(float(os.environ['RANK']))",
        "rtk: plugin 'third' of rtk-third 2.5: the networks differ in 1 of the 2 processes."
        " Try: one process, without torchrun",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_strategy_that_is_not_the_same_in_all_processes_is_named_once(kind: str, tmp_path: Path) -> None:
    """A third party's, whose processes are looked after by others."""
    body, expected = WRONG[kind]
    found = begin(
        tmp_path, "finetune", "--strategy", "third", "--out", "run", "--quiet", environment=install(tmp_path, body)
    )
    assert said(found) == [expected] and found.returncode == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_other_commands_are_refused_once(tmp_path: Path) -> None:
    found = begin(tmp_path, "evaluate", "rtk:fashion-resnet")
    assert said(found) == ["rtk: Of the commands, torchrun can start `rtk finetune` alone. Try: rtk without torchrun"]
