"""Known vulnerabilities of what rtk depends on, and a look for new ones.

The list is that of SECURITY.md, where each stands with what it means for rtk. Looking for others needs a network and
the program `pip-audit`, which cannot be installed beside rtk: it needs newer requests than torchattacks allows.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

PROGRAM = "pip-audit"
INSTALL = f"pipx install {PROGRAM}"
SECONDS = 120


@dataclass(frozen=True)
class Advisory:
    """One known vulnerability.

    Attributes:
        package: on PyPI.
        affected: versions, as pip writes them.
        ids: all names that it has; any of them stands for it.
        forced: whether the pins of setup.cfg keep the versions that mend it away.
    """

    package: str
    affected: str
    ids: tuple[str, ...]
    forced: bool = True


ADVISORIES = (
    Advisory("requests", "<2.31.0", ("CVE-2023-32681", "PYSEC-2023-74", "GHSA-j8r2-6x86-q33q")),
    Advisory("requests", "<2.32.0", ("CVE-2024-35195", "GHSA-9wx4-h78v-vm56")),
    Advisory("requests", "<2.32.4", ("CVE-2024-47081", "GHSA-9hjg-9r4m-mvj7")),
    Advisory("requests", "<2.33.0", ("CVE-2026-25645", "PYSEC-2026-2275", "GHSA-gc5v-m9x4-r6x2")),
    Advisory("urllib3", "<2.5.0", ("CVE-2025-50181", "GHSA-pq67-6m6q-mj2v")),
    Advisory("urllib3", ">=1.24,<2.6.0", ("CVE-2025-66418", "GHSA-gm62-xv2j-4w53")),
    Advisory("urllib3", ">=1.0,<2.6.0", ("CVE-2025-66471", "GHSA-2xpw-w6gg-jr37")),
    Advisory("urllib3", ">=1.22,<2.6.3", ("CVE-2026-21441", "GHSA-38jv-5279-wg99")),
    Advisory("urllib3", ">=1.23,<2.7.0", ("CVE-2026-44431", "PYSEC-2026-141", "GHSA-qccp-gfcp-xxvc")),
    Advisory("urllib3", ">=1.26.0,<2.8.0", ("CVE-2026-97687", "GHSA-8988-9cw3-xx77")),
    Advisory("urllib3", ">=1.10.3,<2.8.0", ("CVE-2026-97689", "GHSA-vxq7-64xx-v4gw")),
    Advisory("idna", "<3.7", ("CVE-2024-3651", "PYSEC-2024-60")),
    Advisory("idna", "<3.15", ("CVE-2026-45409", "GHSA-65pc-fj4g-8rjx")),
    Advisory("torch", "<2.10.0", ("CVE-2026-24747", "GHSA-63cw-57p8-fm3p"), forced=False),
)


def here() -> Iterator[Advisory]:
    """Those of the list that what is installed has."""
    from packaging.specifiers import SpecifierSet

    for advisory in ADVISORIES:
        try:
            version = metadata.version(advisory.package)
        except metadata.PackageNotFoundError:
            continue
        if SpecifierSet(advisory.affected).contains(version.partition("+")[0], prereleases=True):
            yield advisory


def unlisted(report: Mapping[str, Any]) -> list[str]:
    """What a report of pip-audit names and the list does not, as "PACKAGE VERSION: ID"."""
    known = {name for advisory in ADVISORIES for name in advisory.ids}
    return [
        f"{found['name']} {found['version']}: {one['id']}"
        for found in report["dependencies"]
        for one in found.get("vulns", [])
        if known.isdisjoint((one["id"], *one.get("aliases", [])))
    ]


def look_up() -> Mapping[str, Any]:
    """pip-audit's report on this installation.

    Raises:
        LookupError: it is not there, found no network, or could look nothing up; the message says which.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise LookupError(f"{PROGRAM} is not installed ({INSTALL})")
    asked = ["--path", sysconfig.get_path("purelib"), "--format", "json", "--aliases", "on"]
    asked += ["--desc", "off", "--progress-spinner", "off", "--skip-editable", "--timeout", "10"]
    try:
        ended = subprocess.run([program, *asked], capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        report: Mapping[str, Any] = json.loads(ended.stdout)
        # without the service it finds no package, and says that it found no vulnerability
        answered = any("vulns" in found for found in report["dependencies"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        raise LookupError("the database cannot be reached") from None
    if not answered:
        raise LookupError("the database knows none of the packages")
    return report
