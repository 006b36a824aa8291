// From ink to what the network sees, as the digits of MNIST were made: the ink's bounding box is scaled until its
// longer side is 20, by the mean over each new pixel's area, and put into 28 x 28 with its centre of mass in the middle.
// All in whole numbers.
"use strict";

const FIELD = 28;
const BOX = 20;

/** Centre ink, a Uint8Array (0 is bare paper) of rows x columns; null where there is none, or too faint. */
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

/** Scale the ink within the bounds to {rows, columns, values}, the longer side 20. */
function scaled(ink, columns, { top, left, height, width }) {
  // Lengths are counted in twentieths of a pixel of the ink: there such a pixel is 20 long and a new one `side` long.
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

/** Which new pixels a pixel of the ink lies over along one side, each with the length over it. */
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
  const [top, left] = [firstOf(down, mass, rows), firstOf(across, mass, columns)];
  const field = new Uint8Array(FIELD * FIELD);
  for (let row = 0; row < rows; row++) {
    field.set(values.subarray(row * columns, (row + 1) * columns), (top + row) * FIELD + left);
  }
  return field;
}

/** Where a side begins in the field so that the centre of mass, moment / mass, comes nearest to pixel 14. */
function firstOf(moment, mass, length) {
  const first = Math.floor((FIELD * mass - 2 * moment + mass) / (2 * mass));
  return Math.min(Math.max(first, 0), FIELD - length);
}
