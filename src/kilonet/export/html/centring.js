// Prepares ink for the network as the digits of MNIST were prepared: the ink's bounding box is scaled to a longer side
// of 20 pixels, each the mean over its area, and placed in 28 x 28 pixels with the centre of mass in the middle. All
// arithmetic is in whole numbers.
"use strict";

const FIELD = 28;
const BOX = 20;

/** Return ink, a Uint8Array of rows x columns with 0 for paper, as 28 x 28 pixels; null without ink or if too faint. */
function centred(ink, rows, columns) {
  const bounds = boundsOf(ink, rows, columns);
  return bounds && placed(scaled(ink, columns, bounds));
}

function boundsOf(ink, rows, columns) {
  let [top, bottom, left, right] = [rows, -1, columns, -1];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      if (!ink[row * columns + column]) continue;
      [top, bottom] = [Math.min(top, row), row];
      [left, right] = [Math.min(left, column), Math.max(right, column)];
    }
  }
  return bottom < 0 ? null : { top, left, height: bottom - top + 1, width: right - left + 1 };
}

/** Scale the ink within the bounds to {rows, columns, values} with a longer side of 20. */
function scaled(ink, columns, { top, left, height, width }) {
  // Lengths are in twentieths of a pixel of the ink: such a pixel is 20 long and a new one `side` long.
  const side = Math.max(height, width);
  const [newRows, newColumns] = [height, width].map((length) => Math.ceil((length * BOX) / side));
  const [rowsOver, columnsOver] = [height, width].map((length) => Array.from({ length }, (_, at) => overlaps(at, side)));
  const sums = new Float64Array(newRows * newColumns);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const value = ink[(top + row) * columns + left + column];
      if (!value) continue;
      for (const [newRow, high] of rowsOver[row]) {
        for (const [newColumn, wide] of columnsOver[column]) {
          sums[newRow * newColumns + newColumn] += value * high * wide;
        }
      }
    }
  }
  const values = Uint8Array.from(sums, (sum) => Math.floor((2 * sum + side ** 2) / (2 * side ** 2)));
  return { rows: newRows, columns: newColumns, values };
}

/** Return the numbers of the new pixels that overlap a pixel of the ink along one side, with the overlapping length. */
function overlaps(place, side) {
  const [start, end] = [place * BOX, (place + 1) * BOX];
  const found = [];
  for (let number = Math.floor(start / side); number * side < end; number++) {
    found.push([number, Math.min(end, (number + 1) * side) - Math.max(start, number * side)]);
  }
  return found;
}

function placed({ rows, columns, values }) {
  let [mass, down, across] = [0, 0, 0];
  values.forEach((value, place) => {
    mass += value;
    down += value * Math.floor(place / columns);
    across += value * (place % columns);
  });
  if (!mass) return null;
  const [top, left] = [startOf(down, mass, rows), startOf(across, mass, columns)];
  const field = new Uint8Array(FIELD * FIELD);
  for (let row = 0; row < rows; row++) {
    field.set(values.subarray(row * columns, (row + 1) * columns), (top + row) * FIELD + left);
  }
  return field;
}

/** Return the start of a side in the field that brings the centre of mass, moment / mass, nearest to pixel 14. */
function startOf(moment, mass, length) {
  const first = Math.floor((FIELD * mass - 2 * moment + mass) / (2 * mass));
  return Math.min(Math.max(first, 0), FIELD - length);
}
