// From logits to an answer by the model's calibration, as docs/EXPORT.md of Kilonet describes it.
"use strict";

/** Return the function answer(logits) of a network as the exporter writes it: Int32Array to {shares, uncertain,
    objection}: the probability of each class, whether the answer is doubtful, and why the image is none of the classes,
    if it is none. */
function answering({ fraction_bits: bits, digits, calibration: { temperature, sure_from: sureFrom, energy_from: energyFrom, rejects } }) {
  return function answer(logits) {
    const values = Array.from(logits, (logit) => logit / 2 ** bits);
    const largest = Math.max(...values);
    const shares = softmax(values.map((value) => (value - largest) / temperature));
    const energy = largest + Math.log(sum(values.map((value) => Math.exp(value - largest))));
    const isStrange = energyFrom !== null && energy < energyFrom;
    const uncertain = isStrange || Math.max(...shares) < sureFrom;
    return { shares, uncertain, objection: objectionTo(isStrange, uncertain) };
  };

  function objectionTo(isStrange, uncertain) {
    if (isStrange && digits) return "unlike the images it was trained on";
    return rejects && uncertain ? "none of these" : null;
  }
}

function softmax(values) {
  const powers = values.map(Math.exp);
  const total = sum(powers);
  return powers.map((power) => power / total);
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
