// The Dataset tab: the pictures at the left; captions, tags, edits and what else is done to them at the right.

import { address } from "./api.js";
import { tell } from "./dialogs.js";
import { button, h, put, show, text } from "./dom.js";
import { fileName, folderName } from "./format.js";
import { recall, remember } from "./memory.js";
import { attempt } from "./presets.js";
import { Tabs } from "./tabs.js";
import { canEdit, editPicture } from "./webui.js";
import { Batch } from "./dataset/batch.js";
import { Captions } from "./dataset/captions.js";
import { Editor } from "./dataset/editor.js";
import { enlarge } from "./dataset/enlarge.js";
import { Files } from "./dataset/files.js";
import { FilterBar } from "./dataset/filter.js";
import { Gallery } from "./dataset/gallery.js";
import { Health } from "./dataset/health.js";
import { History, tellConflicts } from "./dataset/history.js";
import { ManyEditor } from "./dataset/many.js";
import { Metadata } from "./dataset/metadata.js";
import { Opening, unusual } from "./dataset/opening.js";
import { quoted } from "./dataset/query.js";
import { receivePictures } from "./dataset/receive.js";
import { Selection } from "./dataset/selection.js";
import { Dataset } from "./dataset/store.js";
import { TagGroups } from "./dataset/tag_groups.js";
import { TagLists } from "./dataset/tag_lists.js";
import { Tagging } from "./dataset/tagging.js";
import { TagTable } from "./dataset/tags.js";
import { TaskView } from "./dataset/task.js";
import { PictureTools } from "./dataset/tools.js";

const WATCHED_FROM = 500; // an edit of more pictures shows how far it is

export class DatasetTab {
  /**
   * @param {Object} schema the server's answer to `form`
   * @param {import("./live.js").Live} live
   * @param {{train: (place: {folder: string, caption_extension: string}) => void, values: () => Object}} look the tab
   *   Train: to go there, and its values
   */
  constructor(schema, live, look) {
    Object.assign(this, { look, live });
    this.dataset = new Dataset(() => this.element.offsetParent !== null);
    this.selection = new Selection(this.dataset);
    this.captions = new Captions(this.dataset);
    this.parts();
    this.opening = new Opening(this.dataset, schema.defaults.train_data_dir ?? schema.host.dataset_dirs[0] ?? "");
    this.work = h(
      "div",
      { class: "ls-work", hidden: true },
      this.bar(),
      this.task.element,
      this.notes,
      h(
        "div",
        { class: "ls-desk" },
        h("div", { class: "ls-pictures-side" }, this.filter.element, this.gallery.element),
        h(
          "div",
          { class: "ls-side" },
          h("header", { class: "ls-head" }, this.panels.list),
          this.panels.tabs.map((tab) => tab.element),
        ),
      ),
    );
    this.element = h(
      "div",
      { class: "ls-dataset", onkeydown: (event) => this.key(event) },
      this.opening.element,
      this.work,
    );
    this.listen();
    new ResizeObserver(() => this.fit()).observe(this.element);
    window.addEventListener("resize", () => this.fit());
  }

  parts() {
    const { dataset, selection, captions } = this;
    const edit = (name, values, ids) => this.edit(name, values, ids);
    const filterTag = (tag) => this.filter.add(quoted(tag));
    this.task = new TaskView(dataset);
    this.history = new History(dataset, selection, captions, { settle: () => this.editor.settle() });
    this.files = new Files(dataset, selection, captions);
    this.filter = new FilterBar(dataset, selection);
    this.gallery = new Gallery(dataset, selection, {
      unsaved: (id) => captions.draft(id) !== null,
      open: () => this.writeCaption(),
      trash: () => this.files.trash(),
    });
    this.editor = new Editor(dataset, selection, captions, {
      enlarge: () => enlarge(dataset, selection),
      filter: filterTag,
      leave: () => this.gallery.element.focus({ preventScroll: true }),
    });
    this.many = new ManyEditor(dataset, selection, {
      edit,
      batch: () => this.panels.open("Edit"),
      files: this.files.buttons(),
    });
    this.nobody = h(
      "p",
      { class: "ls-empty" },
      "Choose a picture to write its caption; several, with Shift or Ctrl, to give them tags together.",
    );
    this.single = h(
      "div",
      {},
      this.editor.element,
      h(
        "div",
        { class: "ls-row ls-small ls-files" },
        button("Tag this picture …", () => this.tagChosen()),
        this.webuiButtons(),
        button("Rename …", () => this.files.rename()),
        this.files.buttons(),
      ),
    );
    this.tags = new TagTable(dataset, selection, { filter: filterTag, edit });
    const groups = new TagGroups(() => {
      this.tags.load();
      this.editor.fetch();
    });
    this.batch = new Batch(dataset, selection, { edit });
    this.metadata = new Metadata(dataset, selection, captions);
    const show = (ids) => this.show(ids);
    this.tagging = new Tagging(dataset, selection, captions, this.live, { show, edit });
    this.health = new Health(dataset, captions, { show, values: () => this.look.values() });
    this.tools = new PictureTools(dataset, selection, captions, {
      files: [this.files.buttons(), button("Delete captions only", () => this.files.deleteCaptions())],
    });
    receivePictures(this.gallery.element, dataset);
    const panel = (name, opened, ...content) => ({
      name,
      opened: () => attempt(opened),
      element: h("div", { class: "ls-side-panel" }, content),
    });
    this.panels = new Tabs(
      [
        panel("Caption", () => this.many.load(), this.nobody, this.single, this.many.element),
        panel("Tags", () => this.tags.load(), this.tags.element, new TagLists().element, groups.element),
        panel("Edit", () => this.batch.preview(), this.batch.element, this.metadata.element),
        panel("Tagger", () => this.tagging.load(), this.tagging.element),
        panel("Health", () => this.health.load(), this.health.element),
        panel("Pictures", () => this.tools.load(), this.tools.element),
      ],
      { key: "dataset-panel", label: "Dataset" },
    );
  }

