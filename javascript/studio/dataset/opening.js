// Choosing the folder that is worked on.

import { button, h, put, show, text } from "../dom.js";
import { chooseFolder } from "../folder.js";
import { count, fileName, whole } from "../format.js";
import { recall } from "../memory.js";
import { Bar } from "../status.js";

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
      value: recall("datasets", [])[0] ?? suggested,
      onkeydown: (event) => event.key === "Enter" && this.open(this.input.value),
    });
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
        button("Open", () => this.open(this.input.value), { kind: "primary" }),
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
    const folders = recall("datasets", []);
    put(
      this.recent,
      folders.length > 0 && h("h4", {}, "Lately"),
      folders.map((folder) =>
        h(
          "button",
          { type: "button", class: "ls-recent-folder", title: folder, onclick: () => this.open(folder) },
          h("b", {}, fileName(folder)),
          h("span", { class: "ls-path" }, folder),
        ),
      ),
    );
  }

  async choose() {
    const folder = await chooseFolder(this.input.value);
    if (folder) await this.open(folder);
  }

  async open(folder) {
    this.input.value = folder;
    this.fail(null);
    try {
      await this.dataset.open(folder.trim());
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
