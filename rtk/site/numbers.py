"""Numbers as a page writes them, with a true minus sign."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"


def percent(share: float) -> str:
    """0.8123 as "81.2"."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """A difference of shares without its sign, 0.0123 as "1.2"."""
    return f"{abs(100 * share):.1f}"


def signed(share: float) -> str:
    """A difference of shares, 0.0123 as "+1.2"; what rounds to nothing has no sign."""
    text = points(share)
    return text if float(text) == 0 else f"{'+' if share > 0 else MINUS}{text}"


def number(value: float) -> str:
    """Three significant digits, and no more than a decimal place from 10 on: "0.0123", "4.56", "123"."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def minutes(value: float) -> str:
    """Two decimal places below 10, one below 100: "0.08", "45.2", "1,234"."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def memory(size: int) -> str:
    """Bytes as "512 MiB" or "1.3 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