  /** Show some pictures alone. */
  show(ids) {
    this.selection.set(ids, ids[0] ?? null);
    this.filter.write("selected");
  }

  tagChosen() {
    this.tagging.scope.choose("selected");
    this.panels.open("Tagger");
  }

  /** The picture that is edited, in the WebUI's own tabs. */
  webuiButtons() {
    if (!canEdit()) return null;
    const send = async (mode) => {
      await this.captions.save();
      const [id] = this.selection.list();
      try {
        const { path, name, stamp, caption } = await this.dataset.item(id);
        const url = address(this.dataset.look(`picture/${id}?v=${stamp}`));
        await editPicture(mode, { url, name: fileName(name), folder: folderName(path), caption });
      } catch (error) {
        tell(error.message, "error");
      }
    };
    return [button("Edit in img2img", () => send("img2img")), button("Edit in inpaint", () => send("inpaint"))];
  }

  bar() {
    this.folder = h("b", { class: "ls-work-name" });
    this.path = h("span", { class: "ls-path" });
    this.notes = h("div", { class: "ls-work-notes", role: "status" });
    return h(
      "header",
      { class: "ls-row ls-small ls-work-bar" },
      this.folder,
      this.path,
      h("span", { class: "ls-grow" }),
      this.history.buttons,
      this.gallery.slider(),
      button("Look again", () => attempt(() => this.dataset.change("refresh")), {
        title: "Look for files that other programs have changed",
      }),
      button("Another folder …", () => this.close()),
      button("Train with this folder", () => this.look.train(this.dataset.place), { kind: "primary" }),
    );
  }

  listen() {
    const { dataset, selection, captions } = this;
    dataset.addEventListener("status", () => this.follow());
    dataset.addEventListener("opened", () => {
      selection.set([], null);
      this.editor.forget();
      this.fit();
      if (dataset.count) selection.only(dataset.view[0]);
    });
    selection.addEventListener("selection", () => this.choose());
    captions.addEventListener("drafts", () => this.gallery.grid.redraw());
  }

  follow() {
    const { dataset } = this;
    const begins = dataset.isOpen && this.work.hidden;
    show(this.opening.element, !dataset.isOpen);
    show(this.work, dataset.isOpen);
    if (begins) this.gallery.begin();
    remember("dataset", dataset.folder && dataset.place);
    if (!dataset.isOpen) return;
    text(this.folder, fileName(dataset.folder));
    text(this.path, [dataset.folder, unusual(dataset.reading)].filter(Boolean).join(", "));
    const { read_only, notes } = dataset.status;
    const words = [read_only, ...notes].filter(Boolean);
    if (words.join() !== this.said)
      put(
        this.notes,
        words.map((each) => h("p", {}, each)),
      );
    this.said = words.join();
  }

  /** Called when the tab is first shown: the folder of last time is opened again. */
  begin() {
    if (this.begun) return;
    this.begun = true;
    const { folder, ...reading } = recall("dataset", {});
    if (folder) this.opening.open(folder, reading);
  }

  /** Unless it is open already, however it is read. */
  open(folder, reading) {
    this.begun = true;
    if (this.dataset.folder !== folder) this.opening.open(folder, reading);
  }

  async close() {
    await this.captions.save();
    this.captions.keep();
    this.dataset.close();
  }

  choose() {
    const { size } = this.selection;
    show(this.nobody, size === 0);
    show(this.single, size === 1);
    show(this.many.element, size > 1);
    if (size === 1) this.editor.load(this.selection.list()[0]);
    else this.editor.leave();
  }

  writeCaption() {
    this.panels.open("Caption");
    if (this.selection.size === 1) this.editor.focus();
    else if (this.selection.size > 1) this.many.input.focus();
  }

  /** One of the server's edits, wherever on the page it is asked for. */
  async edit(name, values, ids) {
    await this.captions.save();
    const body = { edit: name, values, ids };
    let done;
    if (ids.length > WATCHED_FROM) {
      done = await this.task.run("edit/run", body);
      await this.dataset.follow(done.status);
    } else done = await this.dataset.change("edit/apply", body);
    if (done.conflicts.length) tellConflicts(done.conflicts, this.dataset);
    return done;
  }

  key(event) {
    if (!this.dataset.isOpen || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const typing = event.target.matches("input:not([type=range], [type=checkbox], [type=radio]), textarea");
    const key = event.key.toLowerCase();
    if (key === "s") this.captions.save();
    else if (typing) return;
    else if (key === "z" && !event.shiftKey) this.history.undo();
    else if (key === "y" || key === "z") this.history.redo();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** The desk is as high as what is left of the window below its top. */
  fit() {
    if (!this.element.offsetParent) return;
    const top = this.element.getBoundingClientRect().top + window.scrollY;
    this.element.style.setProperty("--ls-above", `${Math.round(top)}px`);
  }
}
