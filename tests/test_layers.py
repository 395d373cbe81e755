"""Who may depend on whom, read from the imports; see section 5 of the design."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rtk

ROOT = Path(__file__).parent.parent
Rule = Callable[[Path, ast.Module], Iterator[str]]
"""From a file, relative to the repository, to the sentences that say what is wrong with it."""


def imported(path: Path, tree: ast.Module) -> Iterator[str]:
    """The absolute name of everything that a file imports, also inside functions and for type checkers."""
    package = list(path.parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{home}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__", "need"):
            yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant))  # type: ignore[misc]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def within(path: Path, *places: str) -> bool:
    """Whether a file is one of `places`, or lies in one that ends with a slash."""
    return any(str(path) == place or (place.endswith("/") and str(path).startswith(place)) for place in places)


def of(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def core_knows_no_strategy(path: Path, tree: ast.Module) -> Iterator[str]:
    if not within(path, "rtk/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "rtk_plugins" in node.value:
            yield "names rtk_plugins; the core finds strategies by entry point alone"
    for name in imported(path, tree):
        if of(name, "rtk_plugins"):
            yield f"imports {name}; the core finds strategies by entry point alone"


PUBLIC = {"rtk", "rtk.lazy.F", "rtk.lazy.nn", "rtk.lazy.torch", *(f"rtk.{name}" for name in rtk.__all__)}


def without_type_checking(tree: ast.Module) -> ast.Module:
    """What is there when the file runs: without the blocks that only a type checker reads."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING")]
    return ast.Module(kept, [])


def plugins_use_the_public_names(path: Path, tree: ast.Module) -> Iterator[str]:
    if not within(path, "plugins/"):
        return
    for name in imported(path, without_type_checking(tree)):
        if of(name, f"torch.utils.{path.stem}"):  # an observer is named after the tracker that it feeds
            continue
        if name not in PUBLIC and name.partition(".")[0] not in sys.stdlib_module_names:
            yield (
                f"imports {name}; a strategy uses `import rtk`, `from rtk.lazy import F, nn, torch` and the standard"
                " library, so that a third party can do whatever it does, and listings stay free of torch"
            )


def torchattacks_has_one_adapter(path: Path, tree: ast.Module) -> Iterator[str]:
    for name in imported(path, tree):
        if of(name, "torchattacks") and not within(path, "rtk/attacks/"):
            yield f"imports {name}; rtk/attacks/ is the one place that knows its traps"


def networks_come_from_backbones(path: Path, tree: ast.Module) -> Iterator[str]:
    for name in imported(path, tree):
        if of(name, "robustbench", "timm", "torchvision.models") and not within(
            path, "rtk/backbones/", "rtk/doctor.py"
        ):
            yield f"imports {name}; rtk/backbones/ is the one place that opens networks"
        if of(name, "robustbench", "torchvision.models") and within(path, "rtk/doctor.py"):
            yield f"imports {name}; the doctor asks the adapter in rtk/backbones/"


def images_come_from_data(path: Path, tree: ast.Module) -> Iterator[str]:
    for name in imported(path, tree):
        if of(name, "torchvision.datasets", "torchvision.transforms", "torchvision.io") and not within(
            path, "rtk/data/"
        ):
            yield f"imports {name}; rtk/data/ is the one place that reads images"


def corruptions_are_made_in_one_place(path: Path, tree: ast.Module) -> Iterator[str]:
    for name in imported(path, tree):
        if of(name, "imagecorruptions", "skimage", "cv2") and not within(path, "rtk/corruptions/"):
            yield f"imports {name}; rtk/corruptions/ is the one place that needs the extra `corruptions`"


def pages_are_made_in_one_place(path: Path, tree: ast.Module) -> Iterator[str]:
    for name in imported(path, tree):
        if of(name, "jinja2", "markupsafe", "plotly") and not within(path, "rtk/site/"):
            yield f"imports {name}; rtk/site/ is the one place that needs the extra `site`"
        if of(name, "rtk.site") and not within(path, "rtk/site/", "rtk/cli/bench_site.py"):
            yield f"imports {name}; nothing but its command depends on the page"


