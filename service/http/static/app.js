// The state of the page: the pictures, their requests, and the current view.

import { Trouble, ask, askForJson } from "./api.js";
import { byId, named, percent, say } from "./dom.js";
import { fillGallery, updateGallery } from "./gallery.js";
import { takePictures } from "./intake.js";
import { askForKey, chosen, hasModels, predictPath, query, showTrouble, startModels } from "./models.js";
import { isUnknown, isUnsure, noneOf, setOf, unfamiliarOf } from "./trust.js";
import { fillResult } from "./view.js";

// One request per picture: each answer is shown as it arrives, limits and errors concern one picture, and the
// server forms batches from all requests in flight. A browser opens six connections to a server; two are left
// for other requests.
const AT_ONCE = 4;

let items = []; // {file, url, answer, trouble, ms, waits, tile, heat}
let early = []; // files chosen before the models were known
let shown = null; // the item of the large view
let round = new AbortController(); // aborted when other pictures replace these

// ---------------------------------------------------------------- pictures

function clear() {
  round.abort();
  round = new AbortController();
  for (const item of items) {
    URL.revokeObjectURL(item.url);
    for (const url of item.heat.values()) URL.revokeObjectURL(url);
  }
  items = [];
  early = [];
  shown = null;
  byId("trouble").hidden = byId("gallery").hidden = byId("result").hidden = true;
  document.body.classList.remove("looking");
}

/** Classifies all `files` and shows the answers. */
async function look(files) {
  if (!hasModels()) {
    early = files; // the page already says that it waits
    return;
  }
  clear();
  const { signal } = round;
  items = files.map((file) => ({ file, url: URL.createObjectURL(file), heat: new Map() }));
  document.body.classList.add("looking");
  if (items.length === 1) show(items[0]);
  else {
    fillGallery(items, chosen(), enlarge);
    showGallery();
  }
  scrollTo({ top: 0 });

  const waiting = [...items];
  const worker = async () => {
    for (let item; (item = waiting.shift()) && !signal.aborted; ) await answer(item, signal);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (signal.aborted || items.length === 1) return;
  const failed = items.filter(({ trouble }) => trouble).length;
  const unknown = items.filter((item) => isUnknown(item.answer)).length;
  const done = items.length - failed;
  say(`${done} of ${items.length} pictures answered${failed ? `, ${failed} not: each says why` : ""}.`
    + `${unknown ? ` ${unknown}: ${noneOf(chosen()).toLowerCase()}.` : ""}`);
}

async function answer(item, signal) {
  item.trouble = item.answer = item.waits = null;
  update(item);
  const began = performance.now();
  try {
    const busy = (seconds) => {
      item.waits = `The server is busy; asking again in ${seconds} s.`;
      update(item);
    };
    item.answer = await askForJson(predictPath(), { body: item.file, signal, busy });
    item.ms = performance.now() - began;
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Trouble)) throw error;
    if (error.code === "unauthorized") {
      clear();
      askForKey();
      return;
    }
    item.trouble = error;
  }
  update(item);
  if (items.length === 1) say(spoken(item));
}

function spoken({ answer, trouble }) {
  if (trouble) return `${trouble.title}. ${trouble.text}`;
  const [first, second] = answer.predictions;
  if (isUnknown(answer)) return `${noneOf(chosen())}. Most like ${named(first.label)}. ${unfamiliarOf(answer)}`;
  const set = setOf(answer);
  const then = second ? ` Next: ${named(second.label)}, ${percent(second.probability)}.` : "";
  return `${isUnsure(answer) ? "The model is unsure. " : "Nearest class: "}${named(first.label)}, `
    + `${percent(first.probability)}.${then}${set && ` ${set}.`}`;
}

function update(item) {
  if (item === shown) show(item);
  updateGallery(item);
}

// ---------------------------------------------------------------- views

const callbacks = {
  again: (item) => answer(item, round.signal),
  back: () => {
    const { tile } = shown;
    showGallery();
    tile.querySelector("button").focus();
  },
  heat: async (item, label) => {
    if (!item.heat.has(label)) {
      const path = `explain${query({ label, format: "png" })}`;
      const picture = await (await ask(path, { body: item.file, signal: round.signal })).blob();
      item.heat.set(label, URL.createObjectURL(picture));
    }
    return item.heat.get(label);
  },
};

function show(item) {
  shown = item;
  byId("gallery").hidden = true;
  byId("result").hidden = false;
  const back = items.length > 1 && callbacks.back;
  const focused = byId("result").contains(document.activeElement);
  fillResult(byId("result"), item, chosen(), predictPath(), { ...callbacks, back });
  if (focused) byId("answer").focus();
}

function enlarge(item) {
  show(item);
  scrollTo({ top: 0 });
  byId("answer").focus();
}

function showGallery() {
  shown = null;
  byId("result").hidden = true;
  byId("gallery").hidden = false;
}

takePictures({ look, wanted: hasModels, failed: showTrouble });
startModels({
  ready: () => early.length && look(early),
  changed: () => items.length && look(items.map(({ file }) => file)),
  left: clear,
});
