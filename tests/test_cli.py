"""The command line: every message is one line, and every exit code means what the documentation says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import filelock
import pytest

import rtk.cli
from rtk import files
from rtk.backbones.catalogue import list_backbones
from rtk.errors import RtkError
from rtk.registry import Registry

RTK = [sys.executable, "-c", "from rtk.cli import main; main()"]
QUICK = ["--weights", "random", "--dataset", "signs", "--images", "32", "--suite", "clean", "--workers", "1"]
PROBE = ["finetune", "--strategy", "linear-probe", *QUICK, "--epochs", "1", "--milestones", ""]


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that it wrote to stderr."""
        assert self.err.startswith("rtk: ") and self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        assert self.out == ""
        return self.err.rstrip("\n")


Command = Callable[..., Done]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            rtk.cli.main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return command


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Subprocesses share the machine with whatever else runs on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of TRAIN; read it, do not write there."""
    directory = tmp_path_factory.mktemp("cli") / "run"
    subprocess.run([*RTK, *TRAIN, "--out", str(directory)], check=True, capture_output=True)
    return directory


TRAIN = ["finetune", "--strategy", "full", *QUICK, "--epochs", "3", "--milestones", "2"]

WRONG = [
    ("fintune", "Unknown command 'fintune'. Did you mean 'finetune'?", "rtk --help"),
    ("--foo", "Unknown option '--foo'.", "rtk --help"),
    ("finetune", "No strategy was named.", "rtk finetune --strategy rift"),
    ("finetune --epochs 3", "No strategy was named.", "rtk finetune --strategy rift"),
    ("finetune -s full --optimizer adamm", "Unknown option '--optimizer'. Allowed:", "--strategy full --help"),
    ("finetune --strategy rfit", "Unknown strategy 'rfit'. Did you mean 'rift'?", "rtk strategies"),
    ("finetune -srfit", "Unknown strategy 'rfit'. Did you mean 'rift'?", "rtk strategies"),
    ("finetune --strategy=rfit", "Unknown strategy 'rfit'. Did you mean 'rift'?", "rtk strategies"),
    ("finetune --strategy", "--strategy: a value is missing.", "--strategy VALUE"),
    ("finetune -s rift --epocs 3", "Unknown option '--epocs'. Did you mean '--epochs'?", "--strategy rift --help"),
    ("finetune -s rift --wokers=3", "Unknown option '--wokers'. Did you mean '--workers'?", "--strategy rift --help"),
    ("finetune -s rift --epochs -1", "--epochs: needs a whole number >= 0, got '-1'.", "--epochs 10"),
    ("finetune -s rift --epochs ten", "--epochs: needs a whole number >= 0, got 'ten'.", "--epochs 10"),
    ("finetune -s rift --lr nan", "--lr: needs a finite number > 0, got 'nan'.", "--lr 0.01"),
    ("finetune -s rift --epochs", "--epochs: a value is missing.", "--epochs VALUE"),
    ("finetune -s rift --epochs --lr 1", "--epochs: a value is missing.", "--epochs VALUE"),
    ("finetune -s rift --epochs --lr=1", "--epochs: a value is missing.", "--epochs VALUE"),
    ("finetune -s rift 5", "Got unexpected extra argument (5)", "--strategy rift --help"),
    ("finetune -s rift --force=3", "Option '--force' does not take a value.", "rtk"),
    ("finetune -s rift --ascent cod", "--ascent: needs one of relative | code, got 'cod'.", "--ascent relative"),
    ("finetune -s rift --device gpu", "got 'gpu'.", "--device auto"),
    ("finetune -s rift --eps 9999", "--eps: got 9999.0 (allowed: 0 to 1000", ""),
    ("finetune -s rift --norm Linf --eps 2", "--eps: got 2.0 (allowed: 0 to 1 for Linf", ""),
    (
        "finetune -s rift --suite foo",
        "Unknown evaluation 'foo'. Allowed: autoattack, clean, corruptions, masking, pgd10, pgd100, pgd20.",
        "--suite clean",
    ),
    ("finetune -s rift --suite=", "--suite: nothing to evaluate", ""),
    ("finetune -s rift --image-size 4", "--image-size: needs a whole number 8 to 1024", "without --image-size"),
    ("finetune -s rift --backbone resnet18", "says not where it comes from", "--backbone rtk:fashion-resnet"),
    ("finetune -s rift --backbone tim:resnet18", "Unknown source of backbones 'tim'. Did you mean 'timm'?", ""),
    ("finetune -s rift --backbone rtk:fashion-resent", "Did you mean 'fashion-resnet'?", "rtk backbones"),
    ("finetune -s rift --backbone robustbench:cifar10/Linf/Wong2020Fats", "Did you mean 'Wong2020Fast'?", ""),
    ("finetune -s rift --backbone robustbench:Wong2020Fast", "needs robustbench:DATASET/THREAT/NAME", ""),
    ("finetune -s full --backbone run:nowhere", "this is no run of rtk", ""),
    ("finetune -s full --weights missing.pt", "--weights missing.pt: no such file.", "--weights FILE"),
    ("finetune -s full --dataset sings", "Unknown data set 'sings'. Did you mean 'signs'?", "rtk datasets"),
    ("finetune -s full --dataset hf:mnist", "Unknown data set scheme 'hf'. Allowed: folder, npz.", "rtk datasets"),
    ("finetune -s full --dataset npz:x.npz", "--dataset npz:x.npz: no such file.", "--dataset npz:FILE"),
    ("finetune -s full --dataset x.npz", "Unknown data set 'x.npz'.", "--dataset npz:x.npz"),
    ("finetune -s full --dataset folder:x", "--dataset folder:x: no such folder.", "--dataset folder:PATH"),
    ("finetune -s rift --dataset signs", "rift fine-tunes on the data that the backbone was trained on", "leave out"),
    ("finetune --config missing.toml", "--config missing.toml: no such file.", "rtk finetune --help"),
    ("finetune -s rift --config missing.toml", "--config missing.toml: no such file.", "rtk finetune --help"),
    ("strategies show rfit", "Unknown strategy 'rfit'. Did you mean 'rift'?", "rtk strategies"),
    ("strategies shw rift", "No such command 'shw'", "rtk strategies --help"),
    ("datasets download sings", "Unknown data set to download 'sings'.", ""),
    ("backbones a b", "Got unexpected extra argument", "rtk backbones --help"),
    ("evaluate", "Nothing to evaluate was named.", "rtk evaluate runs/NAME"),
    ("evaluate rtk:fashion-resent", "Did you mean 'fashion-resnet'?", "rtk backbones"),
    ("evaluate timm:resnet18", "timm:resnet18: on which data?", "--dataset NAME"),
    ("evaluate rtk:fashion-resnet --threats 8/255", "got '8/255' (allowed: NORM:EPS", "--threats Linf:8/255"),
    ("verify", "Name one file: FILE or --images FILE.", "rtk verify"),
    ("show", "No run directory was named.", "rtk show runs/NAME"),
    ("show nowhere", "nowhere/result.json: No such file or directory.", "ls runs"),
]


@pytest.mark.parametrize(("typed", "said", "hint"), WRONG, ids=[typed for typed, _, _ in WRONG])
def test_a_wrong_request_is_refused_in_one_line(typed: str, said: str, hint: str, command: Command) -> None:
    done = command(*typed.split())
    message, _, suggested = done.line.partition(" Try: ")
    assert done.code == 2
    assert said in message
    assert hint in suggested
    assert list(Path().iterdir()) == []


LISTINGS = [
    "",
    "--help",
    "--version",
    "strategies",
    "strategies show rift",
    "backbones",
    "datasets",
    "finetune --help",
    "evaluate --help",
    "verify --help",
    "finetune --strategy rift --help",
]


def test_listings_help_and_wrong_requests_import_no_torch(tmp_path: Path) -> None:
    code = """
