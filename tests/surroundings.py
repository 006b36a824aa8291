"""Pictures of a mark in forty-odd kinds of surroundings, as people photograph, scan and cut out digits.

Each kind is a function of the mark's ink and a random generator, which returns a picture. Ink of zeros gives the empty
surface. Sizes follow the mark's height. Nothing here is the package's.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from marks import Ink, Random

Floats = NDArray[np.float64]
Colour = Floats
Kind = Callable[[Ink, Random], Image.Image]

HEIGHTS = (24, 60, 200)
"""The heights of a mark, pixels."""
_FINE = 3


def _grey(random: Random, low: float, high: float, tint: float = 8) -> Colour:
    return np.clip(random.uniform(low, high) + random.normal(0, tint, 3), 0, 255)


def _light(random: Random) -> Colour:
    return _grey(random, 190, 250)


def _dark(random: Random) -> Colour:
    return _grey(random, 5, 75)


def _sheet(ink: Ink, random: Random, least: float = 1.4, most: float = 2.6) -> Ink:
    """Put a mark anywhere on a larger sheet, with a margin of a seventh of its height."""
    longer = max(ink.shape)
    margin = max(2, longer // 7)
    rows, columns = (max(int(longer * random.uniform(least, most)), side + 2 * margin) for side in ink.shape)
    return _placed(ink, rows, columns, margin, random)


def _placed(ink: Ink, rows: int, columns: int, margin: int, random: Random) -> Ink:
    top = int(random.integers(margin, max(rows - ink.shape[0] - margin, margin) + 1))
    left = int(random.integers(margin, max(columns - ink.shape[1] - margin, margin) + 1))
    sheet = np.zeros((rows, columns))
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink[: rows - top, : columns - left]
    return sheet


def _painted(paper: Colour | Floats, cover: Ink, pen: Colour) -> Floats:
    """Paint a colour over paper, a colour or a picture, where it covers."""
    return np.asarray((1 - cover[..., None]) * paper + cover[..., None] * pen)


def _shape(rows: int, columns: int, paint: Callable[[ImageDraw.ImageDraw], None]) -> Ink:
    """Return the share of each pixel that is painted, by coordinates `_FINE` times as fine."""
    image = Image.new("L", (columns * _FINE, rows * _FINE))
    paint(ImageDraw.Draw(image))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BOX), np.float64) / 255


def _polygon(rows: int, columns: int, points: Floats) -> Ink:
    fine = [(float(x) * _FINE, float(y) * _FINE) for x, y in points]
    return _shape(rows, columns, lambda draw: draw.polygon(fine, 255))


def _lines(rows: int, columns: int, lines: list[tuple[float, float, float, float]], width: float) -> Ink:
    def paint(draw: ImageDraw.ImageDraw) -> None:
        for line in lines:
            draw.line([part * _FINE for part in line], 255, max(1, round(width * _FINE)))

    return _shape(rows, columns, paint)


def _finished(picture: Floats, random: Random, noise: float = 3) -> Image.Image:
    """Add the camera's noise, and now and then blur, a loss of colour and JPEG."""
    values = np.clip(picture + random.normal(0, noise * random.uniform(0, 1), picture.shape), 0, 255)
    image = Image.fromarray(values.astype(np.uint8))
    if random.integers(4) == 0:
        image = image.filter(ImageFilter.GaussianBlur(min(picture.shape[:2]) / 200 * random.uniform(0.3, 1)))
    if random.integers(3) == 0:
        image = image.convert("L")
    if random.integers(3) == 0:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(random.integers(60, 95)))
        image = Image.open(stream)
        image.load()
    return image


def _plain_page(ink: Ink, random: Random) -> Floats:
    return _painted(_light(random), _sheet(ink, random), _dark(random))


def plain(ink: Ink, random: Random) -> Image.Image:
    return _finished(_plain_page(ink, random), random)


