// How pictures come in: picked, photographed, pasted, dropped, or one of the page's own examples.

import { Trouble, ask } from "./api.js";
import { byId } from "./dom.js";

/** `look` gets the files; `wanted` says whether the page is to show that it waits for a drop; `failed` gets the
 * Trouble when there is no file. */
export function takePictures({ look, wanted, failed }) {
  for (const button of document.querySelectorAll("#examples button")) {
    const path = button.querySelector("img").getAttribute("src");
    button.addEventListener("click", async () => {
      try {
        const picture = await (await ask(path)).blob();
        look([new File([picture], path.split("/").at(-1), { type: picture.type })]);
      } catch (trouble) {
        failed(trouble);
      }
    });
  }

  for (const id of ["files", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = ""; // so that the same file can be chosen again
      if (files.length) look(files);
    });
  }

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return; // text, for the field of the key
    event.preventDefault();
    look(files);
  });

  let depth = 0; // dragenter and dragleave come for every element on the way
  const dragging = (change, event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    depth = change ? Math.max(0, depth + change) : 0;
    document.body.classList.toggle("dragging", depth > 0 && wanted());
  };
  document.addEventListener("dragenter", (event) => dragging(1, event));
  document.addEventListener("dragleave", (event) => dragging(-1, event));
  const elsewhere = (event) => event.target === byId("key"); // takes text by itself
  document.addEventListener("dragover", (event) => elsewhere(event) || event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (elsewhere(event)) return;
    event.preventDefault();
    dragging(0, event);
    const files = [...event.dataTransfer.files];
    if (files.length) look(files);
    else failed(new Trouble("That was no file", "Save the picture first, then drop the file here."));
  });
}
