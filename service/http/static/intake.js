// Take pictures: picked, photographed, pasted, dropped, or one of the examples.

import { Trouble, ask } from "./api.js";
import { byId } from "./dom.js";

/** Calls `look` with the files, `wanted` with whether to show the drop target, `failed` with the Trouble if there
 * is no file. */
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
    if (!files.length) return; // text for the API key's field
    event.preventDefault();
    look(files);
  });

  let depth = 0; // dragenter and dragleave fire for every nested element
  const dragging = (change, event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    depth = change ? Math.max(0, depth + change) : 0;
    document.body.classList.toggle("dragging", depth > 0 && wanted());
  };
  document.addEventListener("dragenter", (event) => dragging(1, event));
  document.addEventListener("dragleave", (event) => dragging(-1, event));
  const elsewhere = (event) => event.target === byId("key"); // handles text itself
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
