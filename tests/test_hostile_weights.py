"""Checkpoints that somebody else made: nothing in them is run, no memory is taken for what they claim, and what no
network can hold is refused. Every refusal says what to do, and leaves nothing behind.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import rtk
from rtk import files, results
from rtk.backbones import SmallResNet, load_robustbench, open_backbone, read_state, write_state
from rtk.backbones.pickled import code_in
from rtk.errors import BadBackbone, BadValue
from rtk.request import build

from .test_cli import Command, command  # noqa: F401 - a fixture

FASHION = "rtk:fashion-resnet"
TINY = ["--images", "8", "--suite", "clean", "--workers", "1", "--device", "cpu", "--quiet"]


class Makes:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in open_backbone(FASHION).model.native_state().items()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder that is there once code of a file was run."""
    return tmp_path / "made"


def old(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def bare_2(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def numpys(content: object, path: Path) -> None:
    with path.open("wb") as file:  # np.save would give it a suffix
        np.save(file, np.array([content], dtype=object), allow_pickle=True)


# code


@pytest.mark.parametrize("save", [torch.save, old, bare, bare_2, numpys])
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "safetensors"])
def test_code_in_a_checkpoint_is_not_run(
    save: Callable[[object, Path], None], suffix: str, state: dict[str, Tensor], tmp_path: Path, made: Path
) -> None:
    path = tmp_path / f"w.{suffix}"
    save({"state_dict": state, "hook": Makes(made)}, path)
    with pytest.raises(BadBackbone) as refused:
        open_backbone(FASHION, weights=path)
    assert not made.exists() and str(path) in refused.value.message
    pickle.loads(pickle.dumps(Makes(made)))  # it does what it says
    assert made.exists()


@pytest.mark.parametrize("save", [torch.save, old])
def test_the_refusal_says_what_would_have_run_and_what_to_do(
    save: Callable[[object, Path], None], state: dict[str, Tensor], tmp_path: Path, made: Path
) -> None:
    save({"state_dict": state, "hook": Makes(made)}, tmp_path / "w.pt")
    with pytest.raises(
        BadBackbone, match=r"code from the file to be run \(posix\.mkdir\), which rtk refuses"
    ) as refused:
        read_state(tmp_path / "w.pt")
    assert refused.value.hint and refused.value.hint.startswith("--trust-checkpoint, if you would run a program")


def test_names_of_code_are_found_in_every_way_of_naming_it(tmp_path: Path) -> None:
    """By protocol 2 and 4, from the memo, and in the old form; what every state dict names is left out."""
    torch.save({"a": torch.zeros(2), "b": nn.Parameter(torch.zeros(1)), "c": torch.float16}, tmp_path / "plain.pt")
    assert code_in(tmp_path / "plain.pt") == ()
    for protocol in (2, 4, 5):
        found = pickle.dumps([os.mkdir, os.rmdir, os.mkdir, zipfile.ZipFile], protocol=protocol)
        (tmp_path / "a").write_bytes(found)
        assert code_in(tmp_path / "a") == ("posix.mkdir", "posix.rmdir", "zipfile.ZipFile"), protocol
    (tmp_path / "a").write_bytes(b"(S'ls'\nios\nsystem\n.")
    assert code_in(tmp_path / "a") == ("os.system",)
    (tmp_path / "a").write_bytes(b"no pickle")
    assert code_in(tmp_path / "a") == ()


@pytest.mark.parametrize("save", [torch.save, old])
def test_a_trusted_checkpoint_is_run_and_that_is_recorded(
    save: Callable[[object, Path], None], state: dict[str, Tensor], tmp_path: Path, made: Path
) -> None:
    path = tmp_path / "w.pt"
    save({"state_dict": state, "hook": Makes(made)}, path)
    opened = open_backbone(FASHION, weights=path, trust_checkpoint=True)
    assert made.exists()
    assert opened.checkpoint is not None
    assert (opened.checkpoint.sha256, opened.checkpoint.ran) == (files.sha256(path), ("posix.mkdir",))
    assert torch.equal(opened.model.native_state()["fc.bias"], state["fc.bias"])


def test_a_pickled_network_can_be_trusted(state: dict[str, Tensor], tmp_path: Path) -> None:
    net = SmallResNet()
    net.load_state_dict(state)
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(BadBackbone, match=r"rtk\.backbones\.resnet\.SmallResNet"):
        rtk.load(FASHION, weights=tmp_path / "net.pt")
    opened = rtk.load(FASHION, weights=tmp_path / "net.pt", trust_checkpoint=True)
    assert torch.equal(opened.native_state()["fc.bias"], state["fc.bias"])  # type: ignore[operator]


def test_a_trusted_checkpoint_that_fails_is_one_line(state: dict[str, Tensor], tmp_path: Path, made: Path) -> None:
    made.mkdir()
    torch.save({"state_dict": state, "hook": Makes(made)}, tmp_path / "w.pt")
    with pytest.raises(
        BadBackbone, match=r"its code was run, as --trust-checkpoint allows, and failed \(FileExistsErr"
    ):
        open_backbone(FASHION, weights=tmp_path / "w.pt", trust_checkpoint=True)


