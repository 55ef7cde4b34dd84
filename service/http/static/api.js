// Send requests to the server, and explain its errors in words that a person can act on.

const KEY = "api-key";
const MAX_ATTEMPTS = 4; // of a request that is answered 429

export const limit = Number(document.querySelector('meta[name="max-body-bytes"]').content) || Infinity;

/** The API key, kept for this tab only. */
export const key = {
  get: () => storage(() => sessionStorage.getItem(KEY)) ?? "",
  set: (value) => storage(() => sessionStorage.setItem(KEY, value)),
  forget: () => storage(() => sessionStorage.removeItem(KEY)),
};

/** Returns what `use` returns; null if the browser forbids storage: servers with keys cannot be used then. */
export function storage(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

/** An error to show: `title` and `text` for people, `detail` for the CSV file; `again` if a retry may help. */
export class Trouble extends Error {
  constructor(title, text, { code = "", detail = `${title}. ${text}`, again = false } = {}) {
    super(title);
    Object.assign(this, { title, text, code, detail, again });
  }
}

/** Returns the response if its status is 2xx. Throws Trouble, or AbortError if `signal` aborts. */
export async function ask(path, { body, signal, busy } = {}) {
  for (let tries = 1; ; tries += 1) {
    const answer = await send(path, body, signal);
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    if (answer.status !== 429 || tries === MAX_ATTEMPTS) throw inWords(problem, answer, body);
    busy?.(seconds);
    await pause(seconds * 1000, signal);
  }
}

export async function askForJson(path, options) {
  const answer = await ask(path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("This is not the server's answer", "Something between it and you answered instead. Try again.", {
      again: true,
    });
  }
}

async function send(path, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  let form;
  if (body) {
    if (body.size > limit) throw tooManyBytes(body.size);
    await readable(body);
    form = new FormData();
    form.append("file", body);
  }
  try {
    return await fetch(path, { method: form ? "POST" : "GET", headers, body: form, signal, cache: "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached", "Check the connection, and that the server is running.", {
      again: true,
    });
  }
}

/** Reads the file first: for a folder or a file that was moved, the browser would report a network error. */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Trouble(
      "This cannot be opened",
      "It may be a folder, or the file was moved or changed. Choose the pictures themselves.",
    );
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function tooManyBytes(size) {
  return new Trouble(
    "This file is too large",
    `It has ${megabytes(size)}, and the server takes ${megabytes(limit)} at most. Choose a smaller copy of the picture.`,
    { code: "too_large" },
  );
}

export const megabytes = (bytes) =>
  bytes < 100_000 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1).replace(".0", "")} MB`;

const sentence = (text) => text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

// By problem code: a title, what to do, and whether the same request may succeed later.
const WORDS = {
  unauthorized: ["The key is not taken", "Enter one that this server knows."],
  timeout: ["The upload took too long", "Try again over a faster connection, or with a smaller copy.", true],
  too_large: ["This picture is too large", "Choose a smaller copy of it."],
  unsupported_image: ["This is no picture that the server can read", "Save it as JPEG or PNG first."],
  invalid_image: ["This picture is damaged", "Save or download it once more."],
  overloaded: ["The server is busy", "Try again in a little while.", true],
  not_ready: ["The server is not ready", "Try again in a little while.", true],
  deadline: ["The answer took too long", "Try again in a little while.", true],
  not_found: ["The server does not have this", ""],
  internal: ["The server failed on this request", "That is a mistake of ours, not of your picture's.", true],
};

function inWords(problem, answer, body) {
  const { code = "", detail = "", title = `The server answered ${answer.status}` } = problem;
  if (answer.status === 413 && code !== "too_large") return tooManyBytes(body?.size ?? 0); // a proxy's
  const [heading, remedy, again = answer.status >= 500] = WORDS[code] ?? [title, ""];
  const text = [sentence(detail), remedy].filter(Boolean).join(" ");
  return new Trouble(heading, text, { code, detail: detail || undefined, again });
}
