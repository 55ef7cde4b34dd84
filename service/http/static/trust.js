// Put into words what a model's `trust` and an answer say about when to rely on it.
// `trust` is null for files without it; nothing is claimed for them.

import { counted, named, percent, whole } from "./dom.js";

const COVERAGE = 0.9; // of the prediction sets that are asked for

/** Returns the parameters of /predict by which the model answers with a prediction set, if it can. */
export const setParameters = ({ trust }) =>
  COVERAGE.toFixed(2) in (trust?.quantiles ?? {}) ? { coverage: COVERAGE } : {};

export const isUnknown = (answer) => answer?.known === false;

export const isUnsure = (answer) => !isUnknown(answer) && answer.predictions[0].probability < 0.5;

export const noneOf = ({ classes }) => `None of the ${classes.length}`;

/** Shown with every answer: the probabilities for a picture of anything else add up to 1, too. */
export const limitOf = ({ classes, trust }) => {
  const among = `It chooses among ${counted(classes.length, "class", "classes")}`;
  return trust?.familiarity
    ? `${among} or none. Other things can pass as one.`
    : `${among}. A picture of anything else gets ${classes.length === 1 ? "it too" : "the nearest of them"}.`;
};

export const calibrationOf = ({ trust }) => trust
  && `Percentages are calibrated: of photographs answered with ${whole(0.7)}, about ${whole(0.7)} were right`
    + ` (off by ${points(trust.ece.value)} points on average).`;

export const doubtOf = ({ trust }) => trust?.familiarity
  ? `No class gets more than ${whole(0.5)}.`
  : "A model of flowers names a flower even for a cat.";

/** Rounds down, to 99 % at most: 1 only means all the photographs that were measured. */
export const unfamiliarOf = ({ unfamiliarity }) =>
  "This picture is unlike the training photographs: less familiar to the model than "
  + `${whole(Math.min(Math.floor(unfamiliarity * 100), 99) / 100)} of new ones like them.`;

/** Returns the prediction set of a known picture in words; nothing without one. */
export function setOf({ set }) {
  if (!set) return "";
  return set.length
    ? `${whole(COVERAGE)} set: ${set.map(named).join(", ")}`
    : `No class is probable enough for the ${whole(COVERAGE)} set`;
}

export const setMeaning = `For ${COVERAGE * 10} of 10 photographs like the training ones, the set has the true class.`;

const points = (share) => (share * 100).toFixed(1);

const interval = ({ low, high }, write) => `${write(low)} to ${write(high)}`;

/** Returns terms and descriptions of what was measured on photographs held out of the training. */
export function trustFacts({ photographs, ece_before: before, ece, sets, familiarity }) {
  const set = sets.find(({ coverage }) => coverage === COVERAGE);
  return [
    ["Calibration error",
      `Percentage and share that was right differ by ${points(ece.value)} points on average, before calibration `
      + `by ${points(before.value)} (${whole(0.95)} intervals ${interval(ece, points)} and `
      + `${interval(before, points)}); ${photographs} held-out photographs`],
    ...(set ? [[`${whole(COVERAGE)} set`,
      `${set.mean_size.toFixed(1)} classes on average; has the true one for `
      + `${percent(set.achieved.value)} of the photographs (${interval(set.achieved, percent)})`]] : []),
    ...(familiarity ? [["Held-out photographs that it knows",
      `${percent(familiarity.known.value)} (${interval(familiarity.known, percent)})`]] : []),
    ...(familiarity?.unfamiliar ?? []).map(({ data, images, auroc, known_and_probable: wrong }) => [
      `Pictures of anything else: ${named(data)}`,
      `A picture of ${named(data)} was more unfamiliar than a held-out photograph in ${percent(auroc)} of pairs; `
      + `${percent(wrong)} of ${images} pictures passed as a class with more than ${whole(0.5)}`]),
  ];
}
