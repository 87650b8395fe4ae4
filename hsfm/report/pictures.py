"""Figures of images: examples, inferred groups, masks, generated images, neighbors of edits, decoded edits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from hsfm.report.figures import WIDTH
from hsfm.report.style import MARKED, of_method, styled

MOST = 24  # rows of a figure; one of hundreds is taller than viewers open
DECODED_SIDE = 160  # pixels, of a decoded picture
KEPT, DROPPED = {"color": "#009E73"}, {"color": MARKED, "linestyle": (0, (2, 1))}  # frames of generated images


def thumbnail(picture: np.ndarray, side: int = 96) -> np.ndarray:
    """A picture or a mask no larger than a figure can show, in its proportions. side: pixels at most."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def _grid(
    rows: int, widths: Sequence[float | int], height: float, title: str, heads: Sequence[str] = ()
) -> tuple[Figure, np.ndarray]:
    """Bare axes [rows, columns] on a page's width. widths, heads: of columns; height: of a row, in inches."""
    figure = Figure(figsize=(WIDTH, height * rows + 0.6))
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    for axis, head in zip(axes[0], heads, strict=False):
        axis.set_title(head, fontsize=8)
    figure.suptitle(title)
    return figure, axes


def _some(rows: Sequence[Any], title: str, most: int = MOST) -> tuple[list[Any], str]:
    """At most so many rows, evenly spaced, and the title, which says so."""
    if len(rows) <= most:
        return list(rows), title
    places = np.linspace(0, len(rows) - 1, most).round().astype(int)
    return [rows[place] for place in places], f"{title} ({most} of {len(rows):,})"


def _name(axis: Axes, name: str) -> None:
    axis.set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=7)


def _show(axis: Axes, picture: np.ndarray, text: str = "", stressed: bool = False, side: int = 96) -> None:
    """An image with a text below it. stressed: in orange and, for print without colors, bold."""
    axis.imshow(thumbnail(picture, side))
    axis.set_xlabel(text, fontsize=6, **({"color": MARKED, "fontweight": "bold"} if stressed else {"color": "black"}))


@styled()
def draw_examples(images: Mapping[str, Sequence[np.ndarray]], title: str) -> Figure:
    """A row of images, each `uint8 [h w 3]`, per group name, of some groups where there are more than MOST."""
    shown, title = _some(list(images.items()), title)
    columns = max(len(row) for _, row in shown)
    figure, axes = _grid(len(shown), [1] * columns, (WIDTH - 1.4) / columns, title)
    for row, (name, pictures) in zip(axes, shown, strict=True):
        _name(row[0], name)
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(thumbnail(picture))
    return figure


@styled()
def draw_found_images(groups: Mapping[str, Sequence[tuple[np.ndarray, str, bool]]], title: str) -> Figure:
    """A row of images per inferred group: each `uint8 [h w 3]` with a text and whether that is stressed."""
    rows, title = _some(list(groups.items()), title)
    columns = max(len(pictures) for _, pictures in rows)
    figure, axes = _grid(len(rows), [1] * columns, (WIDTH - 1.4) / columns + 0.12, title)
    for row, (name, pictures) in zip(axes, rows, strict=True):
        _name(row[0], name)
        for axis, picture in zip(row, pictures, strict=False):
            _show(axis, *picture)
    return figure


