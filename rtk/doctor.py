"""Checks of the installation. Each dependency is tried in the way in which rtk uses it.

Why the pins of setup.cfg are as they are:

* torch before 2.10 can be made to run code by a checkpoint although it is told not to (CVE-2026-24747).
* robustbench 1.1.1, the newest on PyPI, requires timm 1.0.9 exactly and imports `pkg_resources`, which setuptools 81
  and later no longer promise. It also imports a module `autoattack` that no package on PyPI has; the adapter in
  rtk.backbones puts a stand-in there while it is imported.
* timm 1.0.9 loads weights from the Hugging Face hub only with huggingface_hub below 1.
* torchattacks 3.5.1 requires requests 2.25.1, which goes with huggingface_hub below 1, and urllib3 1.26 and idna 2.10
  with it; SECURITY.md lists what is known to be wrong with them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from . import vulnerabilities

REINSTALL = "pip install --upgrade --force-reinstall rtk"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    optional: bool = False


def checks() -> Iterator[Check]:
    """All checks, in the order in which one depends on another."""
    yield Check("python", True, platform.python_version())
    for name, use, remedy in (
        ("torch", _torch, "pip install torch"),
        ("torchvision", _torchvision, "pip install --force-reinstall torch torchvision"),
        ("torchattacks", _torchattacks, "pip install torchattacks==3.5.1"),
        ("robustbench", _robustbench, 'pip install robustbench==1.1.1 "setuptools<81"'),
        ("timm", _timm, "pip install timm==1.0.9"),
        ("timm hub weights", _hub, 'pip install "huggingface_hub<1"'),
        ("embedded backbone", _embedded, REINSTALL),
        ("embedded data", _data, REINSTALL),
        ("plugins", _plugins, "pip uninstall the plugin that is named, or set RTK_NO_PLUGINS=1"),
    ):
        yield _check(name, use, remedy)
    yield _check("GPU", _gpu, "nothing to do without an NVIDIA GPU; otherwise its driver", optional=True)
    yield _check("dependencies", _requirements, 'pip install --upgrade "rtk"')
    yield _check("checkpoints", _checkpoints, 'pip install --upgrade "torch>=2.10"', optional=True)
    yield _check("vulnerabilities", _vulnerabilities, "see SECURITY.md; pip install --upgrade PACKAGE", optional=True)


def _check(name: str, use: Callable[[], str], remedy: str, optional: bool = False) -> Check:
    try:
        return Check(name, True, use(), optional=optional)
    except Exception as problem:  # whatever a broken dependency raises is what the user wants to read
        return Check(name, False, f"{type(problem).__name__}: {problem}".splitlines()[0][:200], remedy, optional)


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def _torchvision() -> str:
    import torchvision

    return str(torchvision.__version__)


def _torchattacks() -> str:
    import torch

    from .attacks import autoattack, pgd
    from .threat import Threat

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    pgd(Threat(), steps=2)(model, images, labels, seed=0)
    autoattack(Threat(), 4)[0](model, images, labels, seed=0)
    return metadata.version("torchattacks")


def _robustbench() -> str:
    from .backbones import open_backbone

    open_backbone("robustbench:cifar10/Linf/Addepalli2022Efficient_RN18", weights="random")
    return metadata.version("robustbench")


def _timm() -> str:
    from .backbones import open_backbone

    open_backbone("timm:resnet10t", weights="random", classes=10)
    return metadata.version("timm")


def _hub() -> str:
    from timm.models import _hub as hub

    if not hub.has_hf_hub():
        raise RuntimeError("timm cannot use the installed huggingface_hub")
    return metadata.version("huggingface_hub")


def _embedded() -> str:
    from .backbones import open_backbone

    return f"rtk:fashion-resnet, {open_backbone('rtk:fashion-resnet').structure.norms}"


def _data() -> str:
    from .data import open_dataset

    return ", ".join(f"{name} ({len(open_dataset(name).split('train'))} for training)" for name in ("fashion", "signs"))


def _plugins() -> str:
    from .hookspecs import OBSERVERS
    from .registry import Registry, observer

    listing, observers = Registry().listing(), Registry(group=OBSERVERS)
    for listed in listing:
        if listed.problem:
            raise RuntimeError(listed.problem)
    for name in observers.names():
        observer(name)
    return ", ".join([*(listed.plugin.name for listed in listing), *observers.names()])


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("none usable; everything runs on the CPU")
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _checkpoints() -> str:
    """Files of torch.save can be read without running code."""
    for advisory in vulnerabilities.here():
        if advisory.package == "torch":
            raise RuntimeError(
                f"a file of torch.save can run code in torch {metadata.version('torch')} ({advisory.ids[0]}); use"
                " safetensors, or files that you trust"
            )
    return "read without running code"


def _vulnerabilities() -> str:
    """No vulnerability is known of what is installed, but those that the pins force."""
    forced = [advisory for advisory in vulnerabilities.here() if advisory.forced]
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in dict.fromkeys(one.package for one in forced))
    known = f"{len(forced)} that the pins force ({packages}; see SECURITY.md)" if forced else "none known"
    try:
        found = vulnerabilities.unlisted(vulnerabilities.look_up())
    except LookupError as problem:
        return f"{known}; not looked for others: {problem}"
    if found:
        raise RuntimeError(f"{len(found)} that SECURITY.md does not list: {', '.join(found)}")
    return f"{known}; no others"


def _requirements() -> str:
    """Every requirement of rtk and of what it requires is installed in a version that fits (what `pip check` does)."""
    from packaging.requirements import Requirement

    todo, seen = ["rtk"], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in metadata.requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            installed = metadata.version(wanted.name)
            if not wanted.specifier.contains(installed, prereleases=True):
                raise RuntimeError(f"{name} requires {wanted}, but {installed} is installed")
            todo.append(wanted.name)
    return f"{len(seen)} packages fit together"
