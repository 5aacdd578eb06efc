// A dialog to choose a folder on the server.

import { get } from "./api.js";
import { ask } from "./dialogs.js";
import { button, h, icon, put } from "./dom.js";
import { count } from "./format.js";

/** Let a person choose a folder; null when they did not. Starts at `path` where that can be opened. */
export function chooseFolder(path) {
  let here = "";
  const view = h("div", { class: "ls-folders" });
  const place = h("p", { class: "ls-path" });

  async function open(wanted) {
    let folder;
    try {
      folder = await get(`folder?path=${encodeURIComponent(wanted)}`);
    } catch (error) {
      if (wanted === path && path) return open(""); // what was typed is not a folder: begin at the allowed ones
      return put(view, h("p", { class: "ls-error" }, error.message));
    }
    here = folder.path ?? "";
    put(place, here || "Folders");
    const up = parentOf(folder);
    const rows = folder.folders.map((each) => row(each.name, each.pictures, () => open(each.path)));
    return put(
      view,
      up !== null && row("..", 0, () => open(up)),
      rows,
      rows.length === 0 && h("p", { class: "ls-empty" }, "No folders in here."),
    );
  }

  open(path);
  return ask("Choose a folder", () => [place, view], [
    { label: "Cancel", value: null },
    { label: "Take this folder", value: () => here || null, kind: "primary" },
  ]);
}

/** "" leads back to the allowed folders; null where there is nothing above. */
const parentOf = (folder) => (folder.parent === undefined ? null : folder.parent);

const row = (name, pictures, open) =>
  h(
    "button",
    { type: "button", class: "ls-folder", onclick: open },
    icon(name === ".." ? "up" : "folder"),
    h("span", {}, name),
    pictures > 0 && h("span", { class: "ls-count" }, count(pictures, "picture")),
  );

/** The button beside a folder's field. */
export const folderButton = (form, name) =>
  button(
    "Choose …",
    async () => {
      const folder = await chooseFolder(form.values[name]);
      if (folder) form.set(name, folder);
    },
    { icon: "folder" },
  );
