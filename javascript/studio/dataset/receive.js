// Pictures that come into a dataset's folder, such as files that are dropped onto the gallery.

import { post } from "../api.js";
import { tell } from "../dialogs.js";
import { count } from "../format.js";
import { attempt } from "../presets.js";

const base64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

/**
 * Add pictures to a folder, and say which were not. One that cannot be added keeps no other one away.
 * @param {string} folder
 * @param {{name: string, bytes: () => Promise<Blob>, caption?: string}[]} pictures
 * @returns {Promise<boolean>} whether all were added
 */
export async function addPictures(folder, pictures) {
  const left = [];
  for (const { name, bytes, caption } of pictures) {
    try {
      await post("pictures", { folder, name, data: await base64(await bytes()), caption });
    } catch (error) {
      left.push(`${name}: ${error.message}`);
    }
  }
  const added = pictures.length - left.length;
  if (added) tell(`${count(added, "picture")} added to ${folder}`);
  if (left.length) tell(`Not added: ${left.join("; ")}`, "error");
  return !left.length;
}

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
    const files = [...event.dataTransfer.files].map((file) => ({ name: file.name, bytes: async () => file }));
    await addPictures(dataset.folder, files);
    await attempt(() => dataset.change("refresh"));
  });
}
