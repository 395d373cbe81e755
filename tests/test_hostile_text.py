"""Configurations, specs, results and names that somebody else made: refused in one line, shown without doing anything
to the terminal, and without a trace on disk. What of third parties runs, and what a result says about it.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rtk import errors, results
from rtk.backbones import open_backbone, rebuild
from rtk.bench.spec import MOST, expand, read_spec
from rtk.cli.table import Plain
from rtk.config import read_toml
from rtk.errors import BadBackbone, BadData, BadValue, RtkError
from rtk.evaluation import build, evaluate
from rtk.files import read_json
from rtk.host import finetune

from .readers import RECORD
from .test_cli import Command, command  # noqa: F401 - a fixture
from .test_finetune import Nudge, request
from .test_registry import Install, install  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent
CLEAR = "\x1b[2J\x1b]0;owned\x07"
"""Clears a terminal and renames its window."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation; read it, or copy it."""
    out = tmp_path_factory.mktemp("evaluation") / "judged"
    evaluate(build("rtk:fashion-resnet", {"suite": "clean", "images": 8, "workers": 1, "device": "cpu", "out": out}))
    return out


# names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CLEAR, r"\x1b[2J\x1b]0;owned\x07"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("\x9b2J", r"\x9b2J"),
        ("\udcff", r"\udcff"),
        ("Größe [red]é[/red]", "Größe [red]é[/red]"),
    ],
)
def test_names_do_nothing_to_a_terminal(text: str, shown: str) -> None:
    assert errors.printable(text) == shown
    stream = io.StringIO()
    Plain(file=stream, force_terminal=True, width=200).print(text, markup=False, highlight=False)
    assert shown in stream.getvalue() and not {"\x1b", "\x9b", "\u202e"} & set(stream.getvalue())


def test_names_in_files_do_nothing_to_a_terminal(judged: Path, command: Command) -> None:  # noqa: F811
    found = json.loads((judged / "evaluation.json").read_text())
    found["backbone"]["uri"] = f"rtk:{CLEAR}[/nothing]"
    found["row"]["name"] = found["row"]["scores"]["clean"]["label"] = f"{CLEAR}[red]"
    found["row"]["checks"][0] |= {"verdict": "warning", "text": f"{CLEAR}[link=file:///]\u202e"}
    found["environment"][CLEAR] = CLEAR
    Path("bad").mkdir()
    Path("bad/evaluation.json").write_text(json.dumps(found))
    for arguments in (["show", "bad"], ["show", "bad", "--checks"], ["show", "bad", "--json"]):
        done = command(*arguments)
        assert done.code == 0 and "owned" in done.out and "\x1b" not in done.out + done.err, arguments
    torch.save({CLEAR: torch.zeros(1)}, "w.pt")
    Path(f"train/{CLEAR}").mkdir(parents=True)
    Path("train/a").mkdir()
    Path("test/a").mkdir(parents=True)
    for option in (["--weights", "w.pt"], ["--dataset", "folder:."], ["--backbone", CLEAR], ["--dataset", CLEAR]):
        done = command("finetune", "--strategy", "linear-probe", *option)
        assert done.code == 2 and "owned" in done.line and "\x1b" not in done.line


@pytest.mark.parametrize("option", ["out", "data-root", "dataset", "weights", "backbone"])
def test_names_that_are_not_utf_8_are_refused(option: str, command: Command) -> None:  # noqa: F811
    done = command("finetune", "--strategy", "linear-probe", f"--{option}", os.fsdecode(b"caf\xe9"))
    assert done.code == 2 and f"--{option}: no file name and no other value may hold" in done.line
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        "bench diff ~no-such-user/a ~no-such-user/b",
        "bench table ~no-such-user/a",
        "bench table bench.toml --reported ~no-such-user/a",
        "plugins new mine --path ~no-such-user",
        "evaluate ~no-such-user/a",
        "finetune --strategy at --config ~no-such-user/a",
        "finetune --strategy at --weights ~no-such-user/a",
        "finetune --strategy at --backbone run:~no-such-user/a",
    ],
)
def test_the_home_of_nobody_is_refused_in_one_line(arguments: str, command: Command) -> None:  # noqa: F811
    """A shell leaves `~no-such-user/a` as it is where there is no such user."""
    spec(Path(), "")
    done = command(*arguments.split())
    assert done.code in (1, 2) and "~no-such-user" in done.line and "defect" not in done.line, done.line
    assert [path.name for path in Path().iterdir()] == ["bench.toml"]


