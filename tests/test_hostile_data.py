"""Data sets and adversarial images that somebody else made: nothing is run or unpickled, no memory is taken for what a
file claims, and nothing outside of a data set is read.
"""

from __future__ import annotations

import io
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.utils import extract_archive

from rtk.corruptions import CorruptedFolder
from rtk.data import download, open_dataset
from rtk.errors import BadData, RunFailed
from rtk.evaluation.foreign import Foreign

from .test_data_folder import plant
from .test_data_npz import arrays
from .test_data_vision import cifar10, mnist
from .test_hostile_weights import Makes

TEST = open_dataset("fashion").split("test")


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where Python or numpy took more than 32 MiB at once; Pillow's images are not seen."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(shape: str, dtype: str = "|u1", rest: bytes = b"") -> bytes:
    """The beginning of a .npy file that says anything."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest


def npz(path: Path, **members: bytes) -> Path:
    """An archive with these members besides, or in place of, those of valid data; b"" leaves one out."""
    content = {**{name: npy(array) for name, array in arrays().items()}, **members}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            if data:
                archive.writestr(f"{name}.npy", data)
    return path


def lying(path: Path, member: str, size: int) -> Path:
    """The archive with another size of a member in its directory."""
    data = bytearray(path.read_bytes())
    place = data.rindex(f"{member}.npy".encode()) - 46 + 24  # in the central directory
    data[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(data)
    return path


# arrays


@pytest.mark.parametrize("member", ["x_train", "y_train", "x_test", "y_test", "classes"])
def test_pickles_in_arrays_are_not_run(member: str, tmp_path: Path) -> None:
    evil = npy(np.array([Makes(tmp_path / "made")] * 24, dtype=object))
    with pytest.raises(BadData, match=f"{member} is an array of Python objects"):
        data = open_dataset(f"npz:{npz(tmp_path / 'a.npz', **{member: evil})}")
        data.split("train"), data.split("test")
    assert not (tmp_path / "made").exists()


def test_pickles_in_other_files_of_arrays_are_not_run(tmp_path: Path) -> None:
    evil = npy(np.array([Makes(tmp_path / "made")], dtype=object))
    (tmp_path / "images.npy").write_bytes(evil)
    for path in (tmp_path / "images.npy", npz(tmp_path / "images.npz", images=evil)):
        with pytest.raises(BadData, match="is an array of Python objects"):
            Foreign.read(path, TEST)
    images = np.zeros((5, 32, 32, 3), np.uint8)
    for fog, labels in ((evil, npy(np.zeros(1, int))), (npy(images), evil)):
        (tmp_path / "fog.npy").write_bytes(fog)
        (tmp_path / "labels.npy").write_bytes(labels)
        with pytest.raises(BadData, match="is an array of Python objects"):
            CorruptedFolder(tmp_path)
    assert not (tmp_path / "made").exists()


HUGE = "(1099511627776, 1, 1, 3)"
CLAIMS: dict[str, tuple[dict[str, bytes], str]] = {
    "terabytes": ({"x_train": header(HUGE)}, r"x_train cannot be read.*claims 3,298,534,883,328 bytes, uint8"),
    "more than there are": ({"x_train": header("(24, 8, 8, 3)", rest=bytes(9))}, "claims 4,608 bytes.* holds 9"),
    "fewer than there are": (
        {"x_train": header("(24, 8, 8, 3)", rest=bytes(9999))},
        "claims 4,608 bytes.* holds 9,999",
    ),
    "below none": ({"x_train": header("(-24, 8, 8, 3)")}, r"x_train has the shape \(-24, 8, 8, 3\)"),
    "wide names": ({"classes": header("(3,)", "<U100000000")}, "classes cannot be read.*claims 1,200,000,000 bytes"),
    "no shape": ({"x_train": header("24")}, "x_train cannot be read"),
    "deep": ({"x_train": header("(" * 3000 + ")" * 3000)}, "x_train cannot be read"),
    "no type": ({"x_train": header("(1,)", "z9")}, "x_train cannot be read"),
    "code": ({"x_train": header("__import__('os').mkdir('made')")}, "x_train cannot be read"),
    "a gap of a trillion labels": ({"y_train": npy(np.arange(24) * 10**12)}, "up to 23000000000000 but no 1 "),
    "labels beyond 64 bits": ({"y_train": npy(np.arange(24).astype(np.uint64) + 2**63)}, "but no 0 "),
    "an array in an array": ({"x_train": npy(np.zeros(24, "V9"))}, "x_train has shape|x_train is"),
    "dates": ({"y_train": npy(np.zeros(24, "M8[s]"))}, "y_train is datetime64"),
    "nothing": (dict.fromkeys(arrays(), b""), "lacks x_train, y_train, x_test, y_test"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_what_an_array_claims_is_not_believed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    members, said = CLAIMS[case]
    path = npz(tmp_path / "a.npz", **members)
    begun = time.monotonic()
    with little_memory(), pytest.raises(BadData, match=said) as refused:
        open_dataset(f"npz:{path}").split("train")
    assert time.monotonic() - begun < 20 and "\n" not in refused.value.message
    assert [found.name for found in tmp_path.iterdir()] == ["a.npz"]


def test_a_file_of_one_array_is_not_believed_either(tmp_path: Path) -> None:
    (tmp_path / "fog.npy").write_bytes(header(HUGE, rest=bytes(99)))
    for read in (lambda: Foreign.read(tmp_path / "fog.npy", TEST), lambda: CorruptedFolder(tmp_path)):
        with little_memory(), pytest.raises(BadData, match=r"claims 3,298,534,883,328 bytes, .* the file holds 99"):
            read()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of 1 MiB in place of 1 GiB, so that the test does not have to write as much."""
    monkeypatch.setattr("rtk.data.arrays.ALLOWED", 1 << 20)
    bomb = header("(65536, 32, 32)", rest=bytes(1 << 26))
    said = "67,108,864 bytes in an archive of .*, a zip bomb .allowed: .*, the larger of 1,048,576 and 100 times"
    path = npz(tmp_path / "a.npz", x_train=bomb, images=bomb)
    assert path.stat().st_size < 1 << 18
    with little_memory(), pytest.raises(BadData, match=f"x_train has {said}"):
        open_dataset(f"npz:{path}").split("train")
    with little_memory(), pytest.raises(BadData, match=f"'images' has {said}"):
        Foreign.read(path, TEST)
    good = open_dataset(f"npz:{npz(tmp_path / 'good.npz')}")  # what compresses well but is small is read
    assert len(good.split("train")) + len(good.split("val")) == 24


