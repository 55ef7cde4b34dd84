// Write the answers as a CSV file with the columns of `python -m service predict --format csv`.

const COLUMNS = ["file", "rank", "label", "index", "probability", "error", "known", "unfamiliarity", "set"];

/** Writes RFC 4180 after a byte order mark, without which Excel does not recognise UTF-8. */
export function csv(items) {
  const rows = items.flatMap(({ file, answer, trouble }) =>
    answer
      ? answer.predictions.map(({ label, index, probability }, place) =>
          [file.name, place + 1, label, index, probability, "", ...trusted(answer)])
      : [[file.name, "", "", "", "", trouble?.detail ?? "", "", "", ""]]);
  return "\ufeff" + [COLUMNS, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

/** Returns the last three cells of every row of an answer: empty without a value. */
const trusted = ({ known, unfamiliarity, set = [] }) => [`${known ?? ""}`, unfamiliarity ?? "", set.join(";")];

function cell(value) {
  const text = typeof value === "number" ? `${value}` : inert(value);
  return /[",;\s]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Prefixes a text that a spreadsheet would run as a formula with an apostrophe; quotes would not help. */
const inert = (text) => (/^\s*[=+\-@＝＋－＠]|^[\t\r\n]/.test(text) ? `'${text}` : text);