def only_evaluation_reads_test_data(path: Path, tree: ast.Module) -> Iterator[str]:
    if within(path, "rtk/evaluation/", "rtk/data/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in ("split", "_read", "read"):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(isinstance(each, ast.Constant) and each.value == "test" for each in given):
                yield 'asks for the split "test"; only rtk/evaluation/ reads test data'


BAD: list[tuple[Rule, str, str]] = [
    (core_knows_no_strategy, "rtk/run.py", "from rtk_plugins import rift"),
    (core_knows_no_strategy, "rtk/run.py", "import rtk_plugins.rift as rift"),
    (core_knows_no_strategy, "rtk/cli/x.py", "name = 'rtk_plugins.rift'"),
    (plugins_use_the_public_names, "plugins/a.py", "from rtk.evaluation import evaluate"),
    (plugins_use_the_public_names, "plugins/a.py", "import rtk.cli"),
    (plugins_use_the_public_names, "plugins/a.py", "from rtk import bench"),
    (plugins_use_the_public_names, "plugins/a.py", "import torch"),
    (plugins_use_the_public_names, "plugins/a.py", "def f():\n    import torch"),
    (plugins_use_the_public_names, "plugins/a.py", "from . import rift"),
    (plugins_use_the_public_names, "plugins/a.py", "from .rift import Losses"),
    (plugins_use_the_public_names, "plugins/a.py", "from rtk_plugins.rift import Losses"),
    (torchattacks_has_one_adapter, "rtk/evaluation/cascade.py", "import torchattacks"),
    (torchattacks_has_one_adapter, "plugins/a.py", "def f():\n    from torchattacks import PGD"),
    (networks_come_from_backbones, "rtk/host.py", "import timm"),
    (networks_come_from_backbones, "rtk/host.py", "from torchvision import models"),
    (networks_come_from_backbones, "rtk/doctor.py", "import robustbench"),
    (networks_come_from_backbones, "rtk/run.py", "import importlib\nimportlib.import_module('robustbench.utils')"),
    (images_come_from_data, "rtk/run.py", "from torchvision import transforms"),
    (images_come_from_data, "rtk/backbones/x.py", "import torchvision.datasets"),
    (corruptions_are_made_in_one_place, "rtk/evaluate.py", "import cv2"),
    (corruptions_are_made_in_one_place, "rtk/data/x.py", "def f():\n    from skimage.color import rgb2hsv"),
    (corruptions_are_made_in_one_place, "plugins/a.py", "import imagecorruptions.corruptions"),
    (pages_are_made_in_one_place, "rtk/report/x.py", "def f():\n    import plotly.graph_objects"),
    (pages_are_made_in_one_place, "rtk/bench/x.py", "from ..site import build"),
    (only_evaluation_reads_test_data, "rtk/host.py", 'data.split("test")'),
    (only_evaluation_reads_test_data, "plugins/a.py", 'run.data.split(which="test")'),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BAD))
GOOD = [
    ("plugins/a.py", "from rtk import Strategy"),
    ("plugins/a.py", "import math\nimport rtk\nfrom rtk.lazy import F, nn, torch"),
    ("plugins/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor"),
    ("plugins/tensorboard.py", "def f():\n    from torch.utils.tensorboard import SummaryWriter"),
    ("rtk/attacks/mended.py", "import torchattacks"),
    ("rtk/backbones/zoo.py", "import timm"),
    ("rtk/corruptions/kinds.py", "import cv2\nimport imagecorruptions"),
    ("rtk/site/page.py", "need('jinja2')"),
    ("rtk/cli/bench_site.py", "def f():\n    from ..site.build import write"),
    ("rtk/evaluation/subject.py", 'data.split("test")'),
    ("rtk/host.py", 'data.split("train")\nname.split(",")'),
]
SOURCES = sorted(path.relative_to(ROOT) for place in ("rtk", "plugins") for path in (ROOT / place).rglob("*.py"))


def broken(rule: Rule, path: Path, source: str) -> list[str]:
    """What a rule has against a source text, one sentence each."""
    return [f"{path} {sentence}." for sentence in rule(path, ast.parse(source))]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    found = [sentence for path in SOURCES for sentence in broken(rule, path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("rule", "path", "source"), BAD)
def test_a_rule_finds_what_it_forbids(rule: Rule, path: str, source: str) -> None:
    assert broken(rule, Path(path), source)


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_no_rule_forbids_what_is_allowed(path: str, source: str) -> None:
    assert [sentence for rule in RULES for sentence in broken(rule, Path(path), source)] == []


def test_the_sources_are_found() -> None:
    assert {Path("rtk/cli/finetune.py"), Path("plugins/rift.py")} <= set(SOURCES)


@pytest.mark.parametrize("module", ["rtk", "rtk.cli", "rtk.corruptions", "rtk.request", "rtk_plugins.rift"])
def test_no_torch_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
