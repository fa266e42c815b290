"""What all plots share: fonts, colours, and figures as data URIs. Pyplot, with its global state, is not used."""

import contextlib
import dataclasses
import io
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.figure import Figure

from keras_robust.reports import images

# Blue and vermilion of the palette of Okabe and Ito, which colour-blind readers can tell apart. Both are dark enough on
# white.
CLEAN_COLOUR, ATTACKED_COLOUR, NEUTRAL_COLOUR = "#0072b2", "#c44e00", "#6b6b6b"
OTHERS = (("#00735c", "s"), ("#8a5a9e", "D"), (NEUTRAL_COLOUR, "v"), ("#8c6d00", "P"))
SERIES = ((CLEAN_COLOUR, "o"), (ATTACKED_COLOUR, "^"), *OTHERS)
"""Colours and markers of series other than training curves."""
PIXELS_PER_INCH = 160


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot of the page: its data URI, its text alternative, and its heading if there are several plots."""

    uri: str
    description: str
    heading: str = ""


def style() -> contextlib.AbstractContextManager[None]:
    """Returns the context with Matplotlib's settings, in which a figure must be drawn and written."""
    # With a fixed salt the identifiers inside the SVG, and therefore the page, are the same in every run.
    return mpl.rc_context({"svg.hashsalt": "keras_robust", "font.size": 10})


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty white figure. `width` and `height` are in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def svg_bytes(figure: Figure) -> bytes:
    """Returns the figure as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def svg_uri(figure: Figure) -> str:
    """Returns the figure as the data URI of an SVG."""
    return images.data_uri(svg_bytes(figure), "image/svg+xml")


def png_uri(figure: Figure) -> str:
    """Returns the figure as the data URI of a PNG. It is smaller than an SVG if a plot has thousands of faces."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, metadata={"Software": None})
    return images.data_uri(buffer.getvalue(), "image/png")


def plain(text: str) -> str:
    """Returns text with escaped dollar signs, because Matplotlib reads a dollar sign as the start of a formula."""
    return text.replace("$", r"\$")


def clear_axes(axes: Any) -> None:
    """Draws a light grid, and removes the frame above and to the right."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def percent_axis(axes: Any) -> None:
    """Makes the vertical axis one in percent, from 0 to 102."""
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:.0f} %"))
