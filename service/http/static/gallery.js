// Several pictures: a tile each, counts by class, sorting, and the answers as a file.

import { csv } from "./csv.js";
import { byId, counted, make, named, percent } from "./dom.js";
import { calibrationOf, isUnknown, isUnsure, limitOf, noneOf } from "./trust.js";

const MAX_CLASSES = 12; // in the summary
const { compare } = new Intl.Collator(undefined, { numeric: true });
const best = ({ answer }) => answer?.predictions[0];
const isDone = ({ answer, trouble }) => Boolean(answer || trouble);
const probability = (item) => best(item)?.probability ?? 0;
const byKind = (a, b) => kind(a) - kind(b); // unknown pictures follow known ones, those without an answer come last
const kind = ({ answer }) => (!answer ? 2 : isUnknown(answer) ? 1 : 0);

const ORDERS = {
  chosen: () => 0,
  name: (a, b) => compare(a.file.name, b.file.name),
  class: (a, b) => byKind(a, b) || compare(best(a)?.label, best(b)?.label) || probability(b) - probability(a),
  probability: (a, b) => byKind(a, b) || probability(b) - probability(a),
};

let items = [];
let model; // that answers
let open = () => {}; // opens the large view of an item

/** Makes the tiles of `all`; `enlarge` opens the large view of one. */
export function fillGallery(all, chosen, enlarge) {
  items = all;
  model = chosen;
  open = enlarge;
  byId("gallery-title").textContent = `${items.length} pictures`;
  byId("gallery-limit").textContent = [limitOf(model), calibrationOf(model)].filter(Boolean).join(" ");
  byId("progress").max = items.length;
  for (const item of items) item.tile = make("li.tile");
  sort();
  items.forEach(fillTile);
  summarize();
}

/** Updates the tile of `item`. */
export function updateGallery(item) {
  if (!item.tile) return;
  fillTile(item);
  summarize();
  if (items.every(isDone)) sort();
}

function fillTile(item) {
  const { file, url, answer, trouble, waits } = item;
  const first = best(item);
  const bar = make("span.bar", { "aria-hidden": "true" });
  bar.style.setProperty("--share", first?.probability ?? 0);
  const lines = isUnknown(answer)
    ? [make("span.label", {}, noneOf(model)), make("span.value", {}, `most like ${named(first.label)}`)]
    : answer
    ? [make("span.label", {}, named(first.label)),
       make("span.value", {}, percent(first.probability), isUnsure(answer) && make("span.doubt", {}, ", unsure")), bar]
    : trouble
      ? [make("span.label.wrong", {}, trouble.title), make("span.reason", {}, trouble.text)]
      : [make("span.label.pending", {}, waits ?? "…")];
  const had = item.tile.querySelector("img, .unshown");
  const photo = had ?? make("img", { src: url, alt: "", loading: "lazy", decoding: "async" });
  if (!had) photo.addEventListener("error", () => photo.replaceWith(make("span.unshown", {}, "Cannot be shown")));
  const focused = item.tile.contains(document.activeElement);
  const button = make("button.open", { type: "button", click: () => open(item), "aria-busy": !answer && !trouble && "true" },
    photo, make("span.lines", {}, ...lines, make("span.file", { title: file.name }, file.name)));
  item.tile.replaceChildren(button);
  if (focused) button.focus();
}

function summarize() {
  const done = items.filter(isDone).length;
  byId("progress").value = done;
  byId("progress").hidden = done === items.length;
  byId("download").disabled = done < items.length;

  const counts = new Map();
  for (const item of items) {
    if (kind(item) === 0) counts.set(best(item).label, (counts.get(best(item).label) ?? 0) + 1);
  }
  const classes = [...counts].sort(([a, m], [b, n]) => n - m || compare(a, b));
  const more = classes.length - MAX_CLASSES;
  const unsure = items.filter(({ answer }) => answer && isUnsure(answer)).length;
  const unknown = items.filter(({ answer }) => isUnknown(answer)).length;
  const failed = items.filter(({ trouble }) => trouble).length;
  byId("summary").replaceChildren(
    ...classes.slice(0, MAX_CLASSES).map(([label, count]) => make("li", {}, make("b", {}, count), ` ${named(label)}`)),
    ...(more > 0 ? [make("li", {}, `and ${counted(more, "other class", "other classes")}`)] : []),
    ...(unsure ? [make("li.doubt", {}, make("b", {}, unsure), " of them unsure")] : []),
    ...(unknown ? [make("li.doubt", {}, make("b", {}, unknown), ` ${noneOf(model).toLowerCase()}`)] : []),
    ...(failed ? [make("li.wrong", {}, make("b", {}, failed), " failed")] : []),
  );
}

const sorted = () => [...items].sort(ORDERS[byId("order").value]);

function sort() {
  const focused = document.activeElement;
  byId("grid").replaceChildren(...sorted().map(({ tile }) => tile));
  if (byId("grid").contains(focused)) focused.focus({ preventScroll: true });
}

function download() {
  const url = URL.createObjectURL(new Blob([csv(sorted())], { type: "text/csv" }));
  make("a", { href: url, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // not before the browser has read it
}

byId("order").addEventListener("change", sort);
byId("download").addEventListener("click", download);
