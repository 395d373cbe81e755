"""`rtk verify`: adversarial images on disk, judged again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import environment, files, rundir
from ..accuracy import correct
from ..attacks.checks import distance, inside
from ..backbones import describe, hash_spec, hash_state, open_backbone
from ..checks import Check
from ..config import resolve
from ..data import Split, open_dataset
from ..errors import BadBackbone, BadData, BadValue, UnknownName
from ..request import own_dataset
from ..results import EVALUATION, Evaluation, read_evaluation
from ..statistics import Estimate
from ..suite import Item
from ..threat import Threat
from . import examples
from .chunks import Collected
from .exactness import exactly
from .foreign import Foreign
from .measure import measure_of
from .request import VerifyOptions
from .subject import labels_of


def verify_examples(path: Path, options: VerifyOptions, evaluation: Path | None = None) -> list[Check]:
    """Judge a file of `rtk evaluate --save-examples` again; what does not agree has the verdict "error".

    Args:
        evaluation: the folder of the evaluation; by default the one in which the file lies.

    Raises:
        BadData: no such file, or no evaluation around it.
    """
    saved = examples.read(path)
    home = evaluation or path.resolve().parent.parent
    record = read_evaluation(home / EVALUATION)
    network = _Network(_from_folder(home, record, options))
    if saved.item not in record.row.scores:
        raise UnknownName("item of the evaluation", saved.item, record.row.scores, f"rtk show {home}")
    identity = record.row.scores[saved.item].identity
    recorded = record.examples[saved.item].content if saved.item in record.examples else None
    if saved.images.shape[1:] != network.test.image_shape or not saved.indices.lt(len(network.test)).all():
        raise BadData(f"{path}: holds other images than {len(network.test)} of {network.test.image_shape}.")
    labels = network.test.labels[saved.indices]
    right, kept = network.judge(saved.images, saved.indices, Threat.parse(saved.threat))
    return [
        _same("content", saved.found, saved.content, "hash of the content, and the hash in the file"),
        _same("recorded-content", recorded, saved.content, "hash in evaluation.json, and the hash in the file"),
        _same("identity", saved.identity["id"], identity["id"], "identity in the file, and that in evaluation.json"),
        _same("weights", network.weights, identity["weights"], "hash of the weights, and that in evaluation.json"),
        _same(
            "network",
            network.of(identity),
            identity.get("network"),
            "hash of the architecture, and that in evaluation.json",
        ),
        _same("data", network.test.sha256, identity["data"], "hash of the test images, and that in evaluation.json"),
        _none("labels", saved.labels != labels, "labels that are not those of the data set"),
        _none("ball-and-range", ~kept, f"images outside of {saved.threat} or [0, 1]"),
        _none("broken", ~saved.robust & right, "images on record as broken that a fresh forward pass gets right"),
        _none("robust", saved.robust & ~right, "images on record as robust that a fresh forward pass gets wrong"),
    ]


@dataclass(frozen=True)
class Verified:
    """What somebody's adversarial images do to a network.

    Attributes:
        named: whether the file says which test images its images are of; else the first were taken.
        outside: images that leave the ball or [0, 1]; they break nothing.
        farthest: largest distance of an image from the one it is made of, in the norm and the pixels of the threat.
        threat: that they are to keep.
        clean: accuracy on the same test images, unattacked.
        robust: right before and after.
        recorded: robust in the evaluation, on the samples that it has too; None without an evaluation.
        strongest: robust against both, on these samples: of all known attacks the strongest counts for each sample.
    """

    named: bool
    outside: int
    farthest: float
    threat: Threat
    clean: Estimate
    robust: Estimate
    recorded: Estimate | None = None
    strongest: Estimate | None = None


def verify_images(path: Path, options: VerifyOptions, evaluation: Path | None = None) -> Verified:
    """Judge adversarial images of any origin, see `Foreign` for the file.

    Args:
        evaluation: the folder of an evaluation of the same network on the same data, whose attacks count too.

    Raises:
        BadValue: no threat is named, and the evaluation has not exactly one.
        BadData: no images that belong to the data set.
        BadBackbone: the evaluation is of another network.
    """
    record = None if evaluation is None else read_evaluation(evaluation / EVALUATION)
    threat = _threat(options, record)
    if evaluation is not None and record is not None:
        options = _from_folder(evaluation, record, options)
    network = _Network(options)
    foreign = Foreign.read(path, network.test)
    clean = network.right(network.test.images(foreign.indices), foreign.indices)
    right, kept = network.judge(foreign.images, foreign.indices, threat)
    robust = clean & (right | ~kept)
    farthest = network.farthest(foreign.images, foreign.indices, threat)
    found = Verified(foreign.named, int((~kept).sum()), farthest, threat, _estimate(clean), _estimate(robust))
    if evaluation is None or record is None:
        return found
    before = _recorded(evaluation, record, threat, network)
    both = zip(foreign.indices.tolist(), robust.tolist(), strict=True)
    pairs = [(before[index], now) for index, now in both if index in before]
    if not pairs:
        raise BadData(
            f"{evaluation}: judged none of the {len(robust)} test images of {path}.", "rtk evaluate --images all"
        )
    recorded = Estimate(sum(one for one, _ in pairs), len(pairs))
    return replace(found, recorded=recorded, strongest=Estimate(sum(map(all, pairs)), len(pairs)))


def _from_folder(home: Path, record: Evaluation, options: VerifyOptions) -> VerifyOptions:
    """The options with the network and the data of an evaluation, unless they name their own."""
    size = rundir.read_options(home).get("image_size")
    found = {"backbone": f"run:{home / 'network'}", "dataset": record.dataset["uri"], "image_size": size}
    given = {name: getattr(options, name) for name in options.model_fields_set}
    chosen = resolve(VerifyOptions, {**found, **given})
    assert isinstance(chosen, VerifyOptions)
    return chosen


def _threat(options: VerifyOptions, record: Evaluation | None) -> Threat:
    if options.threat is not None:
        return Threat.parse(options.threat)
    known = [score.threat for score in record.row.scores.values() if score.threat] if record else []
    known = list(dict.fromkeys(known))
    if len(known) != 1:
        there = f" The evaluation has {', '.join(known)}." if known else ""
        hint = f"--threat {known[0] if known else 'Linf:8/255'}"
        raise BadValue(f"--threat: is required, the threat that the images claim to keep.{there}", hint)
    return Threat.parse(known[0])


def _recorded(home: Path, record: Evaluation, threat: Threat, network: _Network) -> dict[int, bool]:
    """By test index: whether the sample is robust against every attack of the evaluation at this threat."""
    if record.row.weights != network.weights:
        raise BadBackbone(f"{home}: an evaluation of another network (weights {record.row.weights[:12]}).")
    found: dict[int, bool] = {}
    for score in record.row.scores.values():
        if score.identity.get("network") != network.of(score.identity):
            raise BadBackbone(f"{home}: an evaluation of another network, with the same weights.", "its --backbone")
        if score.threat != str(threat):
            continue
        if score.identity["data"] != network.test.sha256:
            raise BadData(f"{home}: an evaluation on other test images.")
        item = Item(score.item, threat)
        collected = Collected()
        for path in sorted((home / "verdicts" / f"{item.file}-{score.identity['id']}").glob("*.json")):
            collected.add(files.read_json(path))
        final = measure_of(item, network.data).final(collected.verdicts)
        for index, robust in zip(collected.indices, final, strict=True):
            found[index] = found.get(index, True) and robust
    if not found:
        raise BadValue(f"--threat {threat}: {home} has no attack at this threat.", f"rtk show {home}")
    return found


def _same(name: str, found: object, wanted: object, what: str) -> Check:
    agree = "agree" if found == wanted else "differ"
    shown = "" if found == wanted else f": {str(found)[:16]}, {str(wanted)[:16]}"
    return Check(name=name, verdict="ok" if found == wanted else "error", text=f"The {what}, {agree}{shown}.")


def _none(name: str, wrong: Tensor, what: str) -> Check:
    count = int(wrong.sum())
    text = f"{count} of {len(wrong)} are {what} (allowed: 0)."
    return Check(name=name, verdict="error" if count else "ok", value=count, limit=0, text=text)


def _estimate(right: Tensor) -> Estimate:
    return Estimate(int(right.sum()), len(right))


class _Network:
    """A network with the test data on which it is judged."""

    def __init__(self, options: VerifyOptions):
        dataset = options.dataset or own_dataset(options.backbone)
        if dataset is None:
            raise BadData(f"{options.backbone}: on which data?", "--dataset NAME; see: rtk datasets")
        environment.make_deterministic()
        self.device = environment.device(options.device)
        self.batch = options.batch_size
        data = open_dataset(dataset, root=options.data_root, image_size=options.image_size)
        labels_of(data)
        uri = options.backbone
        backbone = open_backbone(
            uri,
            weights=options.weights,
            head=options.head,
            blocks=options.blocks,
            trust_checkpoint=options.trust_checkpoint,
        )
        if backbone.classes != data.num_classes:
            raise BadBackbone(f"{uri} tells {backbone.classes} classes apart, {data.uri} has {data.num_classes}.")
        self.weights = hash_state(backbone.model.native_state())
        self.spec = hash_spec(describe(backbone))
        self.model = backbone.model.to(self.device).eval()
        self.data = data
        self.test: Split = data.split("test")

    def of(self, identity: dict[str, Any]) -> str | None:
        """The hash of what the weights are put into; None where the identity is too old to say one."""
        return self.spec if "network" in identity else None

    def right(self, images: Tensor, indices: Tensor) -> Tensor:
        """Whether images of these test samples are classified as those, bool (N,); float32, TF32 off."""
        labels = self.test.labels[indices]
        with exactly(self.device):
            parts = [
                correct(self.model, part.to(self.device), wanted.to(self.device), self.batch).cpu()
                for part, wanted in zip(images.split(self.batch), labels.split(self.batch), strict=True)
            ]
        return torch.cat(parts)

    def judge(self, images: Tensor, indices: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        """Whether each image is classified right, and whether it keeps to the ball and to [0, 1]; bool (N,) both."""
        kept = [
            inside(self.test.images(where), part, threat)
            for part, where in zip(images.split(self.batch), indices.split(self.batch), strict=True)
        ]
        return self.right(images, indices), torch.cat(kept)

    def farthest(self, images: Tensor, indices: Tensor, threat: Threat) -> float:
        """Largest distance of an image from the test image that it is made of."""
        pairs = zip(images.split(self.batch), indices.split(self.batch), strict=True)
        return max(float(distance(self.test.images(where), part, threat.norm).max()) for part, where in pairs)
