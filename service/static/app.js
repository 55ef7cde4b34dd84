// What happens: which pictures there are, what was asked about them, what is shown.

import { Trouble, ask, askForJson, key } from "./api.js";
import { byId, make, named, percent, say } from "./dom.js";
import { takePictures } from "./intake.js";
import { render } from "./markdown.js";
import { fillResult, fillTile } from "./view.js";

// One request per picture and not one for all: each answer is shown as it arrives, the limit of bytes and
// the errors are those of one picture, and the server forms its batches from whatever is under way.
// A browser opens six connections to a server; this leaves two for what else is asked.
const AT_ONCE = 4;

let models = [];
let items = []; // {file, url, answer, trouble, seconds, tile, heat}
let early = []; // files that were chosen before a model was known
let shown = null; // the item of the large view
let round = new AbortController(); // aborted when other pictures take the place of these

// ---------------------------------------------------------------- models and their key

async function loadModels() {
  byId("trouble").hidden = true;
  try {
    models = await askForJson("models");
  } catch (trouble) {
    models = [];
    open(false);
    if (trouble.code === "unauthorized") return askForKey();
    return showTrouble(trouble);
  }
  byId("key-form").hidden = true;
  byId("forget-key").hidden = !key.get();
  byId("docs").parentElement.hidden = Boolean(key.get());
  const twice = (model) => models.filter(({ name }) => name === model.name).length > 1;
  byId("model").replaceChildren(
    ...models.map((model, index) =>
      make("option", { value: index }, twice(model) ? `${model.name}, version ${model.version}` : model.name)),
  );
  byId("model-choice").hidden = models.length < 2;
  open(models.length > 0);
  if (models.length) {
    showModel();
    if (early.length) look(early);
  } else showTrouble(new Trouble("No model is served", "Ask whoever runs this server.", { again: true }));
}

const chosen = () => models[Number(byId("model").value) || 0];

/** Of the model that was chosen, where there is a choice. */
function query(more = {}) {
  const { name, version } = chosen();
  const parameters = new URLSearchParams(more);
  if (models.length > 1) parameters.set("model", name);
  if (models.filter((model) => model.name === name).length > 1) parameters.set("version", version);
  return `${parameters}` && `?${parameters}`;
}

function open(yes) {
  for (const id of ["files", "camera"]) byId(id).disabled = !yes;
  byId("intake").classList.toggle("closed", !yes);
  byId("about").hidden = !yes;
  if (!yes) byId("lead").textContent = "It names what a photograph shows, and says how sure it is.";
}

function showModel() {
  const model = chosen();
  const { classes } = model;
  byId("lead").textContent = classes.length > 30
    ? `${model.name} tells ${classes.length} kinds apart, and knows nothing else.`
    : `${model.name} tells ${classes.length} kinds apart, and knows nothing else: ${
        classes.slice(0, -1).map(named).join(", ")} and ${named(classes.at(-1))}.`;

  const facts = [["Name", `${model.name}, version ${model.version}`], ["Classes", classes.length]];
  for (const { top1, images, crops } of model.metrics) {
    if (top1 == null) continue;
    const how = crops > 1 ? `, by ${crops} crops` : "";
    facts.push([`Right${how}`, `${(top1 * 100).toFixed(1)}\u202f%${images ? ` of ${images} pictures` : ""}`]);
  }
  facts.push(["SHA-256", make("code", { title: model.sha256 }, `${model.sha256.slice(0, 12)}…`)]);
  byId("facts").replaceChildren(
    ...facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  byId("card").replaceChildren(
    model.card ? render(model.card) : make("p.muted", {}, "This model has no card."));
  showFilters(model);
}

async function showFilters(model) {
  byId("filters").hidden = true;
  try {
    const path = `models/${encodeURIComponent(model.name)}/filters.png?version=${model.version}`;
    const picture = await (await ask(path)).blob();
    if (model !== chosen()) return;
    const image = byId("filters-picture");
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(picture);
    image.alt = `The kernels of ${model.name}'s first convolution`;
    byId("filters").hidden = false;
  } catch {
    // An ornament: without it, the page still says all that matters.
  }
}

function askForKey() {
  const refused = key.get() !== "";
  key.forget();
  byId("forget-key").hidden = true;
  byId("docs").parentElement.hidden = true; // a link cannot carry a key
  byId("key-form").hidden = false;
  byId("key-wrong").textContent = refused ? "The server does not know this key. Check it, and enter it again." : "";
  byId("key").setAttribute("aria-invalid", refused);
  byId("key").select();
  say(refused ? byId("key-wrong").textContent : "This server asks for an API key.");
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = byId("key").value.trim();
  if (!/^[ -~]+$/.test(value)) { // else no header can carry it
    byId("key-wrong").textContent = "A key has no letters with accents or from other scripts. Enter it again.";
    byId("key").setAttribute("aria-invalid", true);
    return say(byId("key-wrong").textContent);
  }
  key.set(value);
  loadModels().then(() => {
    if (!models.length) return;
    byId("key").value = "";
    byId("files").focus();
    say("The key is taken.");
  });
});
byId("forget-key").addEventListener("click", () => {
  key.forget();
  clear();
  loadModels();
});
byId("model").addEventListener("change", () => {
  showModel();
  if (items.length) look(items.map(({ file }) => file));
});

