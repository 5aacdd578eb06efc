// Choosing the folder that is worked on.

import { button, h, put, select, show, text } from "../dom.js";
import { chooseFolder } from "../folder.js";
import { count, fileName, whole } from "../format.js";
import { Bar } from "../status.js";
import { lately, USUAL } from "./store.js";

const EXTENSIONS = [".txt", ".caption"]; // that training reads

/** How a folder is read, in words, where that is not as usual. */
export const unusual = ({ caption_extension: extension, recursive }) =>
  [
    extension !== USUAL.caption_extension && `captions in ${extension}`,
    recursive !== USUAL.recursive && "without subfolders",
  ]
    .filter(Boolean)
    .join(", ");

/** What is shown while no dataset is open. */
export class Opening {
  /** @param {import("./store.js").Dataset} dataset  @param {string} suggested a folder to begin with */
  constructor(dataset, suggested) {
    this.dataset = dataset;
    this.input = h("input", {
      class: "ls-input",
      "aria-label": "Folder of pictures",
      placeholder: "Folder of pictures",
      spellcheck: "false",
      value: lately()[0]?.folder ?? suggested,
      onkeydown: (event) => event.key === "Enter" && this.open(this.input.value, this.reading),
    });
    this.options();
    this.error = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.bar = new Bar("Reading the pictures");
    this.words = h("p", { class: "ls-help ls-figure", role: "status" });
    this.progress = h("div", { hidden: true }, this.bar.element, this.words);
    this.recent = h("div", { class: "ls-recent" });
    this.element = h(
      "section",
      { class: "ls-section ls-opening", "aria-label": "Open a dataset" },
      h("header", { class: "ls-section-head" }, h("h2", {}, "Open a folder of pictures")),
      h(
        "p",
        { class: "ls-help" },
        "Look through pictures, write and tidy up their captions, find what would harm a training. Every edit can be undone, also later.",
      ),
      h(
        "div",
        { class: "ls-control" },
        this.input,
        button("Choose …", () => this.choose(), { icon: "folder" }),
        button("Open", () => this.open(this.input.value, this.reading), { kind: "primary" }),
      ),
      h(
        "div",
        { class: "ls-row ls-opening-options" },
        h("label", { class: "ls-inline" }, "Caption files", this.extension),
        h("label", { class: "ls-inline" }, this.recursive, "With subfolders"),
      ),
      this.error,
      this.progress,
      this.recent,
    );
    dataset.addEventListener("status", () => this.follow());
    dataset.addEventListener("lost", ({ detail }) => this.fail(detail));
    this.drawRecent();
  }

  drawRecent() {
    const folders = lately();
    put(
      this.recent,
      folders.length > 0 && h("h4", {}, "Lately"),
      folders.map(({ folder, ...reading }) =>
        h(
          "button",
          { type: "button", class: "ls-recent-folder", title: folder, onclick: () => this.open(folder, reading) },
          h("b", {}, fileName(folder)),
          h("span", { class: "ls-path" }, [folder, unusual(reading)].filter(Boolean).join(", ")),
        ),
      ),
    );
  }

  /** How the folder is read. */
  options() {
    this.extension = select(
      EXTENSIONS.map((each) => [each, each]),
      USUAL.caption_extension,
      () => {},
    );
    this.extension.title = "Of captions that are written, and of the one that counts where a picture has several";
    this.recursive = h("input", { type: "checkbox", class: "ls-check" });
    this.recursive.checked = USUAL.recursive;
  }

  get reading() {
    return { caption_extension: this.extension.value, recursive: this.recursive.checked };
  }

  set reading({ caption_extension: extension, recursive }) {
    this.extension.value = extension;
    this.recursive.checked = recursive;
  }

  async choose() {
    const folder = await chooseFolder(this.input.value);
    if (folder) await this.open(folder, this.reading);
  }

  async open(folder, reading = USUAL) {
    this.input.value = folder;
    this.reading = reading;
    this.fail(null);
    try {
      await this.dataset.open(folder.trim(), reading);
      this.drawRecent();
    } catch (error) {
      this.fail(error);
    }
  }

  follow() {
    const { status, isOpen } = this.dataset;
    const reading = status && !isOpen && status.opening;
    show(this.progress, reading);
    if (!reading) return;
    const { done, total } = status.opening;
    this.bar.set({ status: "running", progress: { what: "reading", done, total } });
    text(this.words, total ? `Reading ${whole(done)} of ${count(total, "picture")}` : "Looking for pictures …");
  }

  fail(error) {
    text(this.error, error?.message ?? "");
    show(this.error, error);
  }
}
