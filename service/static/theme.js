// Before the first paint, so that a chosen theme never flashes the other one. Without a choice the
// system's preference holds, by the style sheet alone.
"use strict";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; the system's preference does then.
}