function showTrouble(trouble) {
  byId("trouble").hidden = false;
  byId("trouble-title").textContent = trouble.title;
  byId("trouble-text").textContent = trouble.text;
  byId("trouble-retry").hidden = !trouble.again;
  say(`${trouble.title}. ${trouble.text}`);
}
byId("trouble-retry").addEventListener("click", loadModels);

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

/** Asks about all `files`, and shows what comes back. */
async function look(files) {
  if (!models.length) {
    early = files; // the page says already what it waits for
    return;
  }
  clear();
  const { signal } = round;
  items = files.map((file) => ({ file, url: URL.createObjectURL(file), heat: new Map() }));
  document.body.classList.add("looking");
  if (items.length === 1) show(items[0]);
  else showGallery();
  scrollTo({ top: 0 });

  const waiting = [...items];
  const worker = async () => {
    for (let item; (item = waiting.shift()) && !signal.aborted; ) await answer(item, signal);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (signal.aborted || items.length === 1) return;
  const failed = items.filter(({ trouble }) => trouble).length;
  const done = items.length - failed;
  say(`${done} of ${items.length} pictures answered${failed ? `, ${failed} not: each says why` : ""}.`);
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
    item.answer = await askForJson(`predict${query()}`, { body: item.file, signal, busy });
    item.ms = performance.now() - began;
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Trouble)) throw error;
    if (error.code === "unauthorized") {
      clear();
      open(false);
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
  const then = second ? ` Next: ${named(second.label)}, ${percent(second.probability)}.` : "";
  const unsure = first.probability < 0.5 ? "The model is unsure. " : "";
  return `${unsure}${named(first.label)}, ${percent(first.probability)}.${then}`;
}

function update(item) {
  if (item === shown) show(item);
  if (item.tile) fillTile(item, () => enlarge(item));
  const done = items.filter(({ answer: a, trouble }) => a || trouble).length;
  byId("progress").value = done;
  byId("progress").hidden = done === items.length;
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
  fillResult(byId("result"), item, chosen(), `predict${query()}`, { ...callbacks, back });
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
  byId("gallery-title").textContent = `${items.length} pictures`;
  byId("progress").max = items.length;
  if (items[0].tile) return;
  byId("grid").replaceChildren(...items.map((item) => (item.tile = make("li.tile"))));
  for (const item of items) fillTile(item, () => enlarge(item));
}

takePictures({
  look,
  wanted: () => models.length > 0,
  noFile: () => showTrouble(new Trouble("That was no file", "Save the picture first, then drop the file here.")),
});
loadModels();
