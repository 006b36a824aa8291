// Reads a drawing in the page itself: centres it as the digits of MNIST are centred and executes the integer network.
"use strict";

function makeReader() {
  const network = JSON.parse(document.getElementById("network").textContent);
  const logits = integerNetwork(network);
  const raster = newRaster(RASTER);

  /** Return {pixels, shares} of a drawing, `shares` being the probability of each digit; null if there is none. */
  function recognise({ strokes }) {
    const drawn = inkOf(strokes, raster);
    const pixels = drawn && centred(drawn, RASTER, RASTER);
    return pixels && { pixels, shares: softmax(logits(pixels)) };
  }

  function softmax(values) {
    const largest = Math.max(...values);
    const powers = Array.from(values, (value) => Math.exp((value - largest) / 2 ** network.fraction_bits));
    const sum = powers.reduce((total, power) => total + power);
    return powers.map((power) => power / sum);
  }

  return { read: (drawing, done) => done(recognise(drawing)), recognise, logits, centred };
}
