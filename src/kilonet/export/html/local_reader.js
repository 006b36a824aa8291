// Reads a drawing in the page itself: centres it as the digits of MNIST are centred and executes the integer network.
"use strict";

function makeReader() {
  const network = JSON.parse(document.getElementById("network").textContent);
  const [logits, answer] = [integerNetwork(network), answering(network)];
  const raster = newRaster(RASTER);

  /** Return the answer to a drawing, with its pixels; null if there is no ink. */
  function recognise({ strokes }) {
    const drawn = inkOf(strokes, raster);
    const pixels = drawn && centred(drawn, RASTER, RASTER);
    return pixels && { pixels, ...answer(logits(pixels)) };
  }

  return { read: (drawing, done) => done(recognise(drawing)), recognise, logits, centred };
}
