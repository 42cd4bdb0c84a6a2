"""SVG elements as text, and the frame of a plot: scales, axes, labels. Colours are the page's CSS's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


def element(name: str, *children: str, **attributes: object) -> str:
    """``<name …>children</name>``. Attributes are escaped, children are markup already; ``_`` is spelled ``-``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def text(content: str, x: float, y: float, class_: str = "", anchor: str = "start") -> str:
    """A line of text; ``anchor`` is start, middle or end."""
    return element("text", escape(content), x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """From one point to another."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, radius: float, class_: str, tip: str) -> str:
    """A circle that says ``tip`` under the pointer."""
    return element("circle", element("title", escape(tip)), cx=x, cy=y, r=radius, class_=class_)


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def power_of_ten(value: float) -> str:
    """1000.0 → 10³."""
    return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPTS)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(1, most) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Frame:
    """A plot's area in pixels and the ranges it shows. ``log`` puts y on a logarithmic scale."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int = 44
    right: int = 16
    top: int = 24
    bottom: int = 34
    log: bool = False

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        scale: Callable[[float], float] = math.log10 if self.log else float
        low, high = map(scale, self.y_range)
        share = (scale(min(max(value, self.y_range[0]), self.y_range[1])) - low) / ((high - low) or 1)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def y_axis(self, marks: Sequence[float], unit: str, show: Callable[[float], str] = "{:g}".format) -> str:
        """A grid line and a number at each mark, the unit above them."""
        right = self.width - self.right
        lines = [line(self.left, self.y(mark), right, self.y(mark), "grid") for mark in marks]
        numbers = [text(show(mark), self.left - 6, self.y(mark) + 4, "axis", "end") for mark in marks]
        return "".join([*lines, *numbers, text(unit, 0, 10, "axis")])

    def x_axis(self, marks: Sequence[float], label: str, show: Callable[[float], str] = "{:g}".format) -> str:
        """Numbers below the plot, and what they are."""
        floor = self.height - self.bottom
        numbers = [text(show(mark), self.x(mark), floor + 14, "axis", "middle") for mark in marks]
        middle = (self.left + self.width - self.right) / 2
        base = line(self.left, floor, self.width - self.right, floor, "base")
        return "".join([base, *numbers, text(label, middle, self.height - 4, "axis", "middle")])

    def drawing(self, *parts: str, label: str) -> str:
        """The finished picture; ``label`` is read out where it cannot be seen."""
        box = f"0 0 {self.width} {self.height}"
        return element("svg", *parts, viewBox=box, role="img", aria_label=label)


def callout(frame: Frame, content: str, x: float, y: float, *, below: bool) -> str:
    """A label in the free band at the bottom of the frame, or at its top, and a line from it to its point."""
    end = frame.height - frame.bottom - 8 if below else frame.top + 10
    half = 3.2 * len(content)  # of about 6.4 pixels a character
    left, right = frame.left + half + 4, frame.width - half - 4
    middle = min(max(x, left), right) if left < right else frame.width / 2
    leader = line(x, y + (7 if below else -7), x, end + (-12 if below else 4), "leader")
    return leader + text(content, middle, end, "callout", "middle")
