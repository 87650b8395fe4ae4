"""minibirds: a drawn miniature of Waterbirds that needs no download.

Bird shape is the class (0 land bird, 1 water bird), scenery the spurious attribute (0 land, 1 water). Water birds
have a long neck, bill and legs and a short tail; every other property of a bird is drawn at random. Hardness says
how much of the class the shape hides. Drawn with numpy and Pillow from one seed; license: MIT, like the code.

Coordinates: y points down. Scenes measure both axes in image sides; birds measure in `unit` (scale times image side)
from the middle of the body, facing right.
"""

import colorsys
from functools import lru_cache
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from joblib import Parallel, delayed
from PIL import Image, ImageDraw
from pydantic import Field

from hsfm.core.progress import track
from hsfm.core.settings import FrozenSettings
from hsfm.data.table import Listing

CLASS_NAMES = ("land bird", "water bird")
ATTRIBUTE_NAMES = ("land", "water")

_OVERSAMPLING = 3  # birds are drawn this much larger and box-reduced, which smooths their edges
_NEAREST = Image.Resampling.NEAREST
_STREAMS = {"train": 0, "val": 1, "test": 2}
Outline = Float[np.ndarray, "_ 2"]
Part = tuple[Outline, np.ndarray]  # of a bird, with its color
Count = Annotated[int, Field(ge=4, multiple_of=2)]
Share = Annotated[float, Field(ge=0, le=1)]


class Sizes(FrozenSettings):
    train: Count
    val: Count
    test: Count


class Agreement(FrozenSettings):
    train: Share
    val: Share
    test: Share


class Settings(FrozenSettings):
    """The built-in dataset, drawn."""

    source: Literal["minibirds"]
    sizes: Sizes = Field(description="Images per split, even numbers, since the classes are balanced.")
    agreement: Agreement = Field(description="Share of each split's images whose scene matches the bird.")
    image_size: int = Field(ge=16, description="Side in pixels.")
    hardness: Share = Field(description="How much of the class the shape hides: 0 nothing, 1 all.")
    seed: int = Field(ge=0, description="One seed gives the same images everywhere.")


def pack(settings: Settings) -> Listing:
    """Draw the dataset, in as many processes as joblib is told; every image has a generator of its own."""
    rows = pd.concat([_rows_of(split, settings) for split in _STREAMS], ignore_index=True)
    pixels = _draw_rows(rows, settings)
    rows.insert(1, "index", np.arange(len(rows)))
    return Listing(rows.drop(columns="number"), CLASS_NAMES, ATTRIBUTE_NAMES, pixels)


def draw_masks(split: str, settings: Settings) -> tuple[list[str], Bool[np.ndarray, "n h w"]]:
    """Ids of the images of one split, and where their birds are: the pixels that are at least half covered by them."""
    rows = _rows_of(split, settings)
    return rows["image_id"].to_list(), _draw_rows(rows, settings, mask=True) >= 128


def _rows_of(split: str, settings: Settings) -> pd.DataFrame:
    """Labels of one split in shuffled order."""
    size, stream = getattr(settings.sizes, split), _STREAMS[split]
    per_class = size // 2
    agreeing = round(per_class * getattr(settings.agreement, split))
    labels = np.concatenate(
        [np.repeat([[y, a]], agreeing if y == a else per_class - agreeing, axis=0) for y in (0, 1) for a in (0, 1)]
    )
    np.random.default_rng([settings.seed, stream]).shuffle(labels)
    number, (y, attribute) = np.arange(size), labels.T
    ids = [f"{split}-{i:05d}" for i in number]
    return pd.DataFrame({"image_id": ids, "number": number, "y": y, "attribute": attribute, "split": split})


def _draw_rows(rows: pd.DataFrame, settings: Settings, *, mask: bool = False) -> np.ndarray:
    numbered = track(rows.to_dict("records"), "drawing minibirds", "image")
    # multiprocessing's workers end with the work; loky's stay, and would hold the terminal of a job that was killed
    draw = Parallel(backend="multiprocessing", batch_size=100)
    return np.stack(draw(delayed(_draw)(row, settings, mask=mask) for row in numbered))


