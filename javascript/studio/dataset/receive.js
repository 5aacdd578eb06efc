// Picture files that are dropped onto the gallery.

import { post } from "../api.js";
import { tell } from "../dialogs.js";
import { count } from "../format.js";
import { attempt } from "../presets.js";

const isPicture = (file) => file.type.startsWith("image/");

const base64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

/** Let an element take picture files for the folder that is open. */
export function receivePictures(element, dataset) {
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  element.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("ls-receives");
  });
  element.addEventListener("dragleave", () => element.classList.remove("ls-receives"));
  element.addEventListener("drop", async (event) => {
    element.classList.remove("ls-receives");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    event.stopPropagation(); // the WebUI takes dropped pictures everywhere
    const files = [...event.dataTransfer.files].filter(isPicture);
    try {
      for (const file of files)
        await post("pictures", { folder: dataset.folder, name: file.name, data: await base64(file) });
      if (files.length) tell(`${count(files.length, "picture")} added.`);
    } catch (error) {
      tell(error.message, "error");
    }
    await attempt(() => dataset.change("refresh"));
  });
}
