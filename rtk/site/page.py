"""The parts of a page put together: templates that escape what they are given, scripts, and what is packed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ..errors import RequestError


class Templates:
    """The HTML templates of the page.

    Raises:
        RequestError: the extra `site` is not installed.
    """

    def __init__(self) -> None:
        jinja = _need("jinja2")
        self.environment = jinja.Environment(
            loader=jinja.FunctionLoader(_text),
            autoescape=True,
            undefined=jinja.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(self, template: str, **content: Any) -> Any:
        """A template filled in, safe to be put into another one."""
        return _need("markupsafe").Markup(self.environment.get_template(template).render(content))


def whole(templates: Templates, packs: Mapping[str, str], **content: Any) -> str:
    """The page.

    Its policy allows scripts by their hashes, pictures as data, and nothing else: nothing that a result holds can run,
    and nothing is loaded from anywhere.

    Args:
        packs: texts that the page carries and unpacks when they are asked for, by name.
    """
    scripts = {"plotly": _plotly(), "page": _text("page.js")}
    trusted = _need("markupsafe").Markup
    return str(
        templates.render(
            "page.html",
            style=trusted(_text("style.css")),
            script=trusted(scripts["page"]),
            hashes=trusted(" ".join(f"'sha256-{_hash(script)}'" for script in scripts.values())),
            packs=[(name, packed(text)) for name, text in {"plotly": scripts["plotly"], **packs}.items()],
            **content,
        )
    )


def packed(text: str) -> str:
    """Base64 of gzip; the same text gives the same characters."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _text(name: str) -> str:
    return (resources.files(__package__) / "template" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Plotly's script, as the package carries it for pages without a network."""
    return (resources.files(_need("plotly")) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        said = f"The page needs Jinja2 and Plotly, and {module} cannot be imported ({problem})."
        raise RequestError(said, "pip install 'rtk[site]'") from None
