"""Every file that once got past a reader is refused, or read, and nothing else; see tests/damaged/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtk.errors import RtkError

from .readers import READERS

DAMAGED = Path(__file__).parent / "damaged"
BY_FOLDER = {re.sub("[^a-z.]+", "-", name.lower()).strip("-"): name for name in READERS}
FOUND = sorted(path for folder in DAMAGED.iterdir() if folder.is_dir() for path in folder.iterdir())
TEXT = {".json", ".toml"}


def content(path: Path) -> object:
    if path.is_dir():
        return tuple((path / f"{name}.npy").read_bytes() for name in ("fog", "labels"))
    return path.read_text("utf-8", "surrogatepass") if path.suffix in TEXT else path.read_bytes()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: str(path.relative_to(DAMAGED)))
def test_a_damaged_file_is_refused_in_one_line(path: Path) -> None:
    reader = READERS[BY_FOLDER[path.parent.name]]
    try:
        reader.read(content(path))
    except RtkError as problem:
        assert problem.message and "\n" not in problem.message


def test_the_corpus_is_not_empty_and_belongs_to_readers() -> None:
    assert len(FOUND) >= 30 and {path.parent.name for path in FOUND} <= set(BY_FOLDER)
