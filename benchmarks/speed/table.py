"""Write the figures of `results/*.json` into README.md, between its two markers.

python benchmarks/speed/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- figures: table.py -->\n", "<!-- end -->\n"


def main() -> None:
    """Read, write."""
    found = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    races = [facts for facts in found if "rows" in facts]
    parts = [_races(races), *(_ways(facts) for facts in found if "ways" in facts)]
    parts += [_startup(facts) for facts in found if "startup" in facts]
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + "\n" + "\n".join(parts) + "\n" + END + after)


def _races(races: list[dict[str, Any]]) -> str:
    lines = [
        "| work | peer | ratio (rounds) | at least | answers | peak memory, MiB | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for facts in races:
        for row in facts["rows"]:
            rounds = f"{min(row['rounds']):.2f} to {max(row['rounds']):.2f}"
            memory = f"{next(iter(facts['peak_mib'].values()))} / {facts['peak_mib'][row['peer']]}"
            reached = f"; {facts['of_the_limit']}" if facts["of_the_limit"] and row is facts["rows"][0] else ""
            lines.append(
                f"| {facts['work']} | {row['peer']} | **{row['ratio']:.2f}x** ({rounds}) | {facts['least']:g}x |"
                f" {row['same']}{reached} | {memory} | `{facts['command']}` |"
            )
    return "\n".join([*lines, "", _machines(races)]) + "\n"


def _machines(races: list[dict[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for facts in races:
        found.setdefault(_where(facts["machine"]), set()).add(f"`{Path(facts['command'].split()[1]).name}`")
    lines = [f"* {', '.join(sorted(scripts))}: {machine}" for machine, scripts in sorted(found.items())]
    return "\n".join(["Machines:", "", *lines])


def _where(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['device']}, {machine['cores']} cores, Python {machine['python']}, {versions}, {machine['date']}"


def _ways(facts: dict[str, Any]) -> str:
    lines = [
        f"What each way pays ({facts['work'].removeprefix('ways, ')}, threads {facts['machine']['threads']}):",
        "",
        "| way | forward, images/s | with gradient, images/s | seconds to begin |",
        "|---|---|---|---|",
    ]
    for row in facts["ways"]:
        forward = f"{row['forward']} ({row['forward_ratio']:.2f}x)"
        gradient = f"{row['gradient']} ({row['gradient_ratio']:.2f}x)"
        lines.append(f"| {row['way']} | {forward} | {gradient} | {max(row['begin'], 0):.0f} |")
    return "\n".join(lines) + "\n"


def _startup(facts: dict[str, Any]) -> str:
    lines = [f"| command | seconds ({facts['limit']} at most) | imports torch |", "|---|---|---|"]
    for row in facts["startup"]:
        lines.append(f"| `{row['command']}` | {row['seconds']:.2f} | {'yes' if row['torch'] else 'no'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