import contextlib, io, json, sys
from rtk.cli import main
found = []
for typed in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(typed.split())
        except SystemExit as ended:
            found.append([typed, ended.code, "torch" in sys.modules])
print(json.dumps(found))
"""
    commands = [*LISTINGS, *(typed for typed, _, _ in WRONG)]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[typed, 0 if typed in LISTINGS else 2, False] for typed in commands]


# requests that are refused only when backbone or data are open


def test_a_web_page_that_was_saved_as_weights_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html><title>404</title></html>")
    done = command(*PROBE, "--weights", "page.pt")
    assert done.code == 2
    assert "page.pt: a web page, not weights" in done.line
    assert not Path("runs").exists()


def test_weights_of_another_architecture_are_refused(command: Command, tmp_path: Path) -> None:
    import torch

    torch.save({"conv.weight": torch.zeros(3, 3), "other.weight": torch.zeros(2)}, tmp_path / "other.pt")
    done = command(*PROBE, "--weights", "other.pt")
    assert done.code == 2
    assert "other.pt" in done.line
    assert not Path("runs").exists()


def test_a_gpu_that_is_not_there_is_refused(command: Command) -> None:
    done = command(*PROBE, "--device", "cuda:77")
    assert (done.code, done.line[: len("rtk: --device cuda:77: this machine has")]) == (
        2,
        "rtk: --device cuda:77: this machine has",
    )


def test_a_radius_beyond_the_norm_of_the_backbone_is_refused(command: Command) -> None:
    done = command(*PROBE, "--eps", "2")
    assert (done.code, "--eps: got 2.0 (allowed: 0 to 1 for Linf" in done.line) == (2, True)


def test_a_value_that_only_the_strategy_can_judge_leaves_no_folder(command: Command) -> None:
    done = command("finetune", "-s", "rift", "--weights", "random", "--module", "nonsense", "--out", "run")
    assert done.code == 2
    assert "Unknown module 'nonsense.weight'" in done.line
    assert not Path("run").exists()


# run directories


def test_a_run_is_shown_and_not_repeated_and_replaced_by_force(command: Command) -> None:
    first = command(*PROBE, "--out", "run")
    assert (first.code, first.err) == (0, "")
    assert "linear-probe on signs from rtk:fashion-resnet" in first.out and "Run directory: run" in first.out
    assert json.loads(Path("run/result.json").read_text())["command"] == ["rtk", *PROBE, "--out", "run"]

    again = command(*PROBE, "--out", "run")
    assert (again.code, again.line) == (
        2,
        "rtk: run already holds this result. Try: rtk show run; --force runs it again",
    )
    shown = command("show", "run")
    assert (shown.code, shown.out) == (0, first.out)

    other = command(*PROBE, "--out", "run", "--lr", "0.2")
    assert other.code == 2
    assert "run holds a run with other settings (lr: " in other.line and "Try: --force to replace it" in other.line
    judged = command(*PROBE, "--out", "run", "--suite", "clean,pgd10", "--autoattack-images", "9")
    assert judged.code == 2
    assert "Try: rtk evaluate run with these options, which trains nothing again; --force to" in judged.line

    replaced = command(*PROBE, "--out", "run", "--lr", "0.2", "--force", "--quiet")
    assert replaced.code == 0
    assert json.loads(Path("run/config.json").read_text())["config"]["lr"] == 0.2
    assert not list(Path("run").rglob(".*"))


def test_a_folder_of_somebody_else_is_left_alone(command: Command) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("x")
    for force in ([], ["--force"]):
        done = command(*PROBE, "--out", "thesis", *force)
        assert done.code == 2
        assert "thesis holds something that is no run of rtk; it is left alone." in done.line
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


def test_a_file_is_no_run_directory(command: Command) -> None:
    Path("file").write_text("x")
    done = command(*PROBE, "--out", "file")
    assert (done.code, done.line) == (
        2,
        "rtk: file is a file, or lies in one; a folder is needed. Try: --out ANOTHER_DIR",
    )


def test_a_folder_in_use_is_refused(command: Command) -> None:
    Path("run").mkdir()
    with filelock.FileLock("run/.lock"):
        done = command(*PROBE, "--out", "run")
    assert (done.code, done.line) == (2, "rtk: run is in use by another process. Try: --out ANOTHER_DIR")


def test_a_place_that_cannot_be_written_is_a_failed_run(command: Command) -> None:
    done = command(*PROBE, "--out", "/proc/rtk-run")
    assert done.code == 1
    assert "Cannot write /proc/rtk-run: " in done.line


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "fine-tune.pt", "result.json"])
def test_a_full_disk_is_a_failed_run_that_goes_on_later(
    file: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files._File.write

    def full(self: Any, data: Any) -> int:
        if f".{file}." in str(self.name):
            raise OSError(28, os.strerror(28))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(files._File, "write", full)
        done = command(*PROBE, "--out", "run")
    assert done.code == 1
    assert "Disk full while writing run/" in done.line and file in done.line
    assert not list(Path("run").rglob(".*"))
    assert command(*PROBE, "--out", "run").code == 0


# configuration files


def test_a_configuration_file_names_strategy_and_options(command: Command) -> None:
    Path("run.toml").write_text(
        'strategy = "linear-probe"\nweights = "random"\ndataset = "signs"\nsuite = ["clean"]\nimages = 32\n'
        'workers = 1\nepochs = 5\nbatch-size = 64\nmilestones = []\nout = "run"\n'
    )
    done = command("finetune", "--config", "run.toml", "--epochs", "1")
    assert (done.code, done.err) == (0, "")
    config = json.loads(Path("run/config.json").read_text())
    assert (config["strategy"], config["config"]["epochs"], config["config"]["batch_size"]) == ("linear-probe", 1, 64)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epochs 3", "--config run.toml: not a TOML file"),
        ('strategy = "rfit"', "Unknown strategy 'rfit'. Did you mean 'rift'?"),
        ("strategy = 3", "strategy: needs a name, got 3 in the configuration file."),
        ("epochs = 3", "No strategy was named."),
        (
            'strategy = "rift"\nepocs = 3',
            "Unknown option in the configuration file '--epocs'. Did you mean '--epochs'?",
        ),
        ('strategy = "rift"\nepochs = 1.5', "--epochs: needs a whole number >= 0, got 1.5."),
        ('strategy = "rift"\nepochs = true', "--epochs: needs a whole number >= 0, got 'true'."),
        ('strategy = "rift"\nlr = inf', "--lr: needs a finite number > 0, got inf."),
        ('strategy = "rift"\nout = "a\\u0000b"', "--out: no file name and no other value may hold a null character."),
        ('strategy = "rift"\n[rift]\nepochs = 1', "Unknown option in the configuration file '--rift'"),
    ],
)
def test_a_wrong_configuration_file_is_refused(content: str, said: str, command: Command) -> None:
    Path("run.toml").write_text(content)
    done = command("finetune", "--config", "run.toml")
    assert done.code == 2
    assert said in done.line


# interruption


def processes(group: int) -> list[str]:
    """The living processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue  # it has ended meanwhile
        if int(its_group) == group and state != "Z":
            found.append(folder.name)
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def stop(arguments: list[str], number: signal.Signals, condition: Callable[[], object]) -> Done:
    """Start a command, send the signal to it and its workers when the condition holds, and see that nothing is left."""
    with subprocess.Popen([*RTK, *arguments], stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        try:
            wait_for(lambda: condition() or process.poll() is not None)
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=60)
            wait_for(lambda: not processes(process.pid), 10)
        finally:
            for left in processes(process.pid):
                os.kill(int(left), signal.SIGKILL)
    return Done(process.returncode, out, err)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],  # slow: the same again
)
def test_an_interrupted_run_goes_on_to_the_same_result(number: signal.Signals, tmp_path: Path, finished: Path) -> None:
    directory = tmp_path / "run"
    typed = [*TRAIN, "--out", str(directory)]
    done = stop(typed, number, lambda: list(directory.glob("work/*.pt")))
    assert done.code == 130
    said = re.fullmatch(r"rtk: Interrupted( at fine-tune, epoch \d, step \d+)?; what was finished is (.*)", done.line)
    assert said and said[2] == f"kept in {directory}. Try: the same command goes on from there"
    assert not list(directory.rglob(".*"))
    assert not (directory / "result.json").exists()

    subprocess.run([*RTK, *typed], check=True, capture_output=True)
    for name in ("model.safetensors", "config.json"):
        assert (directory / name).read_bytes() == (finished / name).read_bytes()
    # three epochs in all, and the first not twice
    assert [line["epoch"] for line in map(json.loads, (directory / "log.jsonl").read_text().splitlines())] == [1, 2, 3]


