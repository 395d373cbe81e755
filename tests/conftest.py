"""Fixtures: real small networks and real images; nothing here is mocked."""

from __future__ import annotations

import signal

import pytest
import torch

from rtk.backbones import Backbone, open_backbone
from rtk.data import open_dataset

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script; what is started inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # two test processes on two cores must not wait for each other's threads


@pytest.fixture(scope="session")
def source() -> Backbone:
    """The embedded adversarially trained network."""
    return open_backbone("rtk:fashion-resnet")


@pytest.fixture(scope="session")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """200 validation images of `fashion` with their labels."""
    split = open_dataset("fashion").split("val")
    return split.images(torch.arange(200)), split.labels[:200]
