// Render the Markdown that model cards use: headings, paragraphs, lists, tables, fenced code; inline code,
// strong, emphasis and links. Everything becomes nodes and text, never markup, and links lead to the web
// only. Cards are untrusted, so the time must be linear in their length: no part of INLINE matches across the
// character that it begins with, and lines are read by index, not removed from an array.

import { make } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^[\]]+)\]\(([^()\s]+)\)/g;
const BREAKS = /^(#{1,6} |```|\s*[-*+] |\s*\d+[.)] |\|)/; // ends a paragraph without a blank line
const MAX_COLUMNS = 50; // a table is laid out in the time of its rows times its columns
const MAX_SPANS = 10_000; // of a line, each an argument of one call

/** Renders `text` to a fragment; its top headings get `level`. */
export function render(text, level = 3) {
  const lines = new Lines(text.replaceAll("\r", "").split("\n"));
  const fragment = document.createDocumentFragment();
  for (let line; (line = lines.first) !== undefined; ) {
    if (!line.trim()) lines.next();
    else if (line.startsWith("```")) fragment.append(fenced(lines));
    else if (/^#{1,6} /.test(line)) fragment.append(heading(lines.next(), level));
    else if (line.startsWith("|")) fragment.append(table(lines.takeWhile((l) => l.startsWith("|"))));
    else if (/^\s*([-*+]|\d+[.)]) /.test(line)) fragment.append(list(lines));
    else {
      lines.next();
      const rest = lines.takeWhile((l) => l.trim() && !BREAKS.test(l));
      fragment.append(make("p", {}, ...inline([line, ...rest].join(" "))));
    }
  }
  return fragment;
}

/** A reader of lines; `first` is undefined after the last. */
class Lines {
  #all;
  #at = 0;

  constructor(all) {
    this.#all = all;
  }

  get first() {
    return this.#all[this.#at];
  }

  next() {
    return this.#all[this.#at++];
  }

  takeWhile(holds) {
    const from = this.#at;
    while (this.#at < this.#all.length && holds(this.first)) this.#at++;
    return this.#all.slice(from, this.#at);
  }
}

function fenced(lines) {
  lines.next();
  const code = lines.takeWhile((line) => !line.startsWith("```"));
  lines.next();
  return make("pre", { tabindex: "0", role: "group", "aria-label": "Code" }, make("code", {}, code.join("\n")));
}

function heading(line, level) {
  const marks = line.indexOf(" ");
  return make(`h${Math.min(6, marks + level - 1)}`, {}, ...inline(line.slice(marks + 1)));
}

function list(lines) {
  const ordered = /^\s*\d/.test(lines.first);
  const marker = ordered ? /^\s*\d+[.)] / : /^\s*[-*+] /;
  const element = make(ordered ? "ol" : "ul");
  while (lines.first !== undefined && marker.test(lines.first)) {
    const first = lines.next().replace(marker, "");
    const rest = lines.takeWhile((line) => line.trim() && !BREAKS.test(line));
    element.append(make("li", {}, ...inline([first, ...rest.map((line) => line.trim())].join(" "))));
  }
  return element;
}

function table(lines) {
  const rows = lines.map((line) =>
    line.slice(1).replace(/\|\s*$/, "").split("|", MAX_COLUMNS).map((cell) => cell.trim()),
  );
  const ruled = rows.length > 1 && rows[1].every((cell) => /^:?-+:?$/.test(cell));
  const [head, body] = ruled ? [rows[0], rows.slice(2)] : [[], rows];
  const row = (cells, tag) =>
    make("tr", {}, ...cells.map((cell) => make(cell ? tag : "td", {}, ...inline(cell))));
  const whole = make("tbody");
  for (const cells of body) whole.append(row(cells, "td"));
  return make(
    "div.scroll", { tabindex: "0", role: "group", "aria-label": "Table" },
    make("table", {},
      head.length > 0 && make("thead", {}, row(head, "th")),
      whole),
  );
}

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, code, strong, emphasis, label, target] = found;
    nodes.push(text.slice(end, found.index));
    end = found.index + whole.length;
    if (code) nodes.push(make("code", {}, code));
    else if (strong) nodes.push(make("strong", {}, ...inline(strong)));
    else if (emphasis) nodes.push(make("em", {}, ...inline(emphasis)));
    else if (/^https?:\/\//i.test(target)) {
      nodes.push(make("a", { href: target, rel: "noreferrer noopener" }, ...inline(label)));
    } else nodes.push(target.includes(":") ? whole : label); // relative links do not work here
    if (nodes.length > MAX_SPANS) break;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}
