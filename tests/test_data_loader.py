"""Batches and augmentation depend on (seed, epoch) and on nothing else."""

from __future__ import annotations

import pytest
import torch

from rtk.data import Batch, Loader
from rtk.data.augment import augment
from rtk.data.split import ArrayPixels, Split
from rtk.errors import BadValue, UnknownName


def split_of(count: int, size: int = 16) -> Split:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Split(ArrayPixels(images), torch.arange(count) % 4)


def slow_augment(images: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """The definition, image by image: reflect-pad, cut, mirror."""
    batch, _, height, width = images.shape
    pads = height // 8, width // 8
    down = torch.randint(-pads[0], pads[0] + 1, (batch, 1), generator=generator)
    right = torch.randint(-pads[1], pads[1] + 1, (batch, 1), generator=generator)
    mirror = torch.rand(batch, generator=generator) < 0.5 if kind == "crop-flip" else torch.zeros(batch, dtype=bool)
    out = []
    for image, y, x, flip in zip(images, down, right, mirror, strict=True):
        padded = torch.nn.functional.pad(image[None], (pads[1], pads[1], pads[0], pads[0]), mode="reflect")[0]
        top, left = pads[0] + int(y), pads[1] + int(x)
        cut = padded[:, top : top + height, left : left + width]
        out.append(cut.flip(2) if flip else cut)
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (40, 1, 64, 64), (20, 3, 16, 24), (5, 3, 7, 7), (1, 3, 32, 32)])
def test_augmentation_is_its_definition(kind, shape):
    images = torch.rand(shape)
    fast = augment(images, kind, torch.Generator().manual_seed(1))
    assert torch.equal(fast, slow_augment(images, kind, torch.Generator().manual_seed(1)))
    assert fast.shape == images.shape and fast.min() >= 0 and fast.max() <= 1


def test_every_shift_and_both_mirrors_occur():
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(2000, 1, 8, 8) / 64
    out = augment(ramp, "crop-flip", torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in out}) == 3 * 3 * 2


def test_none_draws_nothing():
    images = torch.rand(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment(images, "none", generator) is images
    assert torch.equal(before, generator.get_state())


def test_unknown_augmentation():
    with pytest.raises(UnknownName, match="Did you mean 'crop-flip'"):
        augment(torch.rand(1, 3, 8, 8), "cropflip", torch.Generator())
    with pytest.raises(UnknownName, match="Unknown augmentation"):
        Loader(split_of(4), 2, shuffle=False, augment="mixup")


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a, b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True)
    )


def test_epochs_depend_on_seed_and_number_only():
    split = split_of(50)
    loader = Loader(split, 8, shuffle=True, augment="crop-flip", seed=3)
    third = list(loader.epoch(3))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = list(Loader(split, 8, shuffle=True, augment="crop-flip", seed=3).epoch(3))
    assert same(third, again)
    assert torch.equal(before, torch.get_rng_state())
    assert not same(third, list(loader.epoch(2)))
    assert not same(third, list(Loader(split, 8, shuffle=True, augment="crop-flip", seed=4).epoch(3)))


@pytest.mark.parametrize("kind", ["none", "crop", "crop-flip"])
def test_an_epoch_can_be_entered_anywhere(kind):
    loader = Loader(split_of(30), 8, shuffle=True, augment=kind, seed=3)
    whole = list(loader.epoch(2))
    for start in range(5):
        assert same(whole[start:], list(loader.epoch(2, start)))


def test_iterating_counts_the_epochs():
    loader = Loader(split_of(20), 8, shuffle=True, seed=1)
    assert same(list(loader), list(loader.epoch(0)))
    assert same(list(loader), list(loader.epoch(1)))


def test_an_abandoned_epoch_leaves_no_trace():
    loader = Loader(split_of(20), 4, shuffle=True, augment="crop", seed=1)
    whole = list(loader.epoch(0))
    next(loader.epoch(0))
    one, two = loader.epoch(0), loader.epoch(1)
    interleaved = [(next(one), next(two)) for _ in range(5)]
    assert same(whole, [first for first, _ in interleaved])


@pytest.mark.parametrize(
    ("count", "size", "drop", "expected"),
    [(9, 4, False, [4, 4, 1]), (9, 4, True, [4, 4]), (8, 4, False, [4, 4]), (3, 8, False, [3]), (4, 1, True, [1] * 4)],
)
def test_batch_sizes(count, size, drop, expected):
    loader = Loader(split_of(count), size, shuffle=True, augment="crop", drop_last=drop)
    batches = list(loader.epoch(0))
    assert [len(batch.labels) for batch in batches] == expected and len(loader) == len(expected)
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen.unique()) == len(seen)


def test_batches_hold_what_the_split_holds():
    split = split_of(10)
    for images, labels, indices in Loader(split, 4, shuffle=True, augment="none", seed=5):
        assert images.dtype == torch.float32
        assert torch.equal(images, split.images(indices)) and torch.equal(labels, split.labels[indices])
    ordered = torch.cat([batch.indices for batch in Loader(split, 4, shuffle=False)])
    assert ordered.tolist() == list(range(10))


def test_bad_batch_sizes():
    with pytest.raises(BadValue, match="--batch-size: got 0"):
        Loader(split_of(4), 0, shuffle=True)
    with pytest.raises(BadValue, match="up to the 4 images"):
        Loader(split_of(4), 5, shuffle=True, drop_last=True)


@pytest.mark.gpu
def test_same_augmentation_on_a_gpu():
    split = split_of(33, 32)
    here, there = (
        list(Loader(split, 16, shuffle=True, augment="crop-flip", seed=2, device=device).epoch(1))
        for device in ("cpu", "cuda")
    )
    assert all(batch.images.is_cuda and batch.labels.is_cuda for batch in there)
    assert same(here, [Batch(b.images.cpu(), b.labels.cpu(), b.indices) for b in there])
