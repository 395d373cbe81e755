"""Augmented training images per second: rtk's loader against torchvision's transforms in a DataLoader.

python benchmarks/speed/data.py                 # 32x32, in memory
python benchmarks/speed/data.py --side 224      # JPEG files
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import Race, parser, run
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from rtk.data import Loader, open_dataset

SIZE = 128


class InMemory(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's CIFAR10 keeps them: an array, and a picture for each that is asked for."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: transforms.Compose):
        self.images, self.labels, self.transform = (images * 255).byte().permute(0, 2, 3, 1).numpy(), labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def pictures(count: int, side: int) -> Path:
    """A folder of JPEG files as data sets of photographs have them, train/CLASS/NUMBER.jpg, made of the hand signs."""
    split, place = open_dataset("signs").split("train"), Path(tempfile.mkdtemp(prefix="rtk-speed-"))
    for number in range(count):
        image = (split.images([number % len(split)])[0] * 255).byte().permute(1, 2, 0).numpy()
        for part in ("train", "test") if number < 20 else ("train",):
            folder = place / part / f"class-{int(split.labels[number % len(split)])}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((side * 5 // 4, side * 5 // 4)).save(folder / f"{number:05}.jpg", quality=90)
    return place


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--side", type=int, default=32)
    options.add_argument("--count", type=int)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.side == 32:
        split = open_dataset("fashion").split("train")
        crop = transforms.RandomCrop(32, padding=4, padding_mode="reflect")
        mirrored = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        theirs: Dataset[tuple[torch.Tensor, int]] = InMemory(split.images(slice(None)), split.labels, mirrored)
    else:
        place = pictures(asked.count or 512, asked.side)
        split = open_dataset(f"folder:{place}", image_size=asked.side).split("train")
        resize = [transforms.Resize(asked.side), transforms.CenterCrop(asked.side)]
        crop = transforms.RandomCrop(asked.side, padding=asked.side // 8, padding_mode="reflect")
        chain = transforms.Compose([*resize, crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        every = datasets.ImageFolder(str(place / "train"), chain)
        theirs = Subset(every, range(len(split)))  # rtk holds some back for validation

    def with_rtk() -> int:
        loader = Loader(split, SIZE, shuffle=True, augment="crop-flip", device=asked.device)
        return sum(len(batch.labels) for batch in loader)

    def with_torchvision(workers: int) -> int:
        loader = DataLoader(theirs, SIZE, shuffle=True, num_workers=workers)
        return sum(len(labels.to(asked.device)) for images, labels in loader if len(images.to(asked.device)))

    run(
        Race(
            f"augmented images of {asked.side}x{asked.side}, an epoch of {len(split)}",
            {
                "rtk": with_rtk,
                "torchvision, no workers": lambda: with_torchvision(0),
                f"torchvision, {asked.threads} workers": lambda: with_torchvision(asked.threads),
            },
            lambda ours, theirs: f"images: rtk {ours}, torchvision {theirs}",
            least=1.0,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
