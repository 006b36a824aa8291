// A picture of any size as the input of a network: the rule of data/preprocessing.py of Kilonet in whole numbers, rounded
// where Pillow rounds.
"use strict";

const STRIP = 128; // rows of a picture that are in memory at once: a canvas of a whole photo is too large for some browsers
const GREY = [19595, 38470, 7471]; // the weights of ITU-R BT.601 in 65,536ths

/** Return the function pixelsOf(image) of a network: an ImageBitmap to Uint8Array [channel][row][column]. */
function preprocessing({ input: [channels, rows, columns], preprocessing: { resize, padding } }) {
  return function pixelsOf(image) {
    const size = [image.width, image.height];
    const whole = [0, 0, ...size];
    const [left, top, right, bottom] = resize === "crop" ? cropBox(size, [columns, rows]) : whole;
    const place = resize === "pad" ? padBox(size, [columns, rows]) : [0, 0, columns, rows];
    const [wide, high] = [place[2] - place[0], place[3] - place[1]];
    let paper = null; // not looked for in a picture that is nowhere transparent
    const lines = new Uint8Array((bottom - top) * wide * 3);
    const across = taps(right - left, wide);
    forEachStrip(image, [left, top, right, bottom], (data, first) => {
      layOnPaper(data, () => (paper ??= paperOf(image)));
      resampleLines(data, right - left, across, lines.subarray(first * wide * 3));
    });
    const pixels = new Uint8Array(channels * rows * columns);
    for (let channel = 0; channel < channels; channel++) {
      pixels.fill(padding[channel] ?? padding[0], channel * rows * columns, (channel + 1) * rows * columns);
    }
    const line = new Uint8Array(wide * 3);
    taps(bottom - top, high).forEach((weighted, row) => {
      resampleDown(lines, weighted, line);
      for (let column = 0; column < wide; column++) {
        const colour = line.subarray(3 * column, 3 * column + 3);
        const at = (place[1] + row) * columns + place[0] + column;
        if (channels === 1) pixels[at] = greyOf(colour, 0);
        else colour.forEach((level, channel) => (pixels[channel * rows * columns + at] = level));
      }
    });
    return pixels;
  };
}

/** Return the middle of a picture that has the shape of the target, [left, top, right, bottom]. */
function cropBox([width, height], [columns, rows]) {
  const wide = Math.min(width, Math.max(1, Math.floor((2 * height * columns + rows) / (2 * rows))));
  const high = Math.min(height, Math.max(1, Math.floor((2 * width * rows + columns) / (2 * columns))));
  const [left, top] = [Math.floor((width - wide) / 2), Math.floor((height - high) / 2)];
  return [left, top, left + wide, top + high];
}

/** Return where a whole picture lies in the target, [left, top, right, bottom]. */
function padBox([width, height], [columns, rows]) {
  const wide = Math.min(columns, Math.max(1, Math.floor((2 * width * rows + height) / (2 * height))));
  const high = Math.min(rows, Math.max(1, Math.floor((2 * height * columns + width) / (2 * width))));
  const [left, top] = [Math.floor((columns - wide) / 2), Math.floor((rows - high) / 2)];
  return [left, top, left + wide, top + high];
}

/** Return for each of `count` pixels that show `shown` of them the first that counts, the weights from there on, and
    their sum. */
function taps(shown, count) {
  const reach = 2 * Math.max(shown, count);
  return Array.from({ length: count }, (_, output) => {
    const centre = (2 * output + 1) * shown;
    const first = Math.max(0, Math.ceil(((centre - reach) / count - 1) / 2));
    const last = Math.min(shown - 1, Math.floor(((centre + reach) / count - 1) / 2));
    const weights = Float64Array.from({ length: last - first + 1 }, (_, place) =>
      Math.max(0, reach - Math.abs((2 * (first + place) + 1) * count - centre)),
    );
    return { first, weights, total: weights.reduce((sum, weight) => sum + weight, 0) };
  });
}

/** Call use(data, first) for the strips of a box: the levels of red, green, blue and alpha, and the strip's first row. */
function forEachStrip(image, [left, top, right, bottom], use) {
  const [width, height] = [right - left, Math.min(STRIP, bottom - top)];
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", {
    willReadFrequently: true,
  });
  for (let row = top; row < bottom; row += STRIP) {
    const high = Math.min(STRIP, bottom - row);
    context.clearRect(0, 0, width, high);
    context.drawImage(image, left, row, width, high, 0, 0, width, high);
    use(context.getImageData(0, 0, width, high).data, row - top);
  }
}

/** Return the level below transparent pixels: white below dark ink, black below light ink. */
function paperOf(image) {
  let [ink, weight] = [0, 0];
  forEachStrip(image, [0, 0, image.width, image.height], (data) => {
    for (let at = 0; at < data.length; at += 4) {
      ink += greyOf(data, at) * data[at + 3];
      weight += data[at + 3];
    }
  });
  return ink < 128 * weight || !weight ? 255 : 0;
}

function layOnPaper(data, paper) {
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    if (alpha === 255) continue;
    for (let place = at; place < at + 3; place++) {
      data[place] = Math.round((data[place] * alpha + paper() * (255 - alpha)) / 255);
    }
  }
}

/** Resample each line of a strip: `width` pixels of four levels become one of three for each of the taps. */
function resampleLines(data, width, across, lines) {
  for (let start = 0, to = 0; start < data.length; start += 4 * width) {
    for (const { first, weights, total } of across) {
      let [red, green, blue, at] = [0, 0, 0, start + 4 * first];
      for (let tap = 0; tap < weights.length; tap++, at += 4) {
        red += weights[tap] * data[at];
        green += weights[tap] * data[at + 1];
        blue += weights[tap] * data[at + 2];
      }
      lines[to++] = Math.round(red / total);
      lines[to++] = Math.round(green / total);
      lines[to++] = Math.round(blue / total);
    }
  }
}

/** Resample lines to one line. */
function resampleDown(lines, { first, weights, total }, line) {
  for (let place = 0; place < line.length; place++) {
    let sum = 0;
    for (let tap = 0, at = first * line.length + place; tap < weights.length; tap++, at += line.length) {
      sum += weights[tap] * lines[at];
    }
    line[place] = Math.round(sum / total);
  }
}

/** Return the grey level of a colour, rounded as Pillow rounds it. */
function greyOf(levels, at) {
  return (levels[at] * GREY[0] + levels[at + 1] * GREY[1] + levels[at + 2] * GREY[2] + 32768) >> 16;
}
