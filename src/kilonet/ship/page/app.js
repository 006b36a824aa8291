// The page: draws, recognises, and says what it sees.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const network = JSON.parse(byId("network").textContent);
  const logits = integerNetwork(network);
  const drawing = new Drawing();
  const [paper, seen] = [byId("paper"), byId("seen").getContext("2d", { willReadFrequently: true })];
  const raster = Object.assign(document.createElement("canvas"), { width: RASTER, height: RASTER });
  const ink = raster.getContext("2d", { willReadFrequently: true });
  const bars = [...byId("bars").children];
  let pointer = null; // the one that is drawing
  let due = 0; // the frame that will show what has changed

  /** From strokes to {pixels, shares}, the shares of each digit adding up to one; null without a digit. */
  function recognise(strokes) {
    const drawn = inkOf(strokes, ink);
    const pixels = drawn && centred(drawn, RASTER, RASTER);
    return pixels && { pixels, shares: softmax(logits(pixels)) };
  }

  function softmax(values) {
    const largest = Math.max(...values);
    const powers = Array.from(values, (value) => Math.exp((value - largest) / 2 ** network.fraction_bits));
    const sum = powers.reduce((total, power) => total + power);
    return powers.map((power) => power / sum);
  }

  function show() {
    due = 0;
    const found = recognise(drawing.strokes);
    const order = found ? found.shares.map((_, digit) => digit).sort((a, b) => found.shares[b] - found.shares[a]) : [];
    byId("digit").textContent = found ? order[0] : "–";
    byId("sure").textContent = found ? sentence(found.shares, order) : "Nothing recognised yet";
    document.body.classList.toggle("found", Boolean(found));
    bars.forEach((bar, digit) => {
      const share = found ? found.shares[digit] : 0;
      bar.style.setProperty("--share", share.toFixed(4));
      bar.querySelector(".percent").textContent = percent(share);
      bar.classList.toggle("best", order[0] === digit);
    });
    showSeen(found?.pixels);
    showPaper();
    for (const [id, can] of [["undo", drawing.canUndo], ["clear", drawing.strokes.length]]) {
      byId(id).setAttribute("aria-disabled", String(!can));
    }
  }

  function sentence(shares, [first, second]) {
    if (shares[first] >= 0.9) return `${percent(shares[first])} sure`;
    return `${percent(shares[first])} sure, or ${second} with ${percent(shares[second])}`;
  }

  function percent(share) {
    return `${Math.min(Math.round(100 * share), share < 1 ? 99 : 100)} %`;
  }

  function showSeen(pixels) {
    const image = seen.createImageData(FIELD, FIELD);
    for (let place = 0; place < FIELD * FIELD; place++) {
      image.data.fill(pixels?.[place] ?? 0, 4 * place, 4 * place + 3);
      image.data[4 * place + 3] = 255;
    }
    seen.putImageData(image, 0, 0);
  }

  function showPaper() {
    const side = Math.round(paper.clientWidth * devicePixelRatio);
    if (paper.width !== side) paper.width = paper.height = side;
    const context = paper.getContext("2d");
    context.clearRect(0, 0, side, side);
    context.strokeStyle = getComputedStyle(paper).color;
    trace(context, drawing.strokes, PEN * side, side);
    document.body.classList.toggle("drawn", drawing.strokes.length > 0);
  }

  function changed() {
    due ||= requestAnimationFrame(show);
  }

  /** Say the result to a screen reader, once a stroke or a button is done. */
  function say() {
    cancelAnimationFrame(due);
    show();
    const found = document.body.classList.contains("found");
    const nothing = drawing.strokes.length ? "The paper shows no digit yet" : "The paper is empty";
    byId("said").textContent = found ? `${byId("digit").textContent}, ${byId("sure").textContent}` : nothing;
  }

  function pointOf({ clientX, clientY }) {
    const { left, top, width, height } = paper.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height].map((place) => Math.min(Math.max(place, 0), 1));
  }

  function lift(event) {
    if (event.pointerId !== pointer) return;
    pointer = null;
    say();
  }

  function act(name) {
    pointer = null;
    drawing[name]();
    say();
  }

  paper.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    event.preventDefault();
    pointer = event.pointerId;
    paper.setPointerCapture(pointer);
    drawing.begin(pointOf(event));
    changed();
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) drawing.extend(pointOf(each));
    changed();
  });
  // A touch that draws is no gesture: otherwise its end can swallow the tap that follows.
  paper.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) paper.addEventListener(end, lift);

  byId("undo").addEventListener("click", () => act("undo"));
  byId("clear").addEventListener("click", () => act("clear"));
  document.addEventListener("keydown", (event) => {
    const isUndo = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
    if (!isUndo && event.key !== "Escape") return;
    event.preventDefault();
    act(isUndo ? "undo" : "clear");
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  new ResizeObserver(changed).observe(paper);
  say();

  /** For tests and for `kilonet verify`. */
  window.kilonet = Object.freeze({ logits, centred, recognise: () => recognise(drawing.strokes) });
})();