def test_the_command_line_records_trust(state: dict[str, Tensor], made: Path, command: Command) -> None:  # noqa: F811
    torch.save({"state_dict": state, "hook": Makes(made)}, "w.pt")
    torch.save(state, "plain.pt")
    asked = ["evaluate", "w.pt", "--backbone", FASHION, *TINY, "--out"]
    refused = command(*asked, "out")
    assert refused.code == 2 and "posix.mkdir" in refused.line and "--trust-checkpoint" in refused.line
    assert not made.exists() and not Path("out").exists()

    def checkpoint(folder: str) -> dict[str, Any]:
        found = json.loads(Path(folder, "config.json").read_text())["options"]["trust_checkpoint"]
        told = results.read_evaluation(Path(folder, "evaluation.json")).backbone["checkpoint"]
        return {"given": found, "ran": told["ran"], "sha256": told["sha256"]}

    assert command(*asked, "out", "--trust-checkpoint").code == 0
    assert checkpoint("out") == {"given": True, "ran": ["posix.mkdir"], "sha256": files.sha256(Path("w.pt"))}
    # once it is judged the weights lie there without any code
    assert torch.equal(load_file("out/network/model.safetensors")["fc.bias"], state["fc.bias"])
    asked[1] = "plain.pt"
    assert command(*asked, "unneeded", "--trust-checkpoint").code == 0
    assert checkpoint("unneeded")["ran"] == []
    assert command(*asked, "untrusted").code == 0
    assert (checkpoint("untrusted")["given"], checkpoint("untrusted")["ran"]) == (False, None)


@pytest.mark.parametrize("key", ["trust_checkpoint", "trust-checkpoint"])
def test_no_file_can_give_trust(key: str, command: Command) -> None:  # noqa: F811
    """Configurations and benchmarks are passed on; who opens one has not said that its checkpoints may run code."""
    for value in (True, False):
        with pytest.raises(BadValue, match="--trust-checkpoint: a file cannot say so"):
            build("linear-probe", {}, {key: value})
    Path("mine.toml").write_text(f'{key} = true\nweights = "w.pt"\n')
    Path("bench.toml").write_text(f'name = "a"\n[options]\nstrategy = "at"\n{key} = true\n')
    for arguments in (
        ["finetune", "--strategy", "linear-probe", "--config", "mine.toml"],
        ["evaluate", FASHION, "--config", "mine.toml"],
        ["bench", "run", "bench.toml"],
    ):
        done = command(*arguments)
        assert done.code == 2 and ("a file cannot say so" in done.line or "No such option" in done.line), done


# memory

BOMBS = """
import resource, sys, time
from pathlib import Path
import torch
from rtk.backbones import read_state
from rtk.errors import BadBackbone
torch.set_num_threads(1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20), used + (96 << 20)))
for name in sys.argv[1:]:
    try:
        read_state(name)
    except BadBackbone as problem:
        print(problem.message.replace(name, Path(name).name))
    else:
        print("read")
"""


def archive(path: Path, members: dict[str, bytes], **how: Any) -> None:
    with zipfile.ZipFile(path, "w", **how) as found:
        for name, content in members.items():
            found.writestr(name, content)


def unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as found:
        return {name: found.read(name) for name in found.namelist()}


