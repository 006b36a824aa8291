// The page for a network that reads no digits: takes a picture that is chosen, dropped, pasted or photographed, passes it
// to the reader, and shows and announces the result. The script before this one defines `makePictureReader(network)`; the
// reader's `read(file, image)`, where image is null for a file that this browser cannot decode, returns a promise of
// {problem}, a sentence, or of {pixels, shares, uncertain, objection}: the pixels that the network sees, the probability
// of each class, whether the answer is doubtful, and why it is none of the classes, if it is none.
"use strict";

(() => {
  const SHOWN = 512; // the longest side, in pixels, of the picture on the page
  const NOTHING = { problem: "Nothing recognised yet" };
  const byId = (id) => document.getElementById(id);
  const network = JSON.parse(byId("network").textContent);
  const reader = makePictureReader(network);
  const [channels, rows, columns] = network.input;
  const lines = [...byId("likely").children];
  const live = byId("live");
  let asked = 0; // number of the latest picture, or of the latest time that the camera was switched on or off

  async function read(file) {
    stopCamera();
    const number = ++asked;
    // The levels as they are in the file: no colour profile, none changed by transparency.
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const image = await createImageBitmap(file, options).catch(() => null);
    const found = await reader.read(file, image);
    if (number === asked) show(image, found);
    image?.close();
  }

  function show(image, found) {
    const shares = found.shares ?? [];
    const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
    const isOne = Boolean(found.shares && !found.objection);
    document.body.classList.toggle("found", isOne);
    document.body.classList.toggle("uncertain", Boolean(found.shares && (found.objection || found.uncertain)));
    byId("class").textContent = isOne ? network.names[order[0]] : found.shares ? "None of these" : "–";
    byId("sure").textContent = sentence(found, order);
    lines.forEach((line, place) => showLine(line, order[place], shares));
    showPicture(image);
    showSeen(found.pixels);
    byId("said").textContent = `${found.shares ? `${byId("class").textContent}. ` : ""}${byId("sure").textContent}`;
  }

  function sentence({ shares, uncertain, objection, problem }, [first, second]) {
    if (problem) return problem;
    if (objection) return `The nearest is ${network.names[first]} with ${percent(shares[first])}`;
    const next = second === undefined ? "" : `, then ${network.names[second]} with ${percent(shares[second])}`;
    return `${uncertain ? "Uncertain: " : ""}${percent(shares[first])} sure${next}`;
  }

  function percent(share) {
    return `${Math.min(Math.round(100 * share), share < 1 ? 99 : 100)}\u00a0%`;
  }

  function showLine(line, label, shares) {
    const share = shares[label] ?? 0;
    line.hidden = label === undefined;
    line.style.setProperty("--share", share.toFixed(4));
    line.querySelector(".name").textContent = network.names[label] ?? "";
    line.querySelector(".percent").textContent = percent(share);
  }

  function showPicture(image) {
    const context = byId("picture").getContext("2d");
    const scale = image ? Math.min(1, SHOWN / Math.max(image.width, image.height)) : 1;
    context.canvas.width = Math.max(1, Math.round((image?.width ?? 1) * scale));
    context.canvas.height = Math.max(1, Math.round((image?.height ?? 1) * scale));
    context.imageSmoothingQuality = "high";
    if (image) context.drawImage(image, 0, 0, context.canvas.width, context.canvas.height);
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
      image.data[4 * place + 3] = pixels ? 255 : 0;
    }
    context.putImageData(image, 0, 0);
  }

  function say(text) {
    byId("sure").textContent = byId("said").textContent = text;
  }

  /** Offer the camera: on a phone its own one, elsewhere a live picture, if there is a camera and the browser allows it. */
  async function offerCamera() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.().catch(() => [])) ?? [];
    byId("camera").hidden = Boolean(live.srcObject) || !(isPhone() || devices.some(({ kind }) => kind === "videoinput"));
  }

  function isPhone() {
    return matchMedia("(pointer: coarse)").matches;
  }

  async function startCamera() {
    if (isPhone()) return byId("shot").click();
    const number = ++asked;
    try {
      const video = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } };
      const stream = await navigator.mediaDevices.getUserMedia({ video });
      if (number !== asked) return stop(stream);
      show(null, { problem: "The camera is on" });
      live.srcObject = stream;
      stream.getVideoTracks()[0].addEventListener("ended", stopCamera);
      showCamera(true);
      byId("cancel").focus();
    } catch (error) {
      if (number !== asked) return;
      say(error.name === "NotAllowedError" ? "The camera is not allowed here; choose a picture" : "The camera does not start");
    }
  }

  function stopCamera() {
    if (!live.srcObject) return;
    asked++;
    stop(live.srcObject);
    live.srcObject = null;
    showCamera(false);
    show(null, NOTHING);
    byId("camera").focus();
  }

  function stop(stream) {
    for (const track of stream.getTracks()) track.stop();
  }

  function showCamera(isOn) {
    for (const id of ["live", "cancel"]) byId(id).hidden = !isOn;
    byId("take").hidden = true; // until there is a picture
    for (const id of ["picture", "choose", "camera"]) byId(id).hidden = isOn;
    document.body.classList.toggle("filming", isOn);
  }

  /** Read the frame that the camera shows, and switch it off. */
  async function takePicture() {
    const canvas = Object.assign(document.createElement("canvas"), { width: live.videoWidth, height: live.videoHeight });
    canvas.getContext("2d").drawImage(live, 0, 0);
    stopCamera();
    const number = asked;
    const file = await new Promise((done) => canvas.toBlob(done, "image/png"));
    if (number === asked) await read(file);
  }

  function take(files) {
    if (files?.length) read(files[0]);
  }

  for (const [button, input] of [["choose", "file"], [null, "shot"]]) {
    if (button) byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      take([...byId(input).files]);
      byId(input).value = ""; // so that the same picture can be chosen again
    });
  }
  byId("camera").addEventListener("click", startCamera);
  live.addEventListener("loadeddata", () => {
    if (!live.srcObject) return;
    byId("take").hidden = false;
    byId("take").focus();
  });
  byId("take").addEventListener("click", takePicture);
  byId("cancel").addEventListener("click", stopCamera);
  addEventListener("pagehide", stopCamera);
  document.addEventListener("keydown", ({ key }) => key === "Escape" && stopCamera());
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  navigator.mediaDevices?.addEventListener?.("devicechange", offerCamera);
  offerCamera();
  show(null, NOTHING);
  byId("said").textContent = ""; // nothing has happened

  /** `kilonet verify` and tests use this. */
  window.kilonet = Object.freeze({ ...reader, read });
})();
