"""Open a backbone by its URI: build, load, inspect, fit the classifier to the number of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import files
from ..errors import BadBackbone, BadValue
from ..threat import Threat
from .catalogue import split_uri
from .classifier import Classifier
from .earlier_run import check_spec, read_run
from .embedded import EmbeddedSource
from .naming import check_fit, rename
from .source import Source, Spec
from .structure import Structure, inspect
from .timm_models import TimmSource
from .torchvision_models import TorchvisionSource
from .trace import untouched
from .weights import hash_state, read_checkpoint
from .zoo import ZooSource

_SOURCES: dict[str, Callable[[], Source]] = {
    "rtk": EmbeddedSource,
    "robustbench": ZooSource,
    "timm": TimmSource,
    "torchvision": TorchvisionSource,
}


@dataclass(frozen=True)
class Checkpoint:
    """The file that weights were read from.

    Attributes:
        sha256: of the file.
        ran: names of the code in it that reading it ran, since the caller trusted it; () where it asked for none, None
            where it was not trusted.
    """

    sha256: str
    ran: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Backbone:
    """A classifier that fine-tuning can start from.

    Attributes:
        uri: as it was asked for.
        model: images (N, C, H, W) in [0, 1] to logits (N, classes); on the CPU, in eval mode.
        classes: number of outputs.
        threat: what the published weights were trained to withstand; None when unknown or nothing.
        spec: JSON; `rebuild(spec)` gives the same architecture.
        structure: classifier, blocks, norm layers.
        new_head: whether the classifier is freshly initialised: other classes, none in the file, or asked for.
        weights_sha256: `hash_state` of the loaded weights before a new classifier was put in; None for random weights.
        given_blocks: names of blocks that the user gave, or None when they were found.
        checkpoint: the file that the weights come from; None for random weights.
    """

    uri: str
    model: Classifier
    classes: int
    threat: Threat | None
    spec: Spec
    structure: Structure
    new_head: bool
    weights_sha256: str | None
    given_blocks: tuple[str, ...] | None = None
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class _Origin:
    """Where a URI leads."""

    spec: Spec
    source: Source
    threat: Threat | None
    locate: Callable[[], Path]
    head: str | None = None
    blocks: Sequence[str] | None = None


def open_backbone(
    uri: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    new_head: bool = False,
    head: str | None = None,
    blocks: Sequence[str] | None = None,
    seed: int = 0,
    trust_checkpoint: bool = False,
) -> Backbone:
    """Open the backbone that `uri` names, with a classifier for `classes` classes.

    Args:
        uri: SOURCE:NAME, see `catalogue`.
        weights: a file of weights to use instead of the published ones, or "random" for seeded random weights.
        classes: outputs wanted; None keeps those of the checkpoint. When they differ the classifier, and nothing
            else, is replaced by a new nn.Linear with PyTorch's initialisation.
        new_head: replace the classifier also when the number of classes is the same, because they mean other things.
        head: name of the classifier layer, when it cannot be found.
        blocks: names of the blocks, when they cannot be found.
        seed: of random weights and of a new classifier. The global random state is neither used nor changed.
        trust_checkpoint: run the code that a file of torch.save asks for, where it cannot be read without; it can do
            whatever this user can.

    Raises:
        UnknownName, BadValue, BadBackbone: each in one line that says what to do.
    """
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
        raise BadValue(f"classes: got {classes!r} (allowed: 2 or more).")
    with _seeded(seed):
        origin = _origin(uri)
        path = None if weights == "random" else _home(weights) if weights else origin.locate()
        state, checkpoint = None, None
        if path is not None:
            state, ran = read_checkpoint(path, origin.source.entry(origin.spec), trusted=trust_checkpoint)
            checkpoint = Checkpoint(files.unchanged_sha256(path), ran if trust_checkpoint else None)
        model = _build(origin.spec)
        chosen = tuple(blocks) if blocks is not None else origin.blocks
        structure = inspect(model, _example(model), head or origin.head, chosen)
        digest, missing_head = None, False
        if state is not None:
            missing_head = _load(origin, model, structure, state, f"{path}", uri, classes)
            digest = hash_state(model.native_state())
        have = structure.head_of(model).out_features
        wanted = have if classes is None else classes
        new_head = new_head or missing_head or wanted != have
        if new_head:
            _replace_head(model, structure.head, wanted, seed)
            _check_logits(model, structure.head, wanted)
    return Backbone(
        uri=uri,
        model=model.eval(),
        classes=wanted,
        threat=origin.threat,
        spec={**origin.spec, "classes": wanted, "head": structure.head},
        structure=structure,
        new_head=new_head,
        weights_sha256=digest,
        given_blocks=None if chosen is None else tuple(chosen),
        checkpoint=checkpoint,
    )


def rebuild(spec: Mapping[str, Any]) -> Classifier:
    """The architecture of `Backbone.spec` with random weights; needs no strategy and no checkpoint.

    Raises:
        BadBackbone, UnknownName: the spec is not whole, or names an architecture that is not installed.
    """
    with _seeded(0):
        return _build(check_spec(spec)).eval()


def describe(backbone: Backbone) -> dict[str, Any]:
    """The JSON record that a run stores as backbone.json; with model.safetensors beside it `run:DIR` opens it."""
    return {
        "uri": backbone.uri,
        "spec": backbone.spec,
        "classes": backbone.classes,
        "threat": None if backbone.threat is None else asdict(backbone.threat),
        "head": backbone.structure.head,
        "blocks": None if backbone.given_blocks is None else list(backbone.given_blocks),
    }


def hash_spec(record: Mapping[str, Any]) -> str:
    """SHA-256 of what `describe` says of the function that weights make: architecture, normalisation and size."""
    return files.digest({"spec": record["spec"], "classes": record["classes"]})


def _home(file: str | Path) -> Path:
    try:
        return files.home(file)
    except BadValue as problem:
        raise BadBackbone(f"--weights {problem.message}") from None


def _origin(uri: str) -> _Origin:
    family, name = split_uri(uri)
    if family == "run":
        run = read_run(name)
        source = _SOURCES[run.spec["family"]]()
        return _Origin(run.spec, source, run.threat, lambda: run.weights, run.head, run.blocks)
    source = _SOURCES[family]()
    spec, threat = source.spec(name)
    return _Origin({**spec, "classes": spec["native_classes"]}, source, threat, lambda: source.locate(spec))


def _build(spec: Spec) -> Classifier:
    """The architecture of a spec; its weights come from torch's global random state."""
    net = _SOURCES[spec["family"]]().build(spec)
    model = Classifier(net, spec["mean"], spec["std"], spec["size"])
    if spec["classes"] != spec["native_classes"]:
        if not spec.get("head"):
            raise BadBackbone("The spec of a backbone lacks head, which a changed number of classes needs.")
        _replace_head(model, spec["head"], spec["classes"], 0)
    model.channels_last = _runs(model)
    return model