def safetensors(path: Path, header: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_nothing_is_allocated_for_what_a_file_claims(tmp_path: Path) -> None:
    """In a process that may take another 96 MiB: none of the refusals comes from running out of them."""
    zeros = torch.zeros(30 << 20)  # 120 MiB
    torch.save({"w": zeros}, tmp_path / "zeros.pt")
    members = unpacked(tmp_path / "zeros.pt")
    archive(tmp_path / "bomb.pt", members, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    (tmp_path / "zeros.pt").unlink()
    torch.save({"w": torch.zeros(1).expand(10**12)}, tmp_path / "wide.pt")
    torch.save({"w": torch.zeros(10)}, tmp_path / "ten.pt")
    members = unpacked(tmp_path / "ten.pt")
    # the pickle asks for 2**31 - 1 values of a record that has ten
    members["ten/data.pkl"] = members["ten/data.pkl"].replace(b"K\nt", b"J\xff\xff\xff\x7ft")
    archive(tmp_path / "more.pt", members)
    terabyte = {"w": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}
    safetensors(tmp_path / "terabyte.safetensors", terabyte, bytes(64))
    (tmp_path / "header.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    names = ["bomb.pt", "wide.pt", "more.pt", "terabyte.safetensors", "header.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, *(str(tmp_path / name) for name in names)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = dict(zip(names, done.stdout.splitlines(), strict=True))
    assert "bytes that unpack to 125," in said["bomb.pt"] and "a zip bomb (allowed: " in said["bomb.pt"]
    assert "'w' claims 1,000,000,000,000 values, (1000000000000,), of which the file holds 4 bytes" in said["wide.pt"]
    assert "truncated or damaged" in said["more.pt"] and "memory" not in said["more.pt"]
    assert "not a whole safetensors file" in said["terabyte.safetensors"]
    assert "not a whole safetensors file" in said["header.safetensors"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadBackbone, match="a device or a pipe"):
        read_state(tmp_path / "pipe")
    with pytest.raises(BadBackbone, match="a device or a pipe"):
        read_state("/dev/zero")


def test_a_mapping_that_holds_itself_ends(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "w.pt")
    with pytest.raises(BadBackbone, match=r"no state dict in it .*found: state_dict"):
        read_state(tmp_path / "w.pt")


# tensors that no network can hold

IMPOSSIBLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda w: w * float("nan"), "'fc.weight' holds NaN or infinite weights"),
    "infinite": (lambda w: w / 0, "'fc.weight' holds NaN or infinite weights"),
    "sparse": (lambda w: w.to_sparse(), "'fc.weight' is a sparse_coo on cpu tensor"),
    "csr": (lambda w: w.to_sparse_csr(), "'fc.weight' is a sparse_csr on cpu tensor"),
    "meta": (lambda w: w.to("meta"), "'fc.weight' is a strided on meta tensor"),
    "quantized": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "'fc.weight' is a quantized tensor"),
    "complex": (lambda w: w.to(torch.complex64), r"'fc.weight' is complex64 \(allowed: bfloat16, bool, float16"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "'fc.weight' is float8_e4m3fn"),
    "broadcast": (lambda w: torch.zeros(1).expand(10, 64), "'fc.weight' claims 640 values"),
    "integers": (lambda w: w.to(torch.int64), "'fc.weight' is int64, the network has float32"),
    "too large": (lambda w: w.double() + 1e300, "'fc.weight' holds values of float64 that float32, .* cannot hold"),
    "one class": (lambda w: w[:1].clone(), "'fc.weight' tells 1 classes apart"),
    "no class": (lambda w: w[:0].clone(), "'fc.weight' tells 0 classes apart"),
    "a number": (lambda w: w[0, 0].clone(), r"'fc.weight' is \(\), the network has \(10, 64\)"),
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_tensors_that_no_network_can_hold_are_refused(case: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    change, said = IMPOSSIBLE[case]
    torch.save({**state, "fc.weight": change(state["fc.weight"])}, tmp_path / "w.pt")
    with pytest.raises(BadBackbone, match=said):
        open_backbone(FASHION, weights=tmp_path / "w.pt")


def test_integers_are_not_taken_for_weights_in_safetensors_either(state: dict[str, Tensor], tmp_path: Path) -> None:
    write_state(tmp_path / "w.safetensors", {**state, "fc.bias": state["fc.bias"].long()})
    with pytest.raises(BadBackbone, match=r"'fc\.bias' is int64, the network has float32"):
        open_backbone(FASHION, weights=tmp_path / "w.safetensors")


# files that were downloaded


def test_a_file_of_the_hub_has_the_hash_that_its_blob_is_called_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    for folder in ("snapshots/abc", "refs", "blobs"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    written = tmp_path / "w.safetensors"
    write_state(written, open_backbone("timm:test_vit", weights="random", seed=4).model.native_state())
    blob = written.rename(repository / "blobs" / files.sha256(written))
    (repository / "snapshots" / "abc" / "model.safetensors").symlink_to(blob)
    opened = open_backbone("timm:test_vit")
    assert opened.checkpoint is not None and opened.checkpoint.sha256 == blob.name
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BadBackbone, match=r"timm:test_vit: .* is not the file that was published \(SHA-256"):
        open_backbone("timm:test_vit")


def test_the_file_that_weights_come_from_is_always_recorded(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    opened = open_backbone(FASHION, weights=tmp_path / "w.pt")
    assert opened.checkpoint is not None and opened.checkpoint.sha256 == files.sha256(tmp_path / "w.pt")
    assert open_backbone(FASHION, weights="random").checkpoint is None
    embedded = open_backbone(FASHION).checkpoint
    assert embedded is not None and len(embedded.sha256) == 64 and embedded.ran is None


def test_robustbenchs_own_loader_runs_no_code_either(tmp_path: Path, made: Path) -> None:
    path = tmp_path / "cifar10" / "Linf" / "Addepalli2022Efficient_RN18.pt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": Makes(made)}, path)
    with pytest.raises(BadBackbone, match="RobustBench cannot load it"):
        load_robustbench("Addepalli2022Efficient_RN18", model_dir=tmp_path)
    assert not made.exists()


def test_torch_reads_without_pickle_where_it_is_asked_to(tmp_path: Path, made: Path) -> None:
    """The promise rests on torch: it refuses code in its own words, too."""
    buffer = io.BytesIO()
    torch.save(Makes(made), buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(buffer, weights_only=True)
    assert not made.exists()
