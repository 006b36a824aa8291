// Asks the service that this page came from.
"use strict";

/** Return the answer to an image file as a reader gives it; null for no file. */
async function answerTo(file) {
  if (!file) return null;
  try {
    const response = await fetch("predict", { method: "POST", body: file });
    const { error: problem, class: label, probabilities: shares, no_digit: reason, seen, ...rest } = await response.json();
    if (!response.ok) return { problem };
    const objection = label === null ? (reason ?? "none of these") : null;
    return { shares, uncertain: rest.uncertain, objection, pixels: seen.flat(2), box: rest.box };
  } catch {
    return { problem: "The service does not answer" };
  }
}
