"""Verdicts that runs have in common: a network that many runs start from is judged once.

Who starts the runs, as `rtk bench` does, says where they share with an environment variable. A run copies what it finds
there, so that its own folder is as complete as if it had judged everything itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .. import files
from ..errors import BadData

PLACE = "RTK_SHARED_VERDICTS"
"""Environment variable: the folder in which runs share."""


def shared_with_others(environment: dict[str, Any]) -> Path | None:
    """Where runs with the same versions on the same kind of device share verdicts; None where nobody says so.

    Args:
        environment: what `rtk.environment.describe` says of this run's.
    """
    folder = os.environ.get(PLACE)
    return Path(folder) / files.digest(environment)[:12] if folder else None


def copy(found: Path, to: Path) -> bool:
    """Copy a chunk's verdicts from where they are shared; whether there were some that could be read."""
    try:
        verdicts = files.read_json(found)
    except BadData:
        return False
    files.write_json(to, verdicts)
    return True
