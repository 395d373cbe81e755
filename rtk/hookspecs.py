"""The pluggy hooks that a plugin may implement. Entry-point group: `rtk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .strategy import Strategy

GROUP = "rtk"
"""The entry-point group of the built-ins and of every third party."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def rtk_strategies() -> type[Strategy] | list[type[Strategy]]:
    """Return the strategy class, or classes, that this plugin brings."""
    raise NotImplementedError
