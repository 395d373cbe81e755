"""Make the image files that ship inside the wheel, `rtk/assets/{fashion,signs}*`.

    python benchmarks/embedded_data.py --fashion-mnist DIR --sign-digits DIR [--out rtk/assets]

Inputs:
    --fashion-mnist  the four idx.gz files of Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), e.g. from the Debian
                     package dataset-fashion-mnist, which installs them in /usr/share/datasets/fashion-mnist
    --sign-digits    Sign-Language-Digits (Mavi 2020, arXiv 2011.08927) at 32x32, split so that train and test show
                     different people: index.json, labels.npz and the lossless mosaics that index.json names

What is made, per data set: one lossless WebP mosaic per split, its tiles sorted by class, and one json with the tile
size, the number of tiles per class and the SHA-256 of the decoded arrays. Which images are taken depends only on the
constants below; the same inputs, pillow and libwebp give the same bytes, any other version the same decoded arrays.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rtk.data.embedded import arrays_sha256, by_rounds
from rtk.data.stratify import seeded_order

Images = npt.NDArray[np.uint8]
SEED = 0
FASHION = {"train": 800, "val": 150, "test": 250}  # images per class
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
COLUMNS = 50


def idx(file: Path) -> Images:
    """An idx file of unsigned bytes (the format of MNIST): images (N, 28, 28) or labels (N,)."""
    data = gzip.decompress(file.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def first_of_each_class(labels: Images, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Indices of the images that come start-th to stop-th of their class in the seeded order, sorted by class."""
    order = seeded_order(len(labels), SEED)
    return np.concatenate([np.sort(order[labels[order] == label][start:stop]) for label in range(10)])


def fashion(source: Path) -> dict[str, tuple[Images, Images]]:
    """Train comes from the official training split; val and test are disjoint parts of the official test split."""
    chosen = {}
    used = 0
    for split, per_class in FASHION.items():
        stem = "train" if split == "train" else "t10k"
        images, labels = idx(source / f"{stem}-images-idx3-ubyte.gz"), idx(source / f"{stem}-labels-idx1-ubyte.gz")
        start = 0 if split == "train" else used
        rows = first_of_each_class(labels, start, start + per_class)
        used = 0 if split == "train" else start + per_class
        chosen[split] = images[rows][..., None], labels[rows]
    return chosen


def signs(source: Path) -> dict[str, tuple[Images, Images]]:
    """Both splits whole; only the order of the tiles changes."""
    index = json.loads((source / "index.json").read_text())
    stored = np.load(source / "labels.npz")
    chosen = {}
    for split in ("train", "test"):
        images = np.concatenate([tiles(source / name, index["columns"], 32)[:count] for name, count in index[split]])
        if hashlib.sha256(images.tobytes()).hexdigest() != index["sha256"][f"x_{split}"]:
            raise SystemExit(f"{source}: the {split} mosaics do not match the SHA-256 in index.json")
        rows = np.argsort(stored[f"y_{split}"], kind="stable")
        chosen[split] = images[rows], stored[f"y_{split}"][rows].astype(np.uint8)
    return chosen


def tiles(file: Path, columns: int, size: int) -> Images:
    """The tiles of an RGB mosaic, row by row: (N, size, size, 3)."""
    mosaic = np.asarray(Image.open(file).convert("RGB"))
    grid = mosaic.reshape(-1, size, columns, size, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, size, size, 3)


def mosaic_bytes(images: Images) -> bytes:
    """Lossless WebP of images (N, H, W, 1 or 3), COLUMNS tiles to a row, the last row filled up with black."""
    count, height, width, channels = images.shape
    rows = -(-count // COLUMNS)
    canvas = np.zeros((rows * COLUMNS, height, width, channels), np.uint8)
    canvas[:count] = images
    grid = canvas.reshape(rows, COLUMNS, height, width, channels).transpose(0, 2, 1, 3, 4)
    picture = grid.reshape(rows * height, COLUMNS * width, channels)
    out = io.BytesIO()
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(
        out, "WEBP", lossless=True, quality=100, method=6, exact=True
    )
    return out.getvalue()


def write(name: str, splits: dict[str, tuple[Images, Images]], classes: tuple[str, ...], out: Path) -> None:
    """Write out/NAME-SPLIT.webp and out/NAME.json."""
    notice = "Changed from the original data set; source, licence and changes are in NOTICE.md."
    index: dict[str, object] = {"notice": notice, "classes": classes, "columns": COLUMNS}
    for split, (images, labels) in splits.items():
        index["tile"] = images.shape[1:]
        counts = np.bincount(labels, minlength=len(classes))
        order = by_rounds(counts)
        file = out / f"{name}-{split}.webp"
        file.write_bytes(mosaic_bytes(images))
        index[split] = {
            "file": file.name,
            "counts": counts.tolist(),
            "sha256": arrays_sha256(images[order], labels[order]),
        }
        print(f"{file}: {len(images)} images, {file.stat().st_size:,} bytes")
    (out / f"{name}.json").write_text(json.dumps(index, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sign-digits", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "rtk" / "assets", metavar="DIR")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write("fashion", fashion(arguments.fashion_mnist), FASHION_CLASSES, arguments.out)
    write("signs", signs(arguments.sign_digits), tuple("0123456789"), arguments.out)


if __name__ == "__main__":
    main()
