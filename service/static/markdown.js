// The part of Markdown that model cards use: headings, paragraphs, lists, tables, fenced code; in a line
// code, strong, emphasis and links. Everything becomes nodes and text, never markup, and links lead to
// the web only.

import { make } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^)\s]+)\)/;
const BREAKS = /^(#{1,6} |```|\s*[-*+] |\s*\d+[.)] |\|)/; // what ends a paragraph without a blank line

/** A fragment of `text`, its first level of headings at `level`. */
export function render(text, level = 3) {
  const lines = text.replaceAll("\r", "").split("\n");
  const fragment = document.createDocumentFragment();
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) lines.shift();
    else if (line.startsWith("```")) fragment.append(fenced(lines));
    else if (/^#{1,6} /.test(line)) fragment.append(heading(lines.shift(), level));
    else if (line.startsWith("|")) fragment.append(table(takeWhile(lines, (l) => l.startsWith("|"))));
    else if (/^\s*([-*+]|\d+[.)]) /.test(line)) fragment.append(list(lines));
    else {
      lines.shift();
      const rest = takeWhile(lines, (l) => l.trim() && !BREAKS.test(l));
      fragment.append(make("p", {}, ...inline([line, ...rest].join(" "))));
    }
  }
  return fragment;
}

/** Removes lines from the front of `lines` while `holds`, and returns them. */
function takeWhile(lines, holds) {
  const end = lines.findIndex((line) => !holds(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function fenced(lines) {
  lines.shift();
  const code = takeWhile(lines, (line) => !line.startsWith("```"));
  lines.shift();
  return make("pre", { tabindex: "0", role: "group", "aria-label": "Code" }, make("code", {}, code.join("\n")));
}

function heading(line, level) {
  const [, marks, text] = /^(#+) (.*)$/.exec(line);
  return make(`h${Math.min(6, marks.length + level - 1)}`, {}, ...inline(text));
}

function list(lines) {
  const ordered = /^\s*\d/.test(lines[0]);
  const marker = ordered ? /^\s*\d+[.)] / : /^\s*[-*+] /;
  const element = make(ordered ? "ol" : "ul");
  while (lines.length && marker.test(lines[0])) {
    const first = lines.shift().replace(marker, "");
    const rest = takeWhile(lines, (line) => line.trim() && !BREAKS.test(line));
    element.append(make("li", {}, ...inline([first, ...rest.map((line) => line.trim())].join(" "))));
  }
  return element;
}

function table(lines) {
  const rows = lines.map((line) =>
    line.replace(/^\|/, "").replace(/\|\s*$/, "").split("|").map((cell) => cell.trim()),
  );
  const ruled = rows.length > 1 && rows[1].every((cell) => /^:?-+:?$/.test(cell));
  const [head, body] = ruled ? [rows[0], rows.slice(2)] : [[], rows];
  const row = (cells, tag) =>
    make("tr", {}, ...cells.map((cell) => make(cell ? tag : "td", {}, ...inline(cell))));
  return make(
    "div.scroll", { tabindex: "0", role: "group", "aria-label": "Table" },
    make("table", {},
      head.length > 0 && make("thead", {}, row(head, "th")),
      make("tbody", {}, ...body.map((cells) => row(cells, "td")))),
  );
}

function inline(text) {
  const nodes = [];
  for (let found; (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
    const [whole, code, strong, emphasis, label, target] = found;
    nodes.push(text.slice(0, found.index));
    if (code) nodes.push(make("code", {}, code));
    else if (strong) nodes.push(make("strong", {}, ...inline(strong)));
    else if (emphasis) nodes.push(make("em", {}, ...inline(emphasis)));
    else if (/^https?:\/\//i.test(target)) {
      nodes.push(make("a", { href: target, rel: "noreferrer noopener" }, ...inline(label)));
    } else nodes.push(target.includes(":") ? whole : label); // a path leads nowhere from here
  }
  nodes.push(text);
  return nodes.filter((node) => node !== "");
}