def test_a_folder_of_models_in_the_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTK_MODELS", "~no-such-user/models")
    with pytest.raises(BadValue, match="no such user"):
        open_backbone("robustbench:cifar10/Linf/Addepalli2022Efficient_RN18")


# configurations and specs

ABSURD = {
    "unknown key": ("epocs = 5", "Unknown option in the configuration file '--epocs'"),
    "many digits": ("epochs = 0x" + "F" * 4000, "--epochs: no number may need more than 64 bits"),
    "too many digits": ("epochs = " + "9" * 5000, "4300 digits"),
    "64 bits": ("images = 0xFFFFFFFFFFFFFFFFFF", "--images: no number may need more than 64 bits"),
    "infinite": ("lr = inf", "--lr: needs a finite number"),
    "deep lists": ("epochs = " + "[" * 5000, "not a TOML file"),
    "deep tables": (".".join(["epochs"] * 3000) + " = 1", "--epochs: needs a whole number"),
    "deep headers": ("[" + ".".join(["epochs"] * 3000) + "]", "--epochs: needs a whole number"),
    "null": ('out = "a\\u0000b"', "--out: no file name and no other value may hold a null character"),
    "no home": (
        'data_root = "~no-such-user/x"\ndataset = "cifar10"',
        "~no-such-user/x: there is no such user",
    ),
    "long name": ('dataset = "npz:' + "a" * 5000 + '"', "no such file"),
    "twice": ("epochs = 1\nepochs = 2", "not a TOML file"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_configurations_are_refused_in_one_line(case: str, command: Command) -> None:  # noqa: F811
    content, said = ABSURD[case]
    Path("mine.toml").write_text(content)
    done = command("finetune", "--strategy", "linear-probe", "--weights", "random", "--config", "mine.toml")
    assert done.code == 2 and said in done.line and len(done.line) < 8000, done.line
    assert [path.name for path in Path().iterdir()] == ["mine.toml"]


def spec(folder: Path, text: str) -> Path:
    (folder / "bench.toml").write_text(f'name = "a"\n[options]\nstrategy = "at"\n{text}')
    return folder / "bench.toml"


def test_a_spec_of_a_billion_cells_is_refused_at_once(tmp_path: Path) -> None:
    axes = "\n".join(f"{name} = {list(range(1000))}" for name in ("lr", "eps", "epochs"))
    with pytest.raises(BadValue, match=rf"1,000,000,000 cells: .* \(allowed: {MOST:,}\)"):
        expand(read_spec(spec(tmp_path, f"[vary]\n{axes}\n")))
    runs = "[[run]]\n[run.vary]\nlr = " + str(list(range(6000))) + "\n"
    with pytest.raises(BadValue, match="12,000 cells"):
        expand(read_spec(spec(tmp_path, runs * 2)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vary]\n" + ".".join(["lr"] * 3000) + " = 1", "vary.lr: Input should be a valid list"),
        ("[vary]\nlr = 0x" + "F" * 4000, "vary.lr: Input should be a valid list"),
        ("sede = 1\n[sedes]\n", "Unknown key in"),
        ("[options.deep]\na = {b = {c = [[]]}}", "Unknown option in the configuration file '--deep'"),
    ],
)
def test_absurd_specs_are_refused_in_one_line(text: str, said: str, command: Command) -> None:  # noqa: F811
    spec(Path(), text)
    done = command("bench", "run", "bench.toml")
    assert done.code == 2 and said in done.line and len(done.line) < 2000
    assert [path.name for path in Path().iterdir()] == ["bench.toml"]


@pytest.mark.parametrize("content", ["[" * 5000, '{"a":' * 5000, "9" * 5000, "\ufeff{}", "{", "NaN nan"])
def test_json_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BadData, match="not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(BadValue, match=r"not a TOML file|such as"):
        read_toml(tmp_path / "a.json")


# results and records


def rows_apart(found: dict[str, Any]) -> None:
    found["rows"][0]["scores"]["more"] = found["rows"][0]["scores"]["clean"]


FALSE: dict[str, Any] = {
    "no rows": lambda found: found.update(rows=[]),
    "rows with other scores": rows_apart,
    "no name": lambda found: found["strategy"].pop("name"),
    "no threat": lambda found: found["threat"].pop("eps"),
    "no data": lambda found: found["dataset"].update(uri=[]),
    "no identity": lambda found: found["rows"][0]["scores"]["clean"]["identity"].pop("id"),
    "more right than there are": lambda found: found["rows"][0]["scores"]["clean"].update(correct=9999),
    "more classes than counts": lambda found: found["rows"][0]["scores"]["clean"]["class_n"].append(1),
    "unknown key": lambda found: found.update(more=1),
    "nan": lambda found: found["rows"][0]["scores"]["clean"].update(accuracy=float("nan")),
}


@pytest.mark.parametrize("case", FALSE)
def test_results_that_contradict_themselves_are_refused(case: str, tmp_path: Path) -> None:
    finetune(request(Nudge, tmp_path / "run", suite=("clean",), images=8))
    path = tmp_path / "run" / "result.json"
    results.read(path)
    found = json.loads(path.read_text())
    FALSE[case](found)
    path.write_text(json.dumps(found))
    with pytest.raises(BadData, match=r"result\.json: not a result of"):
        results.read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("native_classes", 10**9),
        ("classes", 0),
        ("classes", True),
        ("size", [10**6, 10**6]),
        ("size", [32]),
        ("mean", ["a"]),
        ("std", [0.0, 0.0, 0.0]),
        ("std", [float("nan")] * 3),
        ("family", "rtk_plugins"),
        ("family", ["rtk"]),
        ("name", None),
        ("architecture", "os.system"),
    ],
)
def test_a_record_of_a_network_cannot_ask_for_anything(key: str, value: Any) -> None:
    with pytest.raises(RtkError, match=rf"spec of a backbone is not whole \({key}|Unknown embedded architecture"):
        rebuild({**RECORD["spec"], key: value})


