// Reads a picture by a request to the service, which scales it to the network's input.
"use strict";

function makePictureReader() {
  return { read: (file) => answerTo(file) };
}