def test_an_interruption_while_workers_evaluate_leaves_none_of_them(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    typed = ["finetune", "--strategy", "full", "--weights", "random", "--dataset", "signs", "--epochs", "0"]
    typed += ["--suite", "pgd20", "--chunk-size", "16", "--images", "320", "--workers", "2", "--out", str(directory)]
    done = stop(typed, signal.SIGINT, lambda: list(directory.glob("evaluation/*/*/*.json")))
    assert (done.code, done.line[:17]) == (130, "rtk: Interrupted;")
    # a worker may have been ended while it wrote; the next start removes that
    assert all(files.is_leftover(path) for path in directory.rglob(".*"))


def test_an_interruption_before_anything_has_begun_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("rtk.cli.finetune.build", interrupt)
    before = signal.getsignal(signal.SIGTERM)
    done = command(*PROBE)
    assert (done.code, done.line) == (130, "rtk: Interrupted. Try: the same command again")
    forced = command(*PROBE, "--force")
    assert forced.line == "rtk: Interrupted. Try: the same command without --force again", "which would begin anew"
    assert signal.getsignal(signal.SIGTERM) is before


# output


def test_a_reader_that_has_gone_is_no_error(finished: Path) -> None:
    for typed in (["--help"], ["backbones"], ["datasets"], ["finetune", "--help"], ["show", str(finished)]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*RTK, *typed], stdout=writing, stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, ""), typed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*RTK, "backbones"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert Done(1, "", done.stderr).line.startswith("rtk: Disk full")


