// The drawing: strokes of pen, finger or mouse. A stroke is a list of points with coordinates from 0 to 1.
"use strict";

const PEN = 0.08; // the pen's width on the paper
const RASTER = 160; // rows and columns of the ink that is centred
const RASTER_PEN = 19; // the pen's width in the raster; MNIST's digits redrawn with it keep their amount of ink
const SMALLEST_DIGIT = 0.06; // a smaller drawing is not read
const SHORTEST_STEP = 0.003; // a point nearer to the previous one is left out

const BLANK = Object.freeze({ strokes: [], photo: null });

/** Strokes or a photo, {image, file}, with all earlier states, so that undo reverts a stroke, a photo or a clearing. */
class Drawing {
  #states = [BLANK];

  get strokes() {
    return this.#states.at(-1).strokes;
  }

  get photo() {
    return this.#states.at(-1).photo;
  }

  get isBlank() {
    return !this.strokes.length && !this.photo;
  }

  get canUndo() {
    return this.#states.length > 1;
  }

  begin(point) {
    this.#states.push({ strokes: [...this.strokes, [point]], photo: null });
  }

  extend([x, y]) {
    const stroke = this.strokes.at(-1);
    const [lastX, lastY] = stroke.at(-1);
    if (Math.hypot(x - lastX, y - lastY) >= SHORTEST_STEP) stroke.push([x, y]);
  }

  place(photo) {
    this.#states.push({ strokes: [], photo });
  }

  clear() {
    if (!this.isBlank) this.#states.push(BLANK);
  }

  undo() {
    if (this.canUndo) this.#states.pop();
  }
}

function newRaster(side) {
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** Draw a whole image in the middle of a square of a context. */
function lay(context, image, side) {
  const scale = side / Math.max(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  context.drawImage(image, (side - width) / 2, (side - height) / 2, width, height);
}

/** Draw strokes on a context as smooth lines. Coordinates are multiplied by scale and moved by [left, top]. */
function trace(context, strokes, pen, scale, [left, top] = [0, 0]) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = pen;
  for (const stroke of strokes) {
    const points = stroke.map(([x, y]) => [x * scale + left, y * scale + top]);
    const [first, last] = [points[0], points.at(-1)];
    context.beginPath();
    context.moveTo(...first);
    points.slice(1).forEach(([x, y], before) => {
      const [lastX, lastY] = points[before];
      context.quadraticCurveTo(lastX, lastY, (lastX + x) / 2, (lastY + y) / 2);
    });
    context.lineTo(...last);
    context.stroke();
  }
}

/** Rasterise strokes for `centred`, scaled to fill the raster, with the same pen for small digits and large ones.
    Return a Uint8Array of RASTER x RASTER; null if the drawing is empty or too small. */
function inkOf(strokes, context) {
  let [left, right, top, bottom] = [1, 0, 1, 0];
  for (const [x, y] of strokes.flat()) {
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  }
  const side = Math.max(right - left, bottom - top);
  if (side < SMALLEST_DIGIT) return null;
  const scale = (RASTER - RASTER_PEN - 2) / side;
  const margin = RASTER_PEN / 2 + 1;
  context.clearRect(0, 0, RASTER, RASTER);
  trace(context, strokes, RASTER_PEN, scale, [margin - left * scale, margin - top * scale]);
  const { data } = context.getImageData(0, 0, RASTER, RASTER);
  return Uint8Array.from({ length: RASTER * RASTER }, (_, place) => data[4 * place + 3]);
}
