// Reads a drawing or a photo by a request to the service that this page came from.
"use strict";

const MARGIN = 40; // pixels of white around the ink in the image that is sent
const PAUSE = 60; // milliseconds between a response and the next request while a stroke is drawn
const OUTLINE = 2; // the width of the box around the digit that was found
const PREVIEW = 1024; // the longest side, in pixels, of a photo on the page

function makeReader(drawing, settle) {
  const paper = document.getElementById("paper").getContext("2d");
  const raster = newRaster(RASTER);
  const sheet = newRaster(RASTER + 2 * MARGIN);
  let [waiting, asking] = [null, false];

  /** Send the latest drawing, once the request before it is answered. */
  async function read(drawn, done) {
    if (drawn.isBlank) done(null);
    waiting = drawn.isBlank ? null : done;
    if (asking) return;
    asking = true;
    while (waiting) {
      const answered = waiting;
      waiting = null;
      const { photo } = drawn;
      const found = await answerTo(await fileOf(drawn));
      answered(found);
      if (photo && photo === drawn.photo && found?.box) outline(photo, found.box);
      await new Promise((rested) => setTimeout(rested, PAUSE));
    }
    asking = false;
  }

  /** Draw the box of the digit that was found, in pixels of the file, over the photo on the paper. */
  function outline({ image, scale }, { left, top, right, bottom }) {
    const { canvas } = paper;
    const shown = canvas.width / Math.max(image.width, image.height);
    const [x, y] = [(canvas.width - image.width * shown) / 2, (canvas.height - image.height * shown) / 2];
    paper.strokeStyle = getComputedStyle(document.body).getPropertyValue("--accent");
    paper.lineWidth = OUTLINE * devicePixelRatio;
    const times = shown * scale;
    paper.strokeRect(x + left * times, y + top * times, (right - left) * times, (bottom - top) * times);
  }

  /** Return the photo's file, or the strokes in black on white, rasterised like on the exported page. */
  async function fileOf({ photo, strokes }) {
    if (photo) return photo.file;
    if (!inkOf(strokes, raster)) return null;
    const { canvas } = sheet;
    sheet.fillStyle = "#fff";
    sheet.fillRect(0, 0, canvas.width, canvas.height);
    sheet.drawImage(raster.canvas, MARGIN, MARGIN);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  async function place(file) {
    if (!file) return;
    drawing.place({ file, ...(await previewOf(file)) });
    settle();
  }

  /** Return a canvas with the upright photo, and how many of its pixels one of the file's is wide. The canvas is empty if
      the browser cannot decode the file: the service will say why. */
  async function previewOf(file) {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (!bitmap) return { image: canvas, scale: 1 };
    const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return { image: canvas, scale };
  }

  const [choose, photo] = [document.getElementById("choose"), document.getElementById("photo")];
  choose.addEventListener("click", () => photo.click());
  photo.addEventListener("change", () => {
    place(photo.files[0]);
    photo.value = ""; // so that the same photo can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") place(event.dataTransfer.files[0]);
    });
  }
  return { read };
}
