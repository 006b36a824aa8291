// The page for a network that reads no digits: takes a picture that is dropped, pasted or chosen, scales it to the
// network's input, and shows and announces the result.
"use strict";

(() => {
  const SHOWN = 512; // the longest side, in pixels, of the picture on the page
  const byId = (id) => document.getElementById(id);
  const network = JSON.parse(byId("network").textContent);
  const [logits, answer] = [integerNetwork(network), answering(network)];
  const [channels, rows, columns] = network.input;
  const lines = [...byId("likely").children];
  let asked = 0; // number of the latest picture

  async function read(file) {
    const number = ++asked;
    // The pixels as they are in the file: no colour profile, no levels changed by transparency.
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const image = await createImageBitmap(file, options).catch(() => null);
    if (number === asked) show(image);
    image?.close();
  }

  function show(image) {
    const pixels = image && pixelsOf(image);
    const found = pixels && answer(logits(pixels));
    const shares = found ? found.shares : [];
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
    document.body.classList.toggle("found", Boolean(found));
    document.body.classList.toggle("uncertain", Boolean(found?.uncertain));
    byId("class").textContent = found ? network.names[order[0]] : "–";
    byId("sure").textContent = found ? sentence(found, order) : "Not a picture that this browser can read";
    lines.forEach((line, place) => showLine(line, order[place], shares));
    showPicture(image);
    showSeen(pixels);
    byId("said").textContent = `${found ? `${byId("class").textContent}, ` : ""}${byId("sure").textContent}`;
  }

  function sentence({ shares, uncertain }, [first, second]) {
    const sure = `${percent(shares[first])} sure`;
    if (!uncertain || second === undefined) return uncertain ? `Uncertain: ${sure}` : sure;
    return `Uncertain: ${sure}, or ${network.names[second]} with ${percent(shares[second])}`;
  }

  function percent(share) {
    return `${Math.min(Math.round(100 * share), share < 1 ? 99 : 100)} %`;
  }

  function showLine(line, label, shares) {
    const share = shares[label] ?? 0;
    line.hidden = label === undefined;
    line.style.setProperty("--share", share.toFixed(4));
    line.querySelector(".name").textContent = network.names[label] ?? "";
    line.querySelector(".percent").textContent = percent(share);
  }

  /** Return the network's input, Uint8Array [channel][row][column], of an image. One of the network's size is taken as
      it is; any other is cropped in its middle to the same shape and scaled, each pixel the mean over its area. */
  function pixelsOf(image) {
    const scale = Math.max(columns / image.width, rows / image.height);
    const [width, height] = [columns, rows].map((side) => Math.max(1, Math.round(side / scale)));
    const context = newContext(width, height);
    context.drawImage(image, Math.round((width - image.width) / 2), Math.round((height - image.height) / 2));
    const { data } = context.getImageData(0, 0, width, height);
    const [down, across] = [parts(rows, height), parts(columns, width)];
    const pixels = new Uint8Array(channels * rows * columns);
    const paper = paperOf(data);
    for (let row = 0, place = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++, place++) {
        const colour = meanOf(data, width, down[row], across[column], paper);
        if (channels === 1) pixels[place] = grey(colour);
        else colour.forEach((level, channel) => (pixels[channel * rows * columns + place] = level));
      }
    }
    return pixels;
  }

  /** Return for each of `count` equal parts of a side the places that it covers, each with the length covered. */
  function parts(count, length) {
    return Array.from({ length: count }, (_, part) => {
      const [start, end] = [(part * length) / count, ((part + 1) * length) / count];
      const first = Math.floor(start);
      return Array.from({ length: Math.ceil(end) - first }, (_, at) => first + at).map((at) => [
        at,
        Math.min(end, at + 1) - Math.max(start, at),
      ]);
    });
  }

  /** Return the mean colour of an area, laid on paper, in whole levels. */
  function meanOf(data, width, down, across, paper) {
    const sums = [0, 0, 0];
    let area = 0;
    for (const [row, high] of down) {
      for (const [column, wide] of across) {
        const at = 4 * (row * width + column);
        const alpha = data[at + 3];
        area += high * wide;
        for (let channel = 0; channel < 3; channel++) {
          sums[channel] += (high * wide * (data[at + channel] * alpha + paper * (255 - alpha))) / 255;
        }
      }
    }
    return sums.map((total) => Math.round(total / area));
  }

  /** Return what lies below transparent pixels: white below a dark picture, black below a light one. */
  function paperOf(data) {
    let [levels, weight] = [0, 0];
    for (let at = 0; at < data.length; at += 4) {
      levels += grey([data[at], data[at + 1], data[at + 2]]) * data[at + 3];
      weight += data[at + 3];
    }
    return levels < 128 * weight || !weight ? 255 : 0;
  }

  /** Return the grey level of a colour by the weights of ITU-R BT.601, rounded as Pillow rounds it. */
  function grey([red, green, blue]) {
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
  }

  function newContext(width, height) {
    return Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", {
      willReadFrequently: true,
    });
  }

  function showPicture(image) {
    const { canvas } = byId("picture").getContext("2d");
    const scale = image ? Math.min(1, SHOWN / Math.max(image.width, image.height)) : 1;
    canvas.width = Math.max(1, Math.round((image?.width ?? 1) * scale));
    canvas.height = Math.max(1, Math.round((image?.height ?? 1) * scale));
    if (image) canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    document.body.classList.toggle("drawn", Boolean(image));
  }

  function showSeen(pixels) {
    const places = rows * columns;
    const context = byId("seen").getContext("2d", { willReadFrequently: true });
    [context.canvas.width, context.canvas.height] = [columns, rows];
    const image = context.createImageData(columns, rows);
    for (let place = 0; place < places; place++) {
      for (let channel = 0; channel < 3; channel++) {
        image.data[4 * place + channel] = pixels?.[(channels === 1 ? 0 : channel) * places + place] ?? 0;
      }
      image.data[4 * place + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function take(files) {
    if (files?.length) read(files[0]);
  }

  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => {
    take([...byId("file").files]);
    byId("file").value = ""; // so that the same picture can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  lines.forEach((line) => (line.hidden = true));
  showSeen(null);
  byId("class").textContent = "–";
  byId("sure").textContent = "Nothing recognised yet";

  /** `kilonet verify` and tests use this. */
  window.kilonet = Object.freeze({ logits, answer, read, pixelsOf });
})();
