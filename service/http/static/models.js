// The served models, the chosen one, and the API key if the server requires one.

import { showModel } from "./about.js";
import { Trouble, askForJson, key, storage } from "./api.js";
import { byId, make, say } from "./dom.js";
import { setParameters } from "./trust.js";

const CHOICE = "model"; // key in the tab's storage: the title of the chosen model

let models = [];
let on = {}; // {ready, changed, left}: models are known; another was chosen; the key was forgotten

export function startModels(callbacks) {
  on = callbacks;
  load();
}

export const hasModels = () => models.length > 0;

export const chosen = () => models[Number(byId("model").value) || 0];

/** Returns the query for the chosen model, if there are several. */
export function query(more = {}) {
  const { name, version } = chosen();
  const parameters = new URLSearchParams(more);
  if (models.length > 1) parameters.set("model", name);
  if (hasVersions(name)) parameters.set("version", version);
  return `${parameters}` && `?${parameters}`;
}

export const predictPath = () => `predict${query(setParameters(chosen()))}`;

const hasVersions = (wanted) => models.filter(({ name }) => name === wanted).length > 1;

const title = ({ name, version }) => (hasVersions(name) ? `${name}, version ${version}` : name);

async function load() {
  byId("trouble").hidden = true;
  let first;
  try {
    // Without /health, the first model of the list is the default.
    [models, first] = await Promise.all([
      askForJson("models"), askForJson("health").then(({ model }) => model, () => null)]);
  } catch (trouble) {
    models = [];
    open(false);
    if (trouble.code === "unauthorized") return askForKey();
    return showTrouble(trouble);
  }
  byId("key-form").hidden = true;
  byId("forget-key").hidden = !key.get();
  byId("docs").parentElement.hidden = Boolean(key.get());
  byId("model").replaceChildren(...models.map((model, index) => make("option", { value: index }, title(model))));
  byId("model-choice").hidden = models.length < 2;
  const kept = storage(() => sessionStorage.getItem(CHOICE));
  const index = models.findIndex((model) => title(model) === kept);
  byId("model").value = index >= 0 ? index : Math.max(0, models.findIndex(({ name, version }) =>
    name === first?.name && version === first.version));
  open(hasModels());
  if (!hasModels()) return showTrouble(new Trouble("No model is served", "Ask the administrator of this server.", { again: true }));
  showModel(chosen());
  on.ready();
}

function open(yes) {
  for (const id of ["files", "camera"]) byId(id).disabled = !yes;
  byId("intake").classList.toggle("closed", !yes);
  byId("about").hidden = !yes;
  if (!yes) byId("lead").textContent = "It names what a photograph shows, and says how sure it is.";
}

byId("model").addEventListener("change", () => {
  storage(() => sessionStorage.setItem(CHOICE, title(chosen())));
  showModel(chosen());
  on.changed();
});

// ---------------------------------------------------------------- the key

export function askForKey() {
  open(false);
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
  if (!/^[ -~]+$/.test(value)) { // other characters are not valid in a header
    byId("key-wrong").textContent = "A key has no letters with accents or from other scripts. Enter it again.";
    byId("key").setAttribute("aria-invalid", true);
    return say(byId("key-wrong").textContent);
  }
  key.set(value);
  load().then(() => {
    if (!hasModels()) return;
    byId("key").value = "";
    byId("files").focus();
    say("The key is taken.");
  });
});
byId("forget-key").addEventListener("click", () => {
  key.forget();
  on.left();
  load();
});

// ---------------------------------------------------------------- errors that concern all pictures

export function showTrouble(trouble) {
  byId("trouble").hidden = false;
  byId("trouble-title").textContent = trouble.title;
  byId("trouble-text").textContent = trouble.text;
  byId("trouble-retry").hidden = !trouble.again;
  say(`${trouble.title}. ${trouble.text}`);
}
byId("trouble-retry").addEventListener("click", load);
