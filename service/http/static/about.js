// Describe the model: the lead, three facts and, folded, its card, accuracies and filters.

import { ask } from "./api.js";
import { byId, counted, make, named } from "./dom.js";
import { render } from "./markdown.js";
import { trustFacts } from "./trust.js";

let current = null; // the model shown

export function showModel(model) {
  current = model;
  const { name, version, classes, metrics, sha256, card, trust } = model;
  const known = `${name} chooses among ${counted(classes.length, "class", "classes")}, `
    + (trust?.familiarity ? "or says that a picture shows none of them" : "and knows nothing else");
  byId("lead").textContent = classes.length < 2 || classes.length > 30
    ? `${known}.`
    : `${known}: ${classes.slice(0, -1).map(named).join(", ")} and ${named(classes.at(-1))}.`;

  const measured = metrics.filter(({ top1 }) => top1 != null);
  const plain = measured.find(({ crops }) => !(crops > 1)) ?? measured[0];
  byId("about-title").textContent = `About the model ${name}`;
  define(byId("facts"), [
    ["Accuracy", plain ? rate(plain.top1, plain.images) : "Not measured"],
    ["Classes", classes.length],
    ["Version", version],
  ]);
  define(byId("measured"), [
    ...measured.flatMap(({ data, images, crops, top1, top5 }) => {
      const how = [data && ` on ${data}`, crops > 1 && `, mean of ${crops} crops`].filter(Boolean).join("");
      return [
        [`First answer right${how}`, rate(top1, images)],
        ...(top5 == null ? [] : [[`Right answer among the first five${how}`, rate(top5, images)]]),
      ];
    }),
    ...(trust ? trustFacts(trust) : []),
    ["SHA-256 of the file", make("code", {}, sha256)],
  ]);
  byId("card").replaceChildren(card ? render(card) : make("p.muted", {}, "This model has no card."));
  showFilters(model);
}

const rate = (share, images) => `${(share * 100).toFixed(1)}\u202f%${images ? ` of ${images} pictures` : ""}`;

const define = (list, facts) =>
  list.replaceChildren(...facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));

async function showFilters(model) {
  byId("filters").hidden = true;
  try {
    const path = `models/${encodeURIComponent(model.name)}/filters.png?version=${model.version}`;
    const picture = await (await ask(path)).blob();
    if (model !== current) return;
    const image = byId("filters-picture");
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(picture);
    image.alt = `The kernels of ${model.name}'s first convolution`;
    byId("filters").hidden = false;
  } catch {
    // Optional: without the picture of the filters the page is still complete.
  }
}