def test_a_pipe_gets_plain_lines(command: Command) -> None:
    rows = [line.split("\t") for line in command("backbones").out.splitlines()]
    assert [row[0] for row in rows] == [listed.uri for listed in list_backbones()]
    assert command("backbones", "Rade2021Helper_R18_ddpm").out.splitlines() == [
        "robustbench:cifar10/Linf/Rade2021Helper_R18_ddpm\t10\tLinf 8/255",
        "robustbench:cifar10/L2/Rade2021Helper_R18_ddpm\t10\tL2 0.5",
        "robustbench:cifar100/Linf/Rade2021Helper_R18_ddpm\t100\tLinf 8/255",
    ]
    assert command("datasets").out.splitlines()[0].startswith("fashion\t10\t32x32\t")
    assert [line.split("\t")[0] for line in command("strategies").out.splitlines()] == Registry().names()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("typed", ["strategies", "strategies show rift", "backbones", "datasets"])
def test_a_terminal_gets_lines_that_fit(
    typed: str, columns: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = click.unstyle(command(*typed.split()).out)
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns
    if typed == "backbones":
        assert {listed.uri for listed in list_backbones()} <= set(out.split())


def test_everything_about_a_strategy_is_shown(command: Command) -> None:
    shown = command("strategies", "show", "rift").out
    strategy = Registry().strategy("rift")
    assert strategy.paper is not None and strategy.paper.title in shown
    assert "\n  --epsilon 0.1\n      Radius of the weight ball" in shown
    assert "      Allowed: 0 to 1. Origin: paper, section 4.1.\n" in shown
    assert "\n  --adversarial/--no-adversarial false\n" in command("strategies", "show", "linear-probe").out
    for departure in strategy.departures:
        assert f"  * {departure}\n" in shown


def test_help_shows_the_options_of_the_strategy_and_of_every_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = command("finetune", "--strategy", "rift", "--help").out
    own, common = shown.split("Options of every run:")
    assert "Options of rift:" in own
    assert "--milestones A,B,.." in own and "--ascent relative|code" in own
    assert "--backbone" in common and "--backbone" not in own
    assert "default none" not in common
    assert max(map(len, shown.splitlines())) <= 100
    assert "Options of rift" not in command("finetune", "--help").out


def test_every_option_has_a_help_text() -> None:
    context = click.Context(rtk.cli.cli)
    todo: list[click.Command] = [rtk.cli.cli]
    while todo:
        here = todo.pop()
        assert here.help, here.name
        for param in here.params:
            assert not isinstance(param, click.Option) or param.help, param.name
        if isinstance(here, click.Group):
            found = (here.get_command(context, name) for name in here.list_commands(context))
            todo += [each for each in found if each is not None]


# failures


def test_a_defect_is_one_line_and_traceback_shows_where(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("two\nlines \x1b[31m")

    monkeypatch.setattr("rtk.cli.finetune.build", fail)
    done = command(*PROBE)
    assert done.code == 1
    assert done.line == (
        "rtk: Unexpected ZeroDivisionError: two lines \\x1b[31m. This is a defect of rtk."
        " Try: the same command with --traceback, and report it"
    )
    done = command(*PROBE, "--traceback")
    assert done.code == 1
    assert done.err.startswith("Traceback (most recent call last):") and 'raise ZeroDivisionError("two' in done.err
    assert done.err.splitlines()[-1].startswith("rtk: Unexpected ZeroDivisionError")


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (MemoryError(), "rtk: Out of memory. Try: a smaller --batch-size"),
        (OSError(28, "No space left on device", "/tmp/x"), "rtk: Disk full (/tmp/x)"),
        (PermissionError(13, "Permission denied", "/x"), "rtk: Permission denied (/x)."),
        (RtkError("one\ntwo"), "rtk: one two"),
    ],
)
def test_a_failure_of_the_machine_is_one_line(
    problem: Exception, said: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise problem

    monkeypatch.setattr("rtk.cli.finetune.build", fail)
    done = command(*PROBE)
    assert done.code == 1
    assert done.line.startswith(said)


def test_a_command_alone_shows_the_help(command: Command) -> None:
    done = command()
    assert (done.code, done.err) == (0, "")
    assert "Usage: rtk" in done.out and "finetune" in done.out and "--traceback" in done.out


def test_the_command_that_an_error_suggests_exists(capsys) -> None:
    """A missing data set names the command that fetches it; its options must be real."""
    from rtk.data.vision import _download_command

    words = _download_command("cifar10", Path("somewhere")).split()[1:]
    with pytest.raises(SystemExit) as left:
        rtk.cli.main([*words, "--help"])
    assert left.value.code == 0 and "Usage" in capsys.readouterr().out