@pytest.mark.parametrize("size", [0, 100, 1 << 31, (1 << 32) - 2])
def test_a_size_that_is_a_lie_is_found_out(size: int, tmp_path: Path) -> None:
    path = lying(npz(tmp_path / "a.npz"), "x_train", size)
    with little_memory(), pytest.raises(BadData, match="x_train cannot be read"):
        open_dataset(f"npz:{path}").split("train")


def test_arrays_beside_the_images_are_not_read(tmp_path: Path) -> None:
    images = npy(np.zeros((2, 3, 32, 32), np.float32))
    found = Foreign.read(npz(tmp_path / "a.npz", images=images, more=header(HUGE)), TEST)
    assert found.images.shape == (2, 3, 32, 32)


def test_more_images_than_samples_are_refused_before_they_are_copied(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(25_000, 32, 32, 1))
    images.flush()
    del images
    tracemalloc.start()
    with pytest.raises(BadData, match="25000 images; the test split has samples 0 to 2499"):
        Foreign.read(tmp_path / "a.npy", TEST)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20  # the file alone, not twelve times as much


def test_an_archive_in_place_of_an_array_is_refused(tmp_path: Path) -> None:
    npz(tmp_path / "fog.npz").rename(tmp_path / "fog.npy")
    with pytest.raises(BadData, match=r"fog\.npy: cannot be read"):
        CorruptedFolder(tmp_path)


# links


def outside(folder: Path) -> Path:
    (folder / "private").mkdir()
    Image.new("RGB", (20, 12)).save(folder / "private" / "0.png")
    return folder / "private"


def an_image(data: Path, private: Path) -> None:
    (data / "train" / "cat" / "9.png").symlink_to(private / "0.png")


def an_image_by_a_way_around(data: Path, private: Path) -> None:
    (data / "train" / "cat" / "9.png").symlink_to(Path("../../../private/0.png"))


def a_class(data: Path, private: Path) -> None:
    (data / "train" / "dog").rename(data / "dog")
    (data / "train" / "dog").symlink_to(private)


def a_split(data: Path, private: Path) -> None:
    (data / "train").rename(data.parent / "elsewhere")
    (data / "train").symlink_to(data.parent / "elsewhere")


