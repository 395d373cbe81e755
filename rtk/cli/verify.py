"""`rtk verify`: adversarial images on disk, judged again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import flag, resolve
from ..errors import BadData, BadValue, RunFailed
from ..evaluation.request import VerifyOptions
from ..request import check_dataset, check_weights
from .options import Checked, options

if TYPE_CHECKING:
    from ..evaluation.verify import Verified
    from ..statistics import Estimate


@click.command(cls=Checked, name="verify")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--images",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Somebody's adversarial images: .npy, .npz or .safetensors with images and, where they are not of the first"
    " test images in the data set's order, indices.",
)
@click.option(
    "--with",
    "evaluation",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Evaluation that gives network and data, and whose attacks count too.",
)
def command(file: Path | None, images: Path | None, evaluation: Path | None, **flags: Any) -> None:
    """Judge again the adversarial images in FILE, which rtk evaluate --save-examples left; or somebody else's.

    \b
    rtk verify runs/evaluate-NAME/examples/pgd20@Linf:0.1.safetensors
    rtk verify --images theirs.npz --with runs/evaluate-NAME
    rtk verify --images theirs.npy --backbone rtk:fashion-resnet --dataset fashion --threat Linf:0.1

    With FILE the exit code is 1 when anything does not agree with the record.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if (file is None) == (images is None):
        raise BadValue("Name one file: FILE or --images FILE.", "rtk verify runs/NAME/examples/ITEM.safetensors")
    foreign = [name for name in given if name not in ("device", "batch_size", "data_root")]
    if file is not None and foreign:
        raise BadValue(
            f"{flag(foreign[0])}: for --images alone; FILE says by itself what it is of.", f"rtk verify {file}"
        )
    path = file or images
    assert path is not None
    if not path.is_file():
        raise BadData(f"{path}: no such file.", "rtk verify FILE, or rtk verify --images FILE")
    chosen = resolve(VerifyOptions, given)
    assert isinstance(chosen, VerifyOptions)
    check_weights(chosen.weights)
    if chosen.dataset is not None:
        check_dataset(chosen.dataset)

    from ..evaluation.verify import verify_examples, verify_images

    if file is None:
        _print(verify_images(path, chosen, evaluation))
        return
    checks = verify_examples(path, chosen, evaluation)
    for check in checks:
        click.echo(f"{check.verdict:<8}{check.name}: {check.text}")
    wrong = [check.name for check in checks if check.verdict != "ok"]
    if wrong:
        raise RunFailed(f"{path}: does not agree with the record: {', '.join(wrong)}.")


def _print(found: Verified) -> None:
    click.echo(f"{found.outside} of {found.clean.n} images leave the ball or [0, 1]; they count as no attack.")
    if found.outside:
        far = f"the largest distance is {found.farthest:.4g} of {found.threat.eps:.4g}"
        click.echo(f"For {found.threat.label} in pixels of [0, 1] {far}; 8-bit images round to 1/255.")
    if not found.named:
        doubt = " Are they of others? Then the file needs indices too." if found.outside == found.clean.n else ""
        click.echo(f"The file has no indices: taken as of the first {found.clean.n} test images.{doubt}")
    _line("clean accuracy", found.clean)
    if found.outside == found.clean.n:
        click.echo("robust accuracy under these images: none is left to say.")
        return
    _line("robust accuracy under these images", found.robust)
    if found.recorded is not None and found.strongest is not None:
        _line("robust accuracy in the evaluation", found.recorded)
        _line("robust accuracy, the strongest known attack for each sample", found.strongest)


def _line(name: str, value: Estimate) -> None:
    low, high = value.interval
    click.echo(f"{name}: {100 * value.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}], {value.correct} of {value.n}")


command.params += options(VerifyOptions, show_origin=False)