def _draw(row: dict[str, Any], settings: Settings, *, mask: bool) -> np.ndarray:
    """An image, uint8 [h w 3]; or the share of each pixel that its bird covers, uint8 [h w]."""
    rng = np.random.default_rng([settings.seed, _STREAMS[row["split"]], row["number"]])
    scene = (_water if row["attribute"] else _land)(rng, settings.image_size) * rng.uniform(0.8, 1.1)
    pixels = np.clip(np.rint(scene * 255), 0, 255).astype(np.uint8)
    side = settings.image_size * _OVERSAMPLING
    canvas = Image.new("L", (side, side)) if mask else Image.fromarray(pixels).resize((side, side), _NEAREST)
    brush = ImageDraw.Draw(canvas)
    for outline, color in _bird(rng, row["y"], settings.hardness):
        fill = 255 if mask else tuple(round(255 * channel) for channel in color)
        brush.polygon((outline * side).flatten().tolist(), fill=fill)
    return np.asarray(canvas.reduce(_OVERSAMPLING))


# Scenes ---------------------------------------------------------------------------------------------------------------


def _water(rng: np.random.Generator, side: int) -> np.ndarray:
    """Sky over rippled water, [side side 3] in 0..1."""
    y = _axis(side)[:, None]
    horizon = rng.uniform(0.12, 0.42)
    hue = rng.uniform(0.50, 0.60)
    deep = _color(hue, rng.uniform(0.45, 0.8), rng.uniform(0.35, 0.6))
    shallow = _color(hue + rng.uniform(-0.05, 0.03), rng.uniform(0.25, 0.6), rng.uniform(0.6, 0.9))
    noise = _value_noise(rng, side, 10, 2, 3, 0.6)
    warp = _value_noise(rng, side, 2, 2, 3)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    phase, frequency = rng.uniform(0, 2 * np.pi), rng.uniform(25, 45)
    # the square root tightens the ripples towards the horizon
    ripple = 0.5 + 0.5 * np.sin(phase + 3 * frequency * np.sqrt(depth + 0.02) + 2.5 * warp)
    water = _mix(deep, shallow, np.clip(0.6 * noise + 0.4 * ripple - 0.25 * depth + 0.1, 0, 1))
    if rng.random() < 0.8:
        glint = np.array([255, 255, 250]) / 255
        water = _mix(water, glint, 0.6 * np.clip((noise * ripple - 0.52) / 0.12, 0, 1))

    high = _color(rng.uniform(0.52, 0.62), rng.uniform(0.1, 0.45), rng.uniform(0.75, 1))
    low = _color(rng.choice([0.08, 0.55, 0.6]), rng.uniform(0.05, 0.35), rng.uniform(0.85, 1))
    sky = _mix(high, low, np.broadcast_to(np.clip(y / horizon, 0, 1), (side, side)))
    clouds = np.clip(1.2 * (_value_noise(rng, side, 4, 2, 3) - 0.5), 0, 1)
    return np.where((y < horizon)[..., None], _mix(sky, np.ones(3), clouds), water)


def _land(rng: np.random.Generator, side: int) -> np.ndarray:
    """Foliage, trunks and ground, [side side 3] in 0..1."""
    y, x = _axis(side)[:, None], _axis(side)[None, :]
    green = rng.uniform(0.22, 0.36)
    dark = _color(green, rng.uniform(0.5, 0.8), rng.uniform(0.15, 0.32))
    light = _color(green + rng.uniform(-0.06, 0.03), rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75))
    scene = _mix(dark, light, _value_noise(rng, side, 5, 5, 4, 0.75))
    for _ in range(rng.integers(2, 7)):
        bottom, lean, width = rng.uniform(0, 1), rng.uniform(-0.06, 0.06), rng.uniform(0.03, 0.08)
        hue = rng.uniform(0.06, 0.12) if rng.random() < 0.7 else green
        bark = _color(hue, rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.5))
        middle = bottom + lean * (1 - y)
        half_width = width * (0.35 + 0.15 * y)  # 0.35 of the width at the top, half of it at the bottom
        scene = np.where((np.abs(x - middle) < half_width)[..., None], bark, scene)
    scene = scene * (0.75 + 0.5 * _value_noise(rng, side, 6, 6, 3, 0.7))[..., None]

    level = rng.uniform(0.68, 0.95) + 0.04 * (_value_noise(rng, side, 3, 3, 2) - 0.5)
    soil = _color(rng.uniform(0.08, 0.3), rng.uniform(0.35, 0.7), rng.uniform(0.2, 0.45))
    grass = _color(rng.uniform(0.1, 0.3), rng.uniform(0.3, 0.6), rng.uniform(0.45, 0.7))
    ground = _mix(soil, grass, _value_noise(rng, side, 12, 6, 3, 0.7))
    return np.where((y > level)[..., None], ground, scene)


