// Make elements without markup: texts of files and servers are only ever inserted as text.

/** Makes an element: `make("a.b", {href}, "text", child)`. Functions become event listeners. */
export function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

const NARROW = "\u202f"; // narrow no-break space

export function percent(probability) {
  if (probability > 0 && probability < 0.001) return `<${NARROW}0.1${NARROW}%`;
  if (probability < 1 && probability > 0.9995) return `>${NARROW}99.9${NARROW}%`;
  return `${(probability * 100).toFixed(1)}${NARROW}%`;
}

export const whole = (share) => `${Math.round(share * 100)}${NARROW}%`;

export const milliseconds = (ms) => `${ms.toFixed(ms < 100 ? 1 : 0)}${NARROW}ms`;

export const counted = (count, one, many) => `${count} ${count === 1 ? one : many}`;

export const named = (label) => label.replaceAll("_", " ");

/** Announces a sentence to screen readers, also if it is the same as the last. */
export function say(text) {
  const place = byId("say");
  place.textContent = "";
  setTimeout(() => (place.textContent = text), 50);
}