def test_a_run_of_others_names_no_strategy_that_is_loaded(tmp_path: Path) -> None:
    """Evaluating a run needs its weights and the names of architecture and data, not the plugin that made it."""
    finetune(request(Nudge, tmp_path / "run", suite=("clean",), images=8))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["strategy"] = "os.system"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    asked = build(str(tmp_path / "run"), {"out": tmp_path / "again", "workers": 1, "device": "cpu"})
    assert evaluate(asked).row.scores["clean"].n == 8


@pytest.mark.parametrize("kind", ["nan", "code"])
def test_a_refused_network_leaves_nothing_behind(kind: str, command: Command) -> None:  # noqa: F811
    state = open_backbone("rtk:fashion-resnet").model.native_state()
    bad = {"nan": {**state, "fc.bias": state["fc.bias"] * float("nan")}, "code": {"a": state, "b": Path.cwd}}[kind]
    torch.save(bad, "w.pt")
    for arguments in (
        ["finetune", "--strategy", "linear-probe", "--weights", "w.pt", "--out", "out"],
        ["evaluate", "w.pt", "--backbone", "rtk:fashion-resnet", "--out", "out"],
        ["verify", "--images", "w.pt", "--weights", "w.pt", "--backbone", "rtk:fashion-resnet", "--threat", "Linf:0.1"],
    ):
        assert command(*arguments).code == 2
    assert [path.name for path in Path().iterdir()] == ["w.pt"]


