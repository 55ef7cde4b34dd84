// Show the answer for one picture, with its details.

import { key } from "./api.js";
import { make, milliseconds, named, percent, say } from "./dom.js";
import {
  calibrationOf, doubtOf, isUnknown, isUnsure, limitOf, noneOf, setMeaning, setOf, unfamiliarOf,
} from "./trust.js";

const STAGES = { decode: "Reading the picture", queue: "Waiting", inference: "Computing" }; // of timing_ms
// Both recipes scale the shorter side to 256 pixels and take the central 224.
const SEEN = 224 / 256;

// ---------------------------------------------------------------- one picture

/** Fills `place` with `item`, which is pending while it has neither `answer` nor `trouble`. */
export function fillResult(place, item, model, path, { again, back, heat }) {
  const { answer, trouble } = item;
  place.replaceChildren(
    make(trouble ? "div.seen.failed" : "div.seen", {},
      back && make("button.quiet.back", { type: "button", click: back }, "← All pictures"),
      figure(item, heat)),
    make("div.answer-head", {},
      ...(answer ? verdict(answer, model) : trouble ? troubled(item, again) : busy(item)),
      ...(answer ? probabilities(answer, model) : []),
      answer && timing(answer.timing_ms, item.ms),
      answer && curl(path, item.file.name)),
  );
}

function verdict(answer, model) {
  const [first] = answer.predictions;
  if (isUnknown(answer)) {
    return [
      make("p.kicker", {}, "Unknown"),
      make("h2.answer", { id: "answer", tabindex: "-1" }, noneOf(model)),
      make("p.nearest", {}, `most like ${named(first.label)}`),
      make("p.limit", {}, unfamiliarOf(answer)),
    ];
  }
  const unsure = isUnsure(answer);
  return [
    make("p.kicker", {}, unsure ? "Perhaps" : "Nearest class"),
    make("h2.answer", { id: "answer", tabindex: "-1" }, named(first.label)),
    make("p.limit", {}, limitOf(model)),
    unsure && make("p.hint", {},
      make("strong", {}, "The model is unsure. "), doubtOf(model)),
  ];
}

function busy({ waits }) {
  return [
    make("p.kicker", {}, waits ?? "Looking"),
    make("h2.answer.pending", { id: "answer", tabindex: "-1" }, "…"),
  ];
}

function troubled(item, again) {
  const { title, text } = item.trouble;
  return [
    make("p.kicker.wrong", {}, "No answer"),
    make("h2.answer.small", { id: "answer", tabindex: "-1" }, title),
    make("p", {}, text),
    item.trouble.again && make("button.solid", { type: "button", click: () => again(item) }, "Try again"),
  ];
}

function probabilities(answer, model) {
  const { predictions } = answer;
  if (isUnknown(answer)) {
    return [
      make("h3.forced", { id: "forced" }, "If it had to choose"),
      bars("ol.bars.toned", { "aria-labelledby": "forced" }, predictions),
    ];
  }
  const set = setOf(answer);
  const meaning = [set && setMeaning, calibrationOf(model)].filter(Boolean).join(" ");
  return [
    bars("ol.bars", { "aria-label": "The most probable" }, predictions),
    set && make("p.set", {}, set),
    meaning && make("p.meaning", {}, meaning),
  ];
}

function bars(what, attributes, predictions) {
  return make(what, attributes,
    ...predictions.map(({ label, probability }) => {
      const bar = make("span.bar", { "aria-hidden": "true" });
      bar.style.setProperty("--share", probability);
      return make("li", {},
        make("span.label", {}, named(label)),
        make("span.value", {}, percent(probability)),
        bar);
    }));
}

function timing(ms, includingNetwork) {
  const stages = Object.keys(STAGES);
  const strip = make("div.strip", { "aria-hidden": "true" });
  for (const stage of stages) {
    const part = make(`span.${stage}`);
    part.style.setProperty("--part", Math.max(ms[stage], 0.001));
    strip.append(part);
  }
  return make("section.timing", { "aria-labelledby": "timing-title" },
    make("h3", { id: "timing-title" }, "Answered in ", make("b", {}, milliseconds(ms.total))),
    strip,
    make("dl", {},
      ...stages.map((stage) =>
        make("div", {}, make(`dt.${stage}`, {}, STAGES[stage]), make("dd", {}, milliseconds(ms[stage])))),
      make("div", {}, make("dt.whole", {}, "Including network"), make("dd", {}, milliseconds(includingNetwork)))));
}

