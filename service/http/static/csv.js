// The answers as a CSV file, with the columns of `python -m service predict --format csv`.

const COLUMNS = ["file", "rank", "label", "index", "probability", "error"];

/** RFC 4180, after a byte order mark: without it Excel reads UTF-8 as something else. */
export function csv(items) {
  const rows = items.flatMap(({ file, answer, trouble }) =>
    answer
      ? answer.predictions.map(({ label, index, probability }, place) =>
          [file.name, place + 1, label, index, probability, ""])
      : [[file.name, "", "", "", "", trouble?.detail ?? ""]]);
  return "\ufeff" + [COLUMNS, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  const text = typeof value === "number" ? `${value}` : inert(value);
  return /[",;\s]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** A text that a spreadsheet would run as a formula gets an apostrophe before it; quotes would not help. */
const inert = (text) => (/^\s*[=+\-@＝＋－＠]|^[\t\r\n]/.test(text) ? `'${text}` : text);