@styled()
def draw_masks(pictures: Sequence[Mapping[str, Any]], cuts: Sequence[float], title: str) -> Figure:
    """A row per image: itself, its heat map, what the mask keeps, its loss at each cut, and compositions.

    pictures: name; image, uint8 [h w 3]; heat [h w] from 0 to 1; mask, bool [h w]; loss, one per cut, with cut, the
    chosen one, and knee, whether the curve had one (None where the mask was not cut out of a heat map); composed, uint8
    images of one number in all rows.
    """
    columns = ["image", "heat map", "mask keeps", "loss at each cut\n(hollow: no knee)"]
    columns += ["composed"] * len(pictures[0]["composed"])
    figure, axes = _grid(len(pictures), [1] * len(columns), 0.86, title, columns)
    for row, picture in zip(axes, pictures, strict=True):
        _name(row[0], picture["name"])
        image, heat, mask = (thumbnail(picture[name]) for name in ("image", "heat", "mask"))
        row[0].imshow(image)
        row[1].imshow(image)
        row[1].imshow(heat, cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        # gray where it keeps nothing, which is no color of a photograph's own
        row[2].imshow(np.where(mask[..., None], image, 200).astype(np.uint8))
        _loss_curve(row[3], picture, cuts)
        for axis, composed in zip(row[4:], picture["composed"], strict=True):
            _show(axis, composed)
    return figure


def _loss_curve(axis: Axes, picture: Mapping[str, Any], cuts: Sequence[float]) -> None:
    loss, color = picture["loss"], of_method("dac").color
    if loss is None:
        axis.text(0.5, 0.5, "a mask that\nthe dataset knows", ha="center", va="center", transform=axis.transAxes)
        return
    axis.spines[["left", "bottom"]].set_visible(True)
    axis.plot(cuts, loss, ".-", color=color, linewidth=1, markersize=3)
    chosen = int(np.argmin(np.abs(np.asarray(cuts) - picture["cut"])))
    fill = "full" if picture["knee"] else "none"
    axis.plot(cuts[chosen], loss[chosen], "o", color=color, markersize=5, fillstyle=fill)
    axis.set_xticks(sorted({cuts[0], cuts[chosen], cuts[-1]}))
    axis.set_yticks([np.min(loss), np.max(loss)], [f"{value:.2g}" for value in (np.min(loss), np.max(loss))])
    axis.tick_params(labelsize=6, length=2, pad=1)


@styled()
def draw_generated(pictures: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A contact sheet: source, mask and generated image of each, framed in green if kept, else dashed in orange.

    pictures: name; source, uint8 [h w 3]; mask, bool [h w], and generated, uint8 [h w 3], both None where nothing was
    generated; kept; caption.
    """
    pictures, title = _some(pictures, title, 2 * MOST)
    rows = -(-len(pictures) // 2)
    figure, axes = _grid(rows, [1, 1, 1, 1.35] * 2, 0.66, title, ("source", "mask", "generated", "") * 2)
    for number, picture in enumerate(pictures):
        column, row = divmod(number, rows)  # down the first column, then the second
        source, mask, generated, text = axes[row, 4 * column : 4 * column + 4]
        _show(source, picture["source"])
        _name(source, picture["name"])
        text.text(0, 0.5, picture["caption"], va="center", fontsize=6, transform=text.transAxes)
        if picture["generated"] is not None:
            mask.imshow(thumbnail(picture["mask"]), cmap="gray", vmin=0, vmax=1)
            _show(generated, picture["generated"])
            generated.spines[:].set(visible=True, linewidth=2, **(KEPT if picture["kept"] else DROPPED))
    return figure


@styled()
def draw_neighbors(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A row per support image: itself, its nearest training images before and after the edit.

    rows: name; caption; image, uint8 [h w 3]; before and after, equally many such images, each with a text and whether
    its attribute is another one.
    """
    k = len(rows[0]["before"])
    # a narrow column of nothing between the three parts
    figure, axes = _grid(len(rows), [1, 0.12, *[1] * k, 0.12, *[1] * k], 0.86, title)
    axes[0, 0].set_title("support")
    for line, row in zip(axes, rows, strict=True):
        _show(line[0], row["image"], row["caption"])
        _name(line[0], row["name"])
        for part, place in (("before", 2), ("after", k + 3)):
            axes[0, place].set_title(f"nearest {part}", loc="left")
            for axis, neighbor in zip(line[place : place + k], row[part], strict=True):
                _show(axis, *neighbor)
    return figure


@styled()
def draw_decoded(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Original image, and pictures of its embedding before and after the edit, two rows of them side by side.

    rows: name; original, uint8 [h w 3]; before and after, such pictures with a text; moved, whether the texts tell
    different attributes.
    """
    rows, title = _some(rows, title, 2 * MOST)
    lines = -(-len(rows) // 2)
    heads = ("original", "before", "after", "", "original", "before", "after")
    figure, axes = _grid(lines, [1, 1, 1, 0.35, 1, 1, 1], 1.2, title, heads)
    for number, row in enumerate(rows):
        column, line = divmod(number, lines)
        original, before, after = axes[line, 4 * column : 4 * column + 3]
        _show(original, row["original"], side=DECODED_SIDE)
        _name(original, row["name"])
        _show(before, *row["before"], side=DECODED_SIDE)
        _show(after, *row["after"], row["moved"], side=DECODED_SIDE)
    return figure