function curl(path, name) {
  // curl parses quotes and backslashes within "…" itself; the shell's quotes go around that.
  const plain = /^[\w.+-]+$/.test(name);
  const file = plain ? `file=@${name}` : shell(`file=@"${name.replace(/["\\]/g, "\\$&")}"`);
  const url = new URL(path, document.baseURI).href;
  const header = key.get() ? ' -H "Authorization: Bearer $API_KEY"' : "";
  const line = `curl${header} -F ${file} ${/[?&]/.test(url) ? shell(url) : url}`;
  const button = make("button.quiet", { type: "button", click: copy }, "Copy");
  const code = make("code", {}, line);

  async function copy() {
    try {
      await navigator.clipboard.writeText(line);
      button.textContent = "Copied";
      say("The curl line is copied.");
      setTimeout(() => (button.textContent = "Copy"), 2000);
    } catch {
      // Not allowed on pages over plain HTTP: select the text, so that one key press copies it.
      getSelection().selectAllChildren(code);
      say("The curl line is selected; copy it with the keyboard.");
    }
  }
  return make("section.curl", { "aria-labelledby": "curl-title" },
    make("div.row", {}, make("h3", { id: "curl-title" }, "The same from a terminal"), button),
    make("pre", { tabindex: "0", role: "group", "aria-labelledby": "curl-title" }, code));
}

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// ---------------------------------------------------------------- the picture and the crop

function figure(item, heat) {
  const { file, url, answer } = item;
  // Kept, so that it is not decoded again when the answer arrives.
  const photo = (item.photo ??= make("img.photo", { src: url, alt: `Your picture, ${file.name}` }));
  const frame = make("div.frame", {}, photo);
  photo.onload = () => shape(photo.naturalWidth, photo.naturalHeight);
  photo.onerror = unshown;
  if (photo.complete && photo.naturalWidth) photo.onload();
  else if (photo.complete) unshown();
  if (answer) shape(answer.image.width, answer.image.height);

  function unshown() {
    photo.replaceWith(make("p.unshown", {}, answer
      ? "This browser cannot show this kind of picture; the server can."
      : "This cannot be shown."));
  }

  function shape(width, height) {
    const side = SEEN * Math.min(width, height);
    frame.style.setProperty("--ratio", width / height);
    frame.style.setProperty("--seen-x", side / width);
    frame.style.setProperty("--seen-y", side / height);
  }
  const size = answer && `${answer.image.width} × ${answer.image.height}, ${answer.image.format}`;
  return make("figure", {},
    frame,
    make("figcaption", {}, make("span.file", {}, file.name), size && make("span", {}, size)),
    answer && heatSwitch(frame, item, heat));
}

function heatSwitch(frame, item, heat) {
  const map = make("img.heat", { alt: "" });
  const button = make("button.switch", { type: "button", role: "switch", "aria-checked": "false", click: flip },
    make("span.knob", { "aria-hidden": "true" }), "What it looked at");
  const select = make("select", { "aria-label": "Heat map for", change: draw },
    ...item.answer.predictions.map(({ label }) => make("option", { value: label }, named(label))));
  const whose = make("label.choice", { hidden: true }, "for", select);
  const note = make("p.note", { hidden: true });

  const on = () => button.getAttribute("aria-checked") === "true";
  async function flip() {
    button.setAttribute("aria-checked", !on());
    await draw();
  }
  async function draw() {
    whose.hidden = note.hidden = !on();
    frame.classList.toggle("hot", on() && map.isConnected);
    if (!on()) {
      map.remove();
      say("The photograph.");
      return;
    }
    const label = select.value;
    note.textContent = "Looking at what the answer rests on …";
    try {
      const source = await heat(item, label);
      if (!on() || select.value !== label) return;
      map.src = source;
      map.alt = `Heat map over the picture: what speaks for ${named(label)}`;
      frame.append(map);
      frame.classList.add("hot");
      note.textContent = `“${named(label)}” rests on what is orange: with that covered, it is less probable. `
        + "The network saw no more than the bright square.";
      say(`Heat map for ${named(label)} shown.`);
    } catch (trouble) {
      if (trouble.name === "AbortError") return;
      note.textContent = `${trouble.title}. ${trouble.text}`;
      say(note.textContent);
    }
  }
  return make("div.crop-controls", {}, button, whose, note);
}
