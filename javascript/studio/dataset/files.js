// Moving, copying and throwing away pictures with their captions.

import { askText, confirm, tell } from "../dialogs.js";
import { button, h } from "../dom.js";
import { chooseFolder } from "../folder.js";
import { count, fileName, whole } from "../format.js";
import { tellConflicts } from "./history.js";

export const SURE_FROM = 20; // so many pictures are asked about; undo brings back fewer just as well

export class Files {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {import("./captions.js").Captions} captions
   */
  constructor(dataset, selection, captions) {
    Object.assign(this, { dataset, selection, captions });
  }

  /** The buttons, for the pictures that are chosen. */
  buttons() {
    return h(
      "span",
      { class: "ls-row ls-small" },
      button("Move …", () => this.take("move")),
      button("Copy …", () => this.take("copy")),
      button("Trash", () => this.trash(), {
        title: "Delete: the pictures go with their captions into .lora_studio/trash",
      }),
    );
  }

  /** Caption files alone; their pictures stay. */
  async deleteCaptions() {
    const ids = this.selection.list();
    if (!ids.length) return;
    const words = `The caption files of ${count(ids.length, "picture")} are deleted; the pictures stay. Undo brings them back.`;
    if (await confirm("Delete captions", words, "Delete captions"))
      await this.run("captions/delete", { ids }, "without caption");
  }

  async take(how) {
    const ids = this.selection.list();
    const folder = ids.length ? await chooseFolder(this.dataset.folder) : null;
    if (folder) await this.run(how, { ids, folder }, how === "move" ? "moved" : "copied");
  }

  /** One picture, with its caption and mask. */
  async rename() {
    const [id] = this.selection.list();
    if (id === undefined) return;
    const name = fileName(this.dataset.name(id));
    const ending = name.lastIndexOf(".");
    const old = name.slice(0, ending);
    const stem = await askText("Rename the picture", `Name, without ${name.slice(ending)}`, old, "Rename");
    if (stem && stem !== old) await this.run("rename", { ids: [id], stem }, "renamed");
  }

  async trash() {
    const ids = this.selection.list();
    if (!ids.length) return;
    const hidden = ids.filter((id) => !this.dataset.places.has(id)).length;
    const which = hidden
      ? `${count(ids.length, "picture")}, ${whole(hidden)} of them hidden by the filter,`
      : count(ids.length, "picture");
    const words = `${which} with captions go into the folder's trash. Undo brings them back.`;
    if ((hidden || ids.length >= SURE_FROM) && !(await confirm("Move to the trash", words, "Move to the trash")))
      return;
    await this.run("trash", { ids }, "in the trash");
  }

  async run(path, body, words) {
    await this.captions.save();
    const { cursor } = this.selection;
    const place = this.dataset.places.get(cursor) ?? 0;
    try {
      const { conflicts } = await this.dataset.change(path, body);
      tell(`${count(body.ids.length - conflicts.length, "picture")} ${words}. Ctrl+Z takes it back.`);
      if (conflicts.length) tellConflicts(conflicts, this.dataset);
      if (!this.dataset.has(cursor)) this.selection.goTo(place);
    } catch (error) {
      tell(error.message, "error");
    }
  }
}