@pytest.mark.parametrize("link", [an_image, an_image_by_a_way_around, a_class, a_split])
def test_links_do_not_lead_out_of_a_folder(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    data = plant(tmp_path / "data")
    link(data, outside(tmp_path))
    with pytest.raises(BadData, match=r"is a link to .*, outside of the data set") as refused:
        open_dataset(f"folder:{data}", image_size=8).split("train")
    assert refused.value.hint == f"cp -rL {data} COPY; --dataset folder:COPY"


def test_links_within_a_folder_and_to_it_are_followed(tmp_path: Path) -> None:
    data = plant(tmp_path / "data")
    (data / "train" / "cat" / "9.png").symlink_to(data / "test" / "cat" / "0.png")
    (data / "val").symlink_to("test")
    (tmp_path / "link").symlink_to(data)
    found = open_dataset(f"folder:{tmp_path / 'link'}", image_size=8)
    assert len(found.split("train")) == 9 and found.split("val").images([0]).shape == (1, 3, 8, 8)


# torchvision's files


def test_pickles_of_cifar_are_read_only_when_they_are_the_published_ones(tmp_path: Path) -> None:
    cifar10(tmp_path)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(
            b"cposix\nmkdir\n(S'" + str(tmp_path).encode() + b"/made'\ntR."
        )
    with pytest.raises(BadData, match="not found or corrupted"):
        open_dataset("cifar10", root=tmp_path)
    assert not (tmp_path / "made").exists()


def test_the_old_cache_of_mnist_is_read_without_running_code(tmp_path: Path) -> None:
    mnist("MNIST")(tmp_path)
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(Makes(tmp_path / "made"), tmp_path / "MNIST" / "processed" / name)
    with pytest.raises(BadData, match="cannot be read"):
        open_dataset("mnist", root=tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(20, 64, 64, dtype=torch.uint8), r"holds images \(1, 64, 64\)"),
        (torch.zeros(20, 28, 28), "20 images of torch.float32 for 20 labels"),
        (torch.zeros(19, 28, 28, dtype=torch.uint8), "19 images of torch.uint8 for 20 labels"),
        ({"a": 1}, "cannot be read"),
    ],
)
def test_wrong_arrays_of_a_known_data_set_are_refused(images: Any, said: str, tmp_path: Path) -> None:
    mnist("MNIST")(tmp_path)
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((images, torch.arange(20) % 10), tmp_path / "MNIST" / "processed" / name)
    with pytest.raises(BadData, match=said):
        open_dataset("mnist", root=tmp_path).split("train")


def test_a_compressed_file_is_not_unpacked_before_its_hash_is_known(tmp_path: Path) -> None:
    (tmp_path / "usps").mkdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / "usps" / name).write_bytes(b"BZh9 no archive")
    with pytest.raises(BadData, match=r"usps\.bz2 is not the file that was published, MD5 ec16c51db"):
        open_dataset("usps", root=tmp_path)


def escaping(path: Path, kind: str) -> Path:
    """An archive with a member that would be written outside of where it is unpacked."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo({"up": "../made", "absolute": f"{path.parent}/made", "link": "made"}[kind])
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../secret"
        archive.addfile(member, io.BytesIO())
    return path


@pytest.mark.parametrize("kind", ["up", "absolute", "link"])
def test_archives_put_nothing_outside_of_their_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where torchvision asks for everything to be unpacked as it is, as it did before it had a filter."""
    archive = escaping(tmp_path / "a.tar", kind)

    def unpack(root: str, **arguments: Any) -> None:
        Path(root).mkdir(exist_ok=True)
        with tarfile.open(archive) as found:
            found.extractall(root)

    monkeypatch.setattr("torchvision.datasets.SVHN", unpack)
    with nullcontext() if kind == "absolute" else pytest.raises(RunFailed, match=r"Download of 'svhn' to .* failed"):
        download("svhn", tmp_path / "root")  # an absolute name is taken for one below the folder
    assert not (tmp_path / "made").is_symlink() and not (tmp_path / "made").exists()
    assert tarfile.TarFile.extraction_filter is None  # as it was before


def test_a_zip_that_torchvision_unpacks_puts_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    """Of a tar that is up to its version; rtk does not rely on it, see above."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as found:
        found.writestr("../made", b"")
    extract_archive(str(tmp_path / "a.zip"), str(tmp_path / "root"))
    assert not (tmp_path / "made").exists() and (tmp_path / "root" / "made").exists()