def sloping_light(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    y, x = np.mgrid[: page.shape[0], : page.shape[1]]
    along = np.cos(angle := random.uniform(0, 2 * np.pi)) * x + np.sin(angle) * y
    light = 1 - random.uniform(0.2, 0.6) * (along - along.min()) / np.ptp(along)
    return _finished(page * light[..., None], random)


def vignette(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    y, x = (np.linspace(-1, 1, side) for side in page.shape[:2])
    light = 1 - random.uniform(0.2, 0.4) * (y[:, None] ** 2 + x[None] ** 2)
    return _finished(page * light[..., None], random)


def light_on_dark(ink: Ink, random: Random) -> Image.Image:
    return _finished(_painted(_dark(random), _sheet(ink, random), _light(random)), random)


def coloured(ink: Ink, random: Random) -> Image.Image:
    paper = random.uniform(60, 255, 3)
    pen = random.uniform(0, 200, 3)
    while abs((paper - pen) @ [0.3, 0.6, 0.1]) < 50:
        pen = random.uniform(0, 255, 3)
    return _finished(_painted(paper, _sheet(ink, random), pen), random, 2)


def faint_pencil(ink: Ink, random: Random) -> Image.Image:
    paper = _light(random)
    return _finished(_painted(paper, _sheet(ink, random), paper * random.uniform(0.6, 0.8)), random, 2)


def _beside(sheet: Floats, random: Random, colour: Colour, sides: str, width: tuple[float, float]) -> Floats:
    """Put strips beside a sheet on the sides named in `sides`, by the range of their width in shares of the sheet."""
    rows, columns = sheet.shape[:2]
    widths = [
        max(2, round(random.uniform(*width) * (rows if side in "tb" else columns))) if side in sides else 0
        for side in "tblr"
    ]
    top, bottom, left, right = widths
    whole = np.tile(colour, (rows + top + bottom, columns + left + right, 1))
    whole[top : top + rows, left : left + columns] = sheet
    return whole


def _some_sides(random: Random) -> str:
    return str(random.choice(["l", "r", "t", "b", "lt", "rb", "lb", "rt", "ltr", "lbr", "tblr"]))


def sheet_on_dark_desk(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    return _finished(_beside(page, random, _grey(random, 10, 110), _some_sides(random), (0.05, 0.4)), random)


def sheet_on_light_desk(ink: Ink, random: Random) -> Image.Image:
    page = _painted(_grey(random, 150, 190), _sheet(ink, random), _dark(random))
    return _finished(_beside(page, random, _grey(random, 215, 255), _some_sides(random), (0.05, 0.4)), random)


def _wood(rows: int, columns: int, random: Random) -> Floats:
    rings = np.cumsum(random.normal(0, 1, rows + columns))
    grain = np.stack([rings[row : row + columns] * 0 + rings[row] for row in range(rows)])
    grain += random.normal(0, 0.6, (rows, columns))
    grain = (grain - grain.mean()) / (grain.std() + 1e-9)
    return np.asarray([120, 85, 55] + 14 * np.clip(grain, -2, 2)[..., None])


def sheet_on_wood(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    grown = _beside(page, random, np.full(3, -1.0), _some_sides(random), (0.08, 0.35))
    wood = _wood(grown.shape[0], grown.shape[1], random)
    return _finished(np.where(grown < 0, wood, grown), random)


def _turned_sheet(ink: Ink, random: Random, *, perspective: bool, wood: bool = False) -> Image.Image:
    page = _painted(_light(random), _sheet(ink, random, 1.5, 2.2), _dark(random))
    rows, columns = page.shape[:2]
    pad = int(0.35 * max(rows, columns))
    size = (columns + 2 * pad, rows + 2 * pad)
    angle = random.uniform(-15, 15)
    centre = np.array([size[0] / 2, size[1] / 2])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [columns / 2, rows / 2]
    turn = np.radians(angle)
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if perspective:
        corners *= 1 + random.uniform(-0.13, 0.13, (4, 1))
    corners += centre + random.uniform(-0.5, 0.5, 2) * pad
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float64)
    # The eight factors that take a pixel of the picture to one of the sheet.
    table, values = [], []
    for (x, y), (u, v) in zip(corners, source, strict=True):
        table += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    factors = tuple(np.linalg.solve(np.array(table), np.array(values)))
    flat = Image.fromarray(page.astype(np.uint8))
    laid = flat.transform(size, Image.Transform.PERSPECTIVE, factors, Image.Resampling.BICUBIC)
    cover = _polygon(size[1], size[0], corners)
    desk = _wood(size[1], size[0], random) if wood else np.tile(_grey(random, 10, 120), (size[1], size[0], 1))
    whole = (1 - cover[..., None]) * desk + cover[..., None] * np.asarray(laid, np.float64)
    return _finished(whole, random)


def tilted_sheet(ink: Ink, random: Random) -> Image.Image:
    return _turned_sheet(ink, random, perspective=False)


def sheet_in_perspective(ink: Ink, random: Random) -> Image.Image:
    return _turned_sheet(ink, random, perspective=True)


def tilted_sheet_on_wood(ink: Ink, random: Random) -> Image.Image:
    return _turned_sheet(ink, random, perspective=True, wood=True)


def scanner_strip(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    columns = page.shape[1]
    width = max(2, int(columns * random.uniform(0.02, 0.12)))
    shade = np.ones(columns)
    shade[:width] = np.linspace(random.uniform(0, 0.3), random.uniform(0.5, 1), width)
    shade = shade if random.integers(2) else shade[::-1]
    return _finished(page * shade[None, :, None], random)


def letterbox(ink: Ink, random: Random) -> Image.Image:
    return _finished(_beside(_plain_page(ink, random), random, np.zeros(3), "tb", (0.1, 0.35)), random)


def pillarbox(ink: Ink, random: Random) -> Image.Image:
    return _finished(_beside(_plain_page(ink, random), random, np.zeros(3), "lr", (0.1, 0.35)), random)


def chalk_with_white_bars(ink: Ink, random: Random) -> Image.Image:
    board = _painted(_dark(random), _sheet(ink, random), _light(random))
    return _finished(_beside(board, random, np.full(3, 255.0), _some_sides(random), (0.05, 0.3)), random)


def window_frame(ink: Ink, random: Random) -> Image.Image:
    page = _beside(_plain_page(ink, random), random, _grey(random, 40, 150), "tblr", (0.03, 0.1))
    page = _beside(page, random, _grey(random, 60, 220), "tblr", (0.02, 0.08))
    return _finished(_beside(page, random, _grey(random, 0, 90), "t", (0.08, 0.15)), random)


def shadow_of_a_window(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    rows, columns = page.shape[:2]
    width = random.uniform(0.15, 0.3) * columns
    x, lean = random.uniform(0, columns), random.uniform(-0.3, 0.3) * columns
    band = _polygon(rows, columns, np.array([[x, 0], [x + width, 0], [x + width + lean, rows], [x + lean, rows]]))
    return _finished(page * (1 - random.uniform(0.2, 0.5) * band[..., None]), random)


def on_transparent(ink: Ink, random: Random) -> Image.Image:
    page = (
        _plain_page(ink, random) if random.integers(3) else _painted(_dark(random), _sheet(ink, random), _light(random))
    )
    rows, columns = page.shape[:2]
    alpha = np.zeros((rows, columns))
    margins = [int(random.uniform(0.0, 0.1) * side) for side in (rows, rows, columns, columns)]
    grown = np.pad(page, ((margins[0], margins[1]), (margins[2], margins[3]), (0, 0)))
    alpha = np.pad(np.ones((rows, columns)), ((margins[0], margins[1]), (margins[2], margins[3])))
    # What lies below transparent pixels is anything.
    grown = np.where(alpha[..., None] > 0, grown, random.choice([0, 255]))
    image = Image.fromarray(np.clip(grown, 0, 255).astype(np.uint8))
    if random.integers(2):
        image = image.convert("L")
    image.putalpha(Image.fromarray((255 * alpha).astype(np.uint8)))
    return image


def ink_on_transparent(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random)
    pen = _dark(random) if random.integers(2) else _light(random)
    image = Image.fromarray(np.tile(pen, (*sheet.shape, 1)).astype(np.uint8))
    image.putalpha(Image.fromarray((255 * sheet).astype(np.uint8)))
    return image


def hard_shadow(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    rows, columns = page.shape[:2]
    angle = random.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle)])
    along = np.array([-normal[1], normal[0]])
    middle = np.array([columns, rows]) * random.uniform(0.2, 0.8, 2)
    far = 3 * max(rows, columns)
    points = np.array([middle - far * along, middle + far * along, middle + far * (along + normal)])
    points = np.concatenate([points, [middle + far * (normal - along)]])
    shade = _polygon(rows, columns, points)
    return _finished(page * (1 - random.uniform(0.25, 0.55) * shade[..., None]), random)


def _cell(ink: Ink, random: Random, sides: str) -> Image.Image:
    sheet = _sheet(ink, random, 1.5, 2.2)
    rows, columns = sheet.shape
    width = max(1, round(random.uniform(0.015, 0.06) * max(rows, columns)))
    border = np.zeros(sheet.shape)
    border[:width] = "t" in sides
    border[rows - width :] = np.maximum(border[rows - width :], "b" in sides)
    border[:, :width] = np.maximum(border[:, :width], "l" in sides)
    border[:, columns - width :] = np.maximum(border[:, columns - width :], "r" in sides)
    page = _painted(_painted(_light(random), border, _dark(random)), sheet, _dark(random))
    return _finished(page, random)


def cell_one_side(ink: Ink, random: Random) -> Image.Image:
    return _cell(ink, random, str(random.choice(list("tblr"))))


def cell_two_sides(ink: Ink, random: Random) -> Image.Image:
    return _cell(ink, random, str(random.choice(["tl", "tr", "bl", "br", "tb", "lr"])))


def cell_three_sides(ink: Ink, random: Random) -> Image.Image:
    return _cell(ink, random, str(random.choice(["tlr", "tbl", "blr", "tbr"])))


def cell_four_sides(ink: Ink, random: Random) -> Image.Image:
    return _cell(ink, random, "tblr")


def cell_with_neighbours(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random, 1.4, 1.9)
    pad = max(3, int(0.15 * max(sheet.shape)))
    rows, columns = sheet.shape[0] + 2 * pad, sheet.shape[1] + 2 * pad
    tilt = random.uniform(-0.03, 0.03) * columns
    lines = [
        (0, pad - tilt, columns, pad + tilt),
        (0, rows - pad - tilt, columns, rows - pad + tilt),
        (pad + tilt, 0, pad - tilt, rows),
        (columns - pad + tilt, 0, columns - pad - tilt, rows),
    ]
    grid = _lines(rows, columns, [(float(a), float(b), float(c), float(d)) for a, b, c, d in lines], max(1, rows / 60))
    page = _painted(_painted(_light(random), grid, _dark(random)), np.pad(sheet, pad), _dark(random))
    return _finished(page, random)


def box_around(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random, 1.5, 2)
    pad = max(3, int(random.uniform(0.1, 0.3) * max(sheet.shape)))
    rows, columns = sheet.shape[0] + 2 * pad, sheet.shape[1] + 2 * pad
    edge = random.uniform(0.6, 0.95) * pad
    radius = random.choice([0, 0.15]) * rows * _FINE
    width = max(1, round(rows / random.uniform(30, 80) * _FINE))
    box = [edge * _FINE, edge * _FINE, (columns - edge) * _FINE, (rows - edge) * _FINE]
    frame = _shape(rows, columns, lambda draw: draw.rounded_rectangle(box, radius, outline=255, width=width))
    page = _painted(_painted(_light(random), frame, _dark(random)), np.pad(sheet, pad), _dark(random))
    return _finished(page, random)


def ring_around(ink: Ink, random: Random) -> Image.Image:
    height, width = ink.shape
    reach = np.hypot(height, width) / 2 * random.uniform(1.2, 1.5)
    wide, high = reach * random.uniform(1, 1.3), reach * random.uniform(1, 1.3)
    rows, columns = int(2.3 * high), int(2.3 * wide)
    pen = max(1, round(height / random.uniform(10, 25) * _FINE))
    x, y = columns / 2, rows / 2
    box = [(x - wide) * _FINE, (y - high) * _FINE, (x + wide) * _FINE, (y + high) * _FINE]
    ring = _shape(rows, columns, lambda draw: draw.ellipse(box, outline=255, width=pen))
    sheet = np.zeros((rows, columns))
    top, left = (rows - height) // 2, (columns - width) // 2
    sheet[top : top + height, left : left + width] = ink
    dark = _dark(random)
    page = _painted(_painted(_light(random), ring, dark if random.integers(2) else _dark(random)), sheet, dark)
    return _finished(page, random)


def _ruled(ink: Ink, random: Random, *, squared: bool, margin: bool = False) -> Image.Image:
    sheet = _sheet(ink, random, 1.6, 3)
    rows, columns = sheet.shape
    step = ink.shape[0] * random.uniform(0.35, 1.2)
    tilt = random.uniform(-0.04, 0.04)
    lines = [(0.0, y, float(columns), y + tilt * columns) for y in np.arange(-rows, 2 * rows, step)]
    if squared:
        lines += [(x, 0.0, x - tilt * rows, float(rows)) for x in np.arange(-columns, 2 * columns, step)]
    paper = _light(random)
    colour = paper * np.array(random.choice([[0.6, 0.72, 0.9], [0.7, 0.7, 0.7], [0.85, 0.6, 0.6]]))
    page = _painted(paper, _lines(rows, columns, lines, max(1, ink.shape[0] / 50)), colour)
    if margin:
        x = columns * random.uniform(0.05, 0.15)
        red = _lines(rows, columns, [(x, 0.0, x, float(rows))], max(1, ink.shape[0] / 50))
        page = _painted(page, red, np.array([220.0, 80, 80]))
    return _finished(_painted(page, sheet, _grey(random, 5, 70)), random)


def ruled_paper(ink: Ink, random: Random) -> Image.Image:
    return _ruled(ink, random, squared=False, margin=bool(random.integers(2)))


def squared_paper(ink: Ink, random: Random) -> Image.Image:
    return _ruled(ink, random, squared=True)


def underlined(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random, 1.8, 2.6)
    rows, columns = sheet.shape
    inked = np.flatnonzero(sheet.max(1) > 0.3)
    bottom = (inked[-1] if len(inked) else rows / 2) + 0.18 * ink.shape[0]
    line = _lines(rows, columns, [(0, bottom, columns, bottom)], max(1, ink.shape[0] / 30))
    return _finished(_painted(_light(random), np.maximum(sheet, line), _dark(random)), random)


def _glare(picture: Floats, random: Random, reach: float) -> Floats:
    rows, columns = picture.shape[:2]
    y, x = np.mgrid[:rows, :columns]
    for _ in range(int(random.integers(1, 3))):
        # A lamp shines at the rim more often than upon the digit.
        cy, cx = (random.choice([random.uniform(0, 0.2), random.uniform(0.8, 1)]) * side for side in (rows, columns))
        distance = np.hypot(y - cy, (x - cx) * random.uniform(0.7, 1.4)) / (reach * min(rows, columns))
        picture = picture + 330 * np.exp(-(distance**2) * 2)[..., None]
    return np.minimum(picture, 255)


def glare_on_grey_board(ink: Ink, random: Random) -> Image.Image:
    page = _painted(_grey(random, 110, 160), _sheet(ink, random, 1.8, 2.6), _grey(random, 5, 50))
    return _finished(_glare(page, random, random.uniform(0.1, 0.2)), random)


def glare_on_blackboard(ink: Ink, random: Random) -> Image.Image:
    page = _painted(_grey(random, 20, 70), _sheet(ink, random, 1.8, 2.6), _grey(random, 180, 230))
    return _finished(_glare(page, random, random.uniform(0.08, 0.16)), random)


def tight_crop(ink: Ink, random: Random) -> Image.Image:
    margin = int(random.choice([0, 0, 1]))
    dark, light = _dark(random), _light(random)
    page = (
        _painted(light, np.pad(ink, margin), dark) if random.integers(3) else _painted(dark, np.pad(ink, margin), light)
    )
    return _finished(page, random)


def phone_screenshot(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random, 1.4, 2)
    paper = _grey(random, 225, 255, 2)
    page = _painted(paper, sheet, _dark(random))
    page = _beside(page, random, _grey(random, 240, 255, 0), "tblr", (0.05, 0.15))
    page = _beside(page, random, _grey(random, 235, 255, 0), "tb", (0.2, 0.5))
    page = _beside(page, random, _grey(random, 0, 40, 0), "t", (0.03, 0.06))
    return _finished(_beside(page, random, _grey(random, 0, 240, 0), "b", (0.03, 0.08)), random, 0)


def dark_mode_screenshot(ink: Ink, random: Random) -> Image.Image:
    page = _painted(_grey(random, 25, 50, 0), _sheet(ink, random, 1.4, 2), _light(random))
    page = _beside(page, random, _grey(random, 0, 20, 0), "tblr", (0.1, 0.3))
    return _finished(_beside(page, random, _grey(random, 60, 90, 0), "tb", (0.04, 0.08)), random, 0)


def noisy_paper(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    rows, columns = page.shape[:2]
    coarse = random.normal(0, 1, (max(2, rows // 3), max(2, columns // 3)))
    grain = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((columns, rows), Image.Resampling.BICUBIC))
    return _finished(page + (random.uniform(3, 9) * grain)[..., None], random, 8)


def sticky_note(ink: Ink, random: Random) -> Image.Image:
    note = np.array(random.choice([[250, 235, 120], [255, 180, 200], [170, 230, 250], [190, 245, 160]]), np.float64)
    page = _painted(note, _sheet(ink, random, 1.4, 2), _dark(random))
    return _finished(_beside(page, random, _grey(random, 150, 250), "tblr", (0.1, 0.5)), random)


def dark_tile(ink: Ink, random: Random) -> Image.Image:
    page = _painted(_dark(random), _sheet(ink, random, 1.4, 1.9), _light(random))
    return _finished(_beside(page, random, _light(random), "tblr", (0.1, 0.5)), random)


def round_plate(ink: Ink, random: Random) -> Image.Image:
    height, width = ink.shape
    reach = np.hypot(height, width) / 2 * random.uniform(1.3, 1.6)
    side = int(2 * reach * random.uniform(1.15, 1.6))
    box = [(side / 2 - reach) * _FINE] * 2 + [(side / 2 + reach) * _FINE] * 2
    disc = _shape(side, side, lambda draw: draw.ellipse(box, 255))
    sheet = np.zeros((side, side))
    top, left = (side - height) // 2, (side - width) // 2
    sheet[top : top + height, left : left + width] = ink
    dark, light = _dark(random), _light(random)
    inner, outer, pen = (dark, light, light) if random.integers(2) else (light, dark, dark)
    return _finished(_painted(_painted(outer, disc, inner), sheet, pen), random)


def thumb_in_a_corner(ink: Ink, random: Random) -> Image.Image:
    page = np.pad(
        _plain_page(ink, random), ((int(0.3 * ink.shape[0]),) * 2, (int(0.3 * ink.shape[0]),) * 2, (0, 0)), "edge"
    )
    rows, columns = page.shape[:2]
    x, y = random.choice([0, columns]), random.choice([0, rows])
    reach = 0.28 * min(rows, columns)
    box = [(x - reach) * _FINE, (y - reach) * _FINE, (x + reach) * _FINE, (y + reach) * _FINE]
    thumb = _shape(rows, columns, lambda draw: draw.ellipse(box, 255))
    return _finished(_painted(page, thumb, np.array([190.0, 140, 115])), random)


def fold_across(ink: Ink, random: Random) -> Image.Image:
    page = _plain_page(ink, random)
    rows, columns = page.shape[:2]
    x, lean = random.uniform(0.1, 0.9) * columns, random.uniform(-0.2, 0.2) * columns
    half = _polygon(rows, columns, np.array([[x, 0], [columns * 2, 0], [columns * 2, rows], [x + lean, rows]]))
    crease = _lines(rows, columns, [(x, 0, x + lean, rows)], max(1, columns / 90))
    page = page * (1 - random.uniform(0.05, 0.15) * half[..., None])
    return _finished(_painted(page, 0.4 * crease, np.full(3, random.choice([90.0, 255.0]))), random)


def punched_holes(ink: Ink, random: Random) -> Image.Image:
    page = _beside(_plain_page(ink, random), random, np.full(3, -1.0), "l", (0.3, 0.4))
    rows, columns = page.shape[:2]
    page = np.where(page < 0, page[:, -1:], page)
    radius = 0.05 * columns

    def paint(draw: ImageDraw.ImageDraw) -> None:
        for place in (0.25, 0.75):
            y, x = place * rows, 0.12 * columns
            draw.ellipse([(x - radius) * _FINE, (y - radius) * _FINE, (x + radius) * _FINE, (y + radius) * _FINE], 255)

    return _finished(_painted(page, _shape(rows, columns, paint), _dark(random)), random)


def two_halves(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random, 1.4, 2)
    page = _painted(_light(random), sheet, _dark(random))
    return _finished(_beside(page, random, random.uniform(40, 230, 3), _some_sides(random)[:1], (0.4, 0.9)), random)


def slightly_blurred(ink: Ink, random: Random) -> Image.Image:
    image = Image.fromarray(_plain_page(ink, random).astype(np.uint8))
    blurred = image.filter(ImageFilter.GaussianBlur(ink.shape[0] * random.uniform(0.01, 0.03)))
    return _finished(np.asarray(blurred, np.float64), random)


def dashed_box(ink: Ink, random: Random) -> Image.Image:
    sheet = _sheet(ink, random, 1.6, 2)
    pad = max(4, int(0.2 * max(sheet.shape)))
    rows, columns = sheet.shape[0] + 2 * pad, sheet.shape[1] + 2 * pad
    edge, dash = 0.5 * pad, max(3.0, ink.shape[0] / 12)
    lines: list[tuple[float, float, float, float]] = []
    for y in (edge, rows - edge):
        lines += [(x, y, min(x + dash, columns - edge), y) for x in np.arange(edge, columns - edge, 2 * dash)]
    for x in (edge, columns - edge):
        lines += [(x, y, x, min(y + dash, rows - edge)) for y in np.arange(edge, rows - edge, 2 * dash)]
    box = _lines(rows, columns, lines, max(1, ink.shape[0] / 40))
    page = _painted(_painted(_light(random), box, _dark(random)), np.pad(sheet, pad), _dark(random))
    return _finished(page, random)


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        plain,
        sloping_light,
        vignette,
        light_on_dark,
        coloured,
        faint_pencil,
        sheet_on_dark_desk,
        sheet_on_light_desk,
        sheet_on_wood,
        tilted_sheet,
        sheet_in_perspective,
        tilted_sheet_on_wood,
        scanner_strip,
        letterbox,
        pillarbox,
        chalk_with_white_bars,
        window_frame,
        shadow_of_a_window,
        on_transparent,
        ink_on_transparent,
        hard_shadow,
        cell_one_side,
        cell_two_sides,
        cell_three_sides,
        cell_four_sides,
        cell_with_neighbours,
        box_around,
        ring_around,
        ruled_paper,
        squared_paper,
        underlined,
        glare_on_grey_board,
        glare_on_blackboard,
        tight_crop,
        phone_screenshot,
        dark_mode_screenshot,
        noisy_paper,
        sticky_note,
        dark_tile,
        round_plate,
        thumb_in_a_corner,
        fold_across,
        punched_holes,
        two_halves,
        slightly_blurred,
        dashed_box,
    )
}


def as_file(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
