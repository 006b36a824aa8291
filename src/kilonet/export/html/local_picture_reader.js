// Reads a picture in the page itself: scales it to the network's input and executes the integer network.
"use strict";

function makePictureReader(network) {
  const [logits, answer, pixelsOf] = [integerNetwork(network), answering(network), preprocessing(network)];

  async function read(_, image) {
    if (!image) return { problem: "Not a picture that this browser can read" };
    const pixels = pixelsOf(image);
    return { pixels, ...answer(logits(pixels)) };
  }

  return { read, logits, answer, pixelsOf };
}
