"""Images that somebody else made: none starts a program, and none takes more memory than an image needs."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from rtk.data import open_dataset
from rtk.data.files import LARGEST, FilePixels
from rtk.errors import BadData

from .test_data_vision import picture
from .test_hostile_data import little_memory


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """A PNG file that says to be so large, with a few pixels in it."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def decode(path: Path) -> torch.Tensor:
    return FilePixels([path], 224, base=path.parent).read(torch.arange(1))


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(65_000, 65_000), (10_000, 10_000), (1 << 30, 1), (9_460, 9_460)])
def test_an_image_of_gigabytes_is_not_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(*size))
    with little_memory(), pytest.raises(BadData, match=r"a\.png.*(too many pixels|decompression bomb)"):
        decode(tmp_path / "a.png")


def test_an_image_that_becomes_gigabytes_once_it_is_scaled_is_not(tmp_path: Path) -> None:
    Image.new("L", (1, 20_000)).save(tmp_path / "a.png")  # 224 pixels wide it would be 4,480,000 high
    with pytest.raises(BadData, match=rf"1x20000, scaled to 224x4480000, has too many pixels \(allowed: {LARGEST:,}\)"):
        decode(tmp_path / "a.png")
    assert FilePixels([tmp_path / "a.png"], 224, "stretch", base=tmp_path).read(torch.arange(1)).shape[2:] == (224, 224)


def test_a_long_text_in_an_image_is_not_unpacked(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))
    whole = png(2, 2)
    (tmp_path / "a.png").write_bytes(whole[:33] + text + whole[33:])
    with little_memory(), pytest.raises(BadData, match="cannot be read"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_no_program_is_started_for_an_image(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes PostScript with Ghostscript, whatever the file is called."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\nmkdir {tmp_path}/made\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(BadData, match="cannot be read"):
        decode(path)
    assert not (tmp_path / "made").exists()
    with pytest.raises(subprocess.CalledProcessError), Image.open(path) as image:  # Pillow, without being told
        image.load()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_a_truncated_image_is_refused(format: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, format)
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    assert decode(path).shape == (1, 3, 224, 224)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(BadData, match=r"a\.png cannot be read"):
        decode(path)


def test_images_of_known_data_sets_are_under_the_same_limits(tmp_path: Path) -> None:
    for name in ("Forest", *(f"class{number}" for number in range(9))):
        for number in range(5):
            picture(tmp_path / "eurosat" / "2750" / name / f"{number}.jpg")
    (tmp_path / "eurosat" / "2750" / "Forest" / "0.jpg").write_bytes(png(10_000, 10_000))
    data = open_dataset("eurosat", root=tmp_path, val_fraction=0.25)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BadData, match="too many pixels"):
        for split in ("train", "val", "test"):
            data.split(split).images(slice(None))  # type: ignore[arg-type]