# what runs

OBSERVER = """
import rtk

@rtk.hookimpl
def rtk_run_finished(result):
    pass
"""


def test_results_say_which_observers_looked_on(install: Install, tmp_path: Path) -> None:  # noqa: F811
    found = finetune(request(Nudge, tmp_path / "none", suite=("clean",), images=8))
    assert found.observers == []
    install(OBSERVER, name="rtk-watcher", entries="[rtk.observers]\nwatcher = {module}")
    found = finetune(request(Nudge, tmp_path / "one", suite=("clean",), images=8, observe=("watcher",)))
    (told,) = results.read(tmp_path / "one" / "result.json").observers
    assert found.observers == [told] and (told["name"], told["distribution"]) == ("watcher", "rtk-watcher")
    assert told["version"] == "1.0" and len(told["source_sha256"]) == 64


ALLOWED = {
    # its own bytes, within one process group, through a folder that is its own
    ("rtk/distributed.py", "pickle.loads"),
    ("rtk/evaluation/handover.py", "pickle.loads"),
    ("rtk/testing/confined.py", "pickle.loads"),
    # after the user's word, and with weights_only in every other case
    ("rtk/backbones/pickled.py", "torch.load"),
    # with weights_only=True, checkpoints of rtk itself
    ("rtk/run.py", "torch.load"),
    ("rtk/checkpoint.py", "torch.load"),
    # with allow_pickle=False
    ("rtk/data/arrays.py", "np.load"),
    ("rtk/data/arrays.py", "np.lib.format.read_array"),
}
RUNS = r"(c?pickle|dill|joblib|shelve|marshal|cloudpickle)\.\w*[lL]oads?|torch\.load|torch\.jit\.load|torch\.hub\.load"
RUNS += r"|np\.load|np\.lib\.format\.read_array|yaml\.(unsafe_)?load|eval|exec|compile|os\.(system|popen)|.*extractall"


def calls(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def test_what_could_run_a_file_is_called_in_few_places() -> None:
    found = set()
    for path in sorted([*(ROOT / "rtk").rglob("*.py"), *(ROOT / "plugins").glob("*.py")]):
        place = path.relative_to(ROOT).as_posix()
        for call in calls(path):
            name = ast.unparse(call.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if re.fullmatch(RUNS, name):
                found.add((place, name))
            if name == "torch.load" and place != "rtk/backbones/pickled.py":
                assert given["weights_only"] == "True", place
            if name in ("np.load", "np.lib.format.read_array"):
                assert given["allow_pickle"] == "False", place
            assert given.get("shell") in (None, "False"), place
    assert found == ALLOWED


def test_the_word_of_the_user_is_needed_for_the_one_call_that_runs_a_file() -> None:
    """`weights_only` is a constant wherever it is decided, and False in the one function that trust leads to."""
    tree = ast.parse((ROOT / "rtk/backbones/pickled.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    trusting = [f.name for f in functions if "weights_only=False" in ast.unparse(f)]
    callers = [f.name for f in functions if "_run(path)" in ast.unparse(f) and f.name != "_run"]
    assert (trusting, callers) == (["_run"], ["load"])


def test_bad_backbone_is_what_a_wrong_path_gives() -> None:
    for uri in ("run:~no-such-user/x", "run:" + "a" * 5000, "run:a\0b", "run:~\0", "run:/dev/null"):
        with pytest.raises(BadBackbone):
            open_backbone(uri)
    for path in ("~no-such-user/x", "a" * 5000, "a\0b", "~\0"):
        with pytest.raises(BadBackbone):
            open_backbone("rtk:fashion-resnet", weights=path)