def _runs(model: Classifier) -> bool:
    """Whether the forward pass takes the layout that is asked for; a view of activations, for one, does not."""
    try:
        with untouched(model), torch.no_grad():
            model(_example(model))
    except RuntimeError:
        return False
    return True


def _load(
    origin: _Origin,
    model: Classifier,
    structure: Structure,
    state: dict[str, Tensor],
    what: str,
    uri: str,
    classes: int | None,
) -> bool:
    """Load a checkpoint with however many classes it has; True when it has no classifier at all."""
    own = model.native_state()
    state = rename(state, own, origin.source.converter(model.net))
    weight = f"{structure.head}.weight"
    missing_head = weight not in state and len(state.keys() & own.keys()) > len(own) // 2
    if missing_head:
        if classes is None:
            others = ", ".join(f"'{name}'" for name in sorted(state.keys() - own.keys())[:3])
            instead = f", but {others}, so it is of another architecture than {uri}" if others else ""
            raise BadBackbone(
                f"{what}: has no classifier ('{weight}' is missing){instead}.",
                "another --backbone" if others else "rtk finetune, which gives it a new one for its data",
            )
        state |= {name: own[name] for name in own if name.startswith(f"{structure.head}.") and name not in state}
    elif weight in state and state[weight].shape[1:] == own[weight].shape[1:]:
        if len(state[weight]) < 2:
            raise BadBackbone(f"{what}: '{weight}' tells {len(state[weight])} classes apart (allowed: 2 or more).")
        if len(state[weight]) != len(own[weight]):
            _replace_head(model, structure.head, len(state[weight]), 0)
        own = model.native_state()
    state = origin.source.mend(origin.spec, state, own)
    check_fit(state, own, what, uri)
    model.net.load_state_dict(state)
    return missing_head


def _replace_head(model: Classifier, head: str, classes: int, seed: int) -> None:
    """Put a new nn.Linear with PyTorch's initialisation in place of the classifier."""
    try:
        old = model.net.get_submodule(head)
    except AttributeError:
        raise BadBackbone(f"The backbone has no layer '{head}' to replace.") from None
    if not isinstance(old, nn.Linear):
        raise BadBackbone(f"The layer '{head}' is a {type(old).__name__}; an nn.Linear is needed as classifier.")
    with _seeded(seed):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    new.train(old.training)
    parent, _, last = head.rpartition(".")
    setattr(model.net.get_submodule(parent), last, new)


def _check_logits(model: Classifier, head: str, classes: int) -> None:
    """A network may mix several classifiers; replacing one of them does not change its number of classes."""
    try:
        with untouched(model), torch.no_grad():
            shape = tuple(model(_example(model)).shape)
    except RuntimeError:
        shape = ()
    if shape != (1, classes):
        raise BadBackbone(f"Replacing '{head}' alone does not give {classes} classes; it is not the only classifier.")


def _example(model: Classifier) -> Tensor:
    """One image of noise in [0, 1] at the native size."""
    height, width = model.size or (32, 32)
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's CPU random state starts from `seed` inside and is afterwards what it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield
