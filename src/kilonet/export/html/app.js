// The page: shows the drawing, passes it to the reader, and shows and announces the result. The script before this one
// defines `makeReader(drawing, settle)`; a reader may change the drawing and then call `settle`. The reader's
// `read(drawing, done)` calls `done` with null if there is nothing to read, with {problem}, a sentence, or with
// {pixels, shares, uncertain, objection}: the pixels that the network sees, the probability of each digit, whether the
// result is doubtful, and why the drawing is no digit, if it is none. It may call `done` late, and need not call it for
// every drawing.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const drawing = new Drawing();
  const reader = makeReader(drawing, settle);
  const [paper, seen] = [byId("paper"), byId("seen").getContext("2d", { willReadFrequently: true })];
  const bars = [...byId("bars").children];
  const names = bars.map((bar) => bar.querySelector(".name").textContent);
  let pointer = null; // id of the pointer that is drawing
  let frame = 0; // id of the requested animation frame; 0 if none is requested
  let [asked, answered] = [0, 0]; // numbers of the latest drawing given to the reader and of the latest result
  let silent = true; // false from the end of a stroke or an action until its result is announced

  function show() {
    frame = 0;
    showPaper();
    for (const [id, can] of [["undo", drawing.canUndo], ["clear", !drawing.isBlank]]) {
      byId(id).setAttribute("aria-disabled", String(!can));
    }
    const number = ++asked;
    reader.read(drawing, (found) => showFound(found, number));
  }

  function showFound(found, number) {
    if (number < answered) return;
    answered = number;
    const isDigit = Boolean(found?.shares && !found.objection);
    const shares = isDigit ? found.shares : [];
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
    byId("digit").textContent = isDigit ? names[order[0]] : "–";
    byId("sure").textContent = found ? sentence(found, order) : "Nothing recognised yet";
    document.body.classList.toggle("found", isDigit);
    document.body.classList.toggle("uncertain", Boolean(isDigit && found.uncertain));
    bars.forEach((bar, digit) => showBar(bar, shares[digit] ?? 0, order[0] === digit));
    showSeen(found?.pixels);
    if (number === asked && !silent) announce(isDigit, found);
  }

  function showBar(bar, share, isBest) {
    bar.style.setProperty("--share", share.toFixed(4));
    bar.querySelector(".percent").textContent = percent(share);
    bar.classList.toggle("best", isBest);
  }

  function sentence({ shares, uncertain, objection, problem }, [first, second]) {
    if (problem) return problem;
    if (objection) return `No digit: ${objection}`;
    const sure = `${percent(shares[first])} sure`;
    if (!uncertain && shares[first] >= 0.9) return sure;
    return `${uncertain ? "Uncertain: " : ""}${sure}, or ${names[second]} with ${percent(shares[second])}`;
  }

  function percent(share) {
    return `${Math.min(Math.round(100 * share), share < 1 ? 99 : 100)} %`;
  }

  function showSeen(pixels) {
    const { width, height } = seen.canvas;
    const image = seen.createImageData(width, height);
    for (let place = 0; place < width * height; place++) {
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
    if (drawing.photo) lay(context, drawing.photo.image, side);
    context.strokeStyle = getComputedStyle(paper).color;
    trace(context, drawing.strokes, PEN * side, side);
    document.body.classList.toggle("drawn", !drawing.isBlank);
  }

  function requestShow() {
    frame ||= requestAnimationFrame(show);
  }

  /** Announce the result to screen readers, after a stroke or an action. */
  function announce(isDigit, found) {
    silent = true;
    const nothing = drawing.isBlank ? "The paper is empty" : "The paper shows no digit yet";
    const sure = byId("sure").textContent;
    byId("said").textContent = isDigit ? `${byId("digit").textContent}, ${sure}` : found ? sure : nothing;
  }

  function settle() {
    cancelAnimationFrame(frame);
    silent = false;
    show();
  }

  function pointOf({ clientX, clientY }) {
    const { left, top, width, height } = paper.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height].map((place) => Math.min(Math.max(place, 0), 1));
  }

  function lift(event) {
    if (event.pointerId !== pointer) return;
    pointer = null;
    settle();
  }

  function act(name) {
    pointer = null;
    drawing[name]();
    settle();
  }

  paper.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    event.preventDefault();
    pointer = event.pointerId;
    paper.setPointerCapture(pointer);
    drawing.begin(pointOf(event));
    requestShow();
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) drawing.extend(pointOf(each));
    requestShow();
  });
  // Without this a browser may take a drawing touch for a gesture and swallow the next tap.
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", requestShow);
  new ResizeObserver(requestShow).observe(paper);
  settle();

  /** `kilonet verify` and tests use this. */
  window.kilonet = Object.freeze({ ...reader, recognise: () => reader.recognise(drawing) });
})();