def _axis(side: int) -> np.ndarray:
    """Pixel centers, 0..1."""
    return (np.arange(side) + 0.5) / side


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * share[..., None]


def _value_noise(
    rng: np.random.Generator, side: int, cells_y: int, cells_x: int, octaves: int, weight: float = 0.5
) -> np.ndarray:
    """Sum of smoothly interpolated random grids, each octave twice as fine and `weight` as strong; scaled to 0..1."""
    total = np.zeros((side, side))
    for octave in range(octaves):
        rows, columns = min(cells_y * 2**octave, 64), min(cells_x * 2**octave, 64)
        grid = rng.random((rows + 1, columns + 1))
        # interpolation is separable: a matrix for each axis
        total += weight**octave * (_interpolation(rows, side) @ grid @ _interpolation(columns, side).T)
    return (total - total.min()) / (total.max() - total.min())


@lru_cache
def _interpolation(cells: int, side: int) -> np.ndarray:
    """[side, cells + 1]: weights of the grid's nodes at each pixel, by the smoothstep 3f^2 - 2f^3."""
    position = _axis(side) * cells
    left = np.minimum(position.astype(int), cells - 1)
    fraction = position - left
    share = 3 * fraction**2 - 2 * fraction**3
    weights = np.zeros((side, cells + 1))
    weights[np.arange(side), left], weights[np.arange(side), left + 1] = 1 - share, share
    return weights


# Bird -----------------------------------------------------------------------------------------------------------------


def _bird(rng: np.random.Generator, y: int, hardness: float) -> list[Part]:
    """Outlines in image sides, back to front, each with its color."""
    # each part that shows the class has a latent of its own, from 0 for land-like to 1 for water-like
    neck, bill, leg, tail = y * (1 - hardness) + hardness * rng.random(4)
    traits = _traits(rng)
    legs = [
        outline
        for x in (-0.03, 0.05)
        for outline in _leg(x + rng.uniform(-0.01, 0.01), 0.7 * traits.body_y, traits.body_y + (0.10 + 0.14 * leg), leg)
    ]
    upper = [
        *_body(0.20 - 0.12 * tail, rng.uniform(-0.1, 0.25), traits),
        *_neck_and_head(0.05 + 0.17 * neck, bill, traits),
    ]
    upper = [(_turn(outline, traits.tilt), color) for outline, color in upper]
    parts = [*((outline, traits.leg_color) for outline in legs), *upper]
    return [(traits.center + traits.unit * traits.mirror * outline, color) for outline, color in parts]


def _traits(rng: np.random.Generator) -> SimpleNamespace:
    """Everything about a bird that says nothing of its class, drawn in the order of the fields."""
    return SimpleNamespace(
        unit=rng.uniform(0.72, 0.95),
        center=np.array([rng.uniform(0.42, 0.58), rng.uniform(0.46, 0.60)]),
        mirror=np.array([rng.choice([-1, 1]), 1]),
        tilt=rng.uniform(-0.25, 0.1),
        body_x=(body_x := 0.26 * rng.uniform(0.9, 1.1)),  # half width
        body_y=body_x * rng.uniform(0.48, 0.62),  # half height
        head=0.085 * rng.uniform(0.9, 1.12),
        lift=rng.uniform(-0.1, 0.35),  # of the tail
        lean=rng.uniform(0.15, 0.75),  # of the neck
        bill_angle=rng.uniform(-0.12, 0.25),
        hue=(hue := rng.uniform(0, 1)),
        body_color=(body := _color(hue, rng.uniform(0.05, 0.75), rng.uniform(0.3, 0.95))),
        wing_color=_color(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.8)),
        belly_color=body + (1 - body) * rng.uniform(0.1, 0.7),
        bill_color=_color(rng.uniform(0.04, 0.15), rng.uniform(0.5, 1), rng.uniform(0.5, 1)),
        leg_color=_color(rng.uniform(0.02, 0.14), rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.8)),
    )


