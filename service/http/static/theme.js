// Light or dark: a theme that was chosen is set before the first paint, so that the other one never flashes.
// Without a choice the system's preference holds, by the style sheet alone.
"use strict";
const root = document.documentElement;
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; the system's preference does then.
}

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const reflect = () => button.setAttribute("aria-pressed", isDark());
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // The choice then ends with the page.
    }
    reflect();
  });
  dark.addEventListener("change", reflect);
  reflect();
});
