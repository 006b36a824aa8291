// The integer network, specification 1: docs/INTEGER.md of Kilonet, to the bit.
//
// Every number is an integer below 2 ** 53, which a double holds exactly; the exporter has checked this.
// A map is {channels, rows, columns, values} with values in the order [channel][row][column].
"use strict";

/** Return the function logits(pixels) of a network as the exporter writes it: Uint8Array to Int32Array. */
function integerNetwork({ input: [channels, rows, columns], operations }) {
  const steps = operations.map((operation) => ({ ...operation, weights: signedBytes(operation.weights ?? "") }));
  return function logits(pixels) {
    if (!(pixels instanceof Uint8Array) || pixels.length !== channels * rows * columns) {
      throw new TypeError(`pixels must be a Uint8Array of ${channels} x ${rows} x ${columns}`);
    }
    let map = { channels, rows, columns, values: pixels };
    for (const step of steps) map = EXECUTE[step.kind](step, map, step === steps.at(-1));
    return map.values;
  };
}

const EXECUTE = { convolution: convolve, "max-pool": takeMaximum, "average-pool": takeAverage };

function convolve(step, map, isLast) {
  const { kernel, padding, channels_out: outputs } = step;
  const source = padding ? padded(step, map) : map;
  const stride = step.stride ?? 1;
  const [rows, columns] = [source.rows, source.columns].map((extent) => Math.floor((extent - kernel) / stride) + 1);
  const [inGroup, outGroup] = [map.channels / step.groups, outputs / step.groups];
  const result = newMap(outputs, rows, columns, isLast);
  const sums = new Int32Array(rows * columns);
  for (let channel = 0, weight = 0; channel < outputs; channel++) {
    sums.fill(step.bias[channel]);
    const first = Math.floor(channel / outGroup) * inGroup;
    for (let other = first; other < first + inGroup; other++) {
      for (let row = 0; row < kernel; row++) {
        for (let column = 0; column < kernel; column++) {
          addProducts(sums, step.weights[weight++], source, other, row, column, rows, columns, stride);
        }
      }
    }
    if (step.relu) for (let place = 0; place < sums.length; place++) sums[place] = Math.max(sums[place], 0);
    requantise(step, channel, sums, result, isLast, step.skip ? map : null);
  }
  return result;
}

/** Add to every sum the product of a weight and the value at its channel, row and column of the kernel. */
function addProducts(sums, weight, map, channel, firstRow, firstColumn, rows, columns, stride) {
  const { values, rows: high, columns: wide } = map;
  for (let row = 0, place = 0; row < rows; row++) {
    let from = (channel * high + firstRow + row * stride) * wide + firstColumn;
    // No sum exceeds 32 bits, so imul and "| 0" change nothing; they let the engine use 32-bit integers.
    for (const end = place + columns; place < end; place++, from += stride) {
      sums[place] = (sums[place] + Math.imul(weight, values[from])) | 0;
    }
  }
}

function padded({ padding, pad }, map) {
  const around = newMap(map.channels, map.rows + 2 * padding, map.columns + 2 * padding);
  for (let channel = 0; channel < map.channels; channel++) {
    plane(around, channel).fill(pad[channel]);
    for (let row = 0; row < map.rows; row++) {
      const from = plane(map, channel).subarray(row * map.columns, (row + 1) * map.columns);
      plane(around, channel).set(from, (row + padding) * around.columns + padding);
    }
  }
  return around;
}

function takeMaximum({ size }, map) {
  const [rows, columns] = [Math.floor(map.rows / size), Math.floor(map.columns / size)];
  const result = newMap(map.channels, rows, columns);
  for (let channel = 0; channel < map.channels; channel++) {
    const [from, to] = [plane(map, channel), plane(result, channel)];
    for (let row = 0; row < rows * size; row++) {
      for (let column = 0; column < columns * size; column++) {
        const place = Math.floor(row / size) * columns + Math.floor(column / size);
        to[place] = Math.max(to[place], from[row * map.columns + column]);
      }
    }
  }
  return result;
}

/** Without a size the one window is the whole map. */
function takeAverage(step, map, isLast) {
  const [high, wide] = step.size ? [step.size, step.size] : [map.rows, map.columns];
  const [rows, columns] = [Math.floor(map.rows / high), Math.floor(map.columns / wide)];
  const result = newMap(map.channels, rows, columns, isLast);
  const sums = new Int32Array(rows * columns);
  for (let channel = 0; channel < map.channels; channel++) {
    const from = plane(map, channel);
    sums.fill(0);
    for (let row = 0; row < rows * high; row++) {
      for (let column = 0; column < columns * wide; column++) {
        sums[Math.floor(row / high) * columns + Math.floor(column / wide)] += from[row * map.columns + column];
      }
    }
    requantise(step, channel, sums, result, isLast, null);
  }
  return result;
}

/** Write a channel's results: floor((v * m + x * k + o) / 2 ** s), clamped to 0 to 255 unless they are logits. */
function requantise({ output: { multiplier, shift, offset }, skip }, channel, sums, result, isLast, skipped) {
  const [to, residual] = [plane(result, channel), skipped && plane(skipped, channel)];
  const [m, o, k, unit] = [multiplier[channel], offset[channel], skipped && skip[channel], 2 ** shift[channel]];
  for (let place = 0; place < sums.length; place++) {
    const whole = Math.floor((sums[place] * m + (residual ? residual[place] * k : 0) + o) / unit);
    to[place] = isLast ? whole : Math.min(Math.max(whole, 0), 255);
  }
}

function newMap(channels, rows, columns, isLast = false) {
  const values = new (isLast ? Int32Array : Uint8Array)(channels * rows * columns);
  return { channels, rows, columns, values };
}

function plane({ rows, columns, values }, channel) {
  return values.subarray(channel * rows * columns, (channel + 1) * rows * columns);
}

function signedBytes(base64) {
  return Int8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