def _body(tail: float, wing_angle: float, traits: SimpleNamespace) -> list[Part]:
    """Tail, of this length, trunk, belly and wing."""
    body_x, body_y = traits.body_x, traits.body_y
    start, end, rise = -0.75 * body_x, -body_x - tail, -1.5 * traits.lift * tail
    wing = _turn(_ellipse(0.0, 0.0, 0.62 * body_x, 0.5 * body_y), wing_angle)
    return [
        (np.array([[start, -0.05], [start, 0.05], [end, rise + 0.045], [end, rise - 0.02]]), traits.wing_color),
        (_ellipse(0.0, 0.0, body_x, body_y), traits.body_color),
        (_ellipse(0.03, 0.35 * body_y, 0.75 * body_x, 0.6 * body_y), traits.belly_color),
        (wing + np.array([-0.2 * body_x, -0.1 * body_y]), traits.wing_color),
    ]


def _neck_and_head(neck: float, bill: float, traits: SimpleNamespace) -> list[Part]:
    """Neck, head, bill and eye. neck: its length; bill: its latent, from short and wide to long and narrow."""
    head, width, length = traits.head, 0.034 - 0.016 * bill, 0.07 + 0.10 * bill
    neck_x, neck_y = 0.72 * traits.body_x, -0.35 * traits.body_y
    head_x, head_y = neck_x + neck * traits.lean + 0.03, neck_y - neck - 0.04
    curve = [[neck_x - 0.05, neck_y + 0.06], [neck_x + 0.8 * neck, neck_y - 0.1 * neck], [head_x, head_y]]
    outline = np.array([[0, -width], [0, width], [length, width / 4], [length, -width / 4]])
    outline = _turn(outline, traits.bill_angle) + np.array([head_x + 0.8 * head, head_y + 0.01])
    return [
        (_ribbon(np.array(curve), 0.075, 0.045), traits.body_color),
        (_ellipse(head_x, head_y, head, 0.88 * head), traits.body_color),
        (outline, traits.bill_color),
        (_ellipse(head_x + 0.25 * head, head_y - 0.015, 0.016, 0.016), np.full(3, 0.05)),
    ]


def _leg(x: float, top: float, bottom: float, latent: float) -> list[np.ndarray]:
    foot = 0.05 + 0.03 * latent
    return [
        np.array([[x - 0.011, top], [x + 0.011, top], [x + 0.011, bottom], [x - 0.011, bottom]]),
        np.array([[x - 0.2 * foot, bottom + 0.012], [x, bottom - 0.02], [x + foot, bottom + 0.012]]),
    ]


def _ellipse(x: float, y: float, half_width: float, half_height: float, points: int = 40) -> np.ndarray:
    angle = np.arange(points) * (2 * np.pi / points)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def _turn(outline: np.ndarray, angle: float) -> np.ndarray:
    """Rotate about the origin; a positive angle turns x towards y, so downwards."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return outline @ np.array([[cosine, sine], [-sine, cosine]])


def _ribbon(control: np.ndarray, start: float, end: float, points: int = 12) -> np.ndarray:
    """Outline of a band along a quadratic Bezier curve [3 2], of half width `start` narrowing to `end`."""
    t = np.linspace(0, 1, points)[:, None]
    curve = (1 - t) ** 2 * control[0] + 2 * t * (1 - t) * control[1] + t**2 * control[2]
    along = 2 * (1 - t) * (control[1] - control[0]) + 2 * t * (control[2] - control[1])
    across = along[:, ::-1] * [-1, 1] / np.linalg.norm(along, axis=1, keepdims=True)
    half_width = start + (end - start) * t
    return np.concatenate([curve + half_width * across, (curve - half_width * across)[::-1]])
