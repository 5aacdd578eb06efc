// A LoRA's metadata: the fields that people see in a WebUI, a picture, and everything else as it is.

import { tell } from "../dialogs.js";
import { button, h, labelled, show, text } from "../dom.js";

const FIELDS = [
  ["modelspec.title", "Title"],
  ["modelspec.trigger_phrase", "Trigger"],
  ["modelspec.author", "Author"],
  ["modelspec.tags", "Tags"],
  ["modelspec.usage_hint", "Usage hint"],
  ["modelspec.license", "License"],
  ["modelspec.description", "Description"],
];
const THUMBNAIL = "modelspec.thumbnail";
const THUMBNAIL_PX = 256;
const LONG = 160;

export class MetadataTable {
  /**
   * @param {Object} metadata
   * @param {string} model name of the LoRA
   * @param {(values: Object) => void} edit starts the job that writes the changes: {model, set, remove, thumbnail}
   */
  constructor(metadata, model, edit) {
    Object.assign(this, { metadata, removed: new Set(), thumbnail: null });
    this.inputs = new Map(FIELDS.map(([name]) => [name, this.input(name)]));
    this.name = h("input", {
      class: "ls-input",
      placeholder: "name",
      "aria-label": "Name of a new entry",
      oninput: () => this.mark(),
    });
    this.value = h("input", {
      class: "ls-input",
      placeholder: "value",
      "aria-label": "Value of a new entry",
      oninput: () => this.mark(),
    });
    this.image = h("img", {
      class: "ls-metadata-picture",
      alt: "Thumbnail",
      src: isPicture(metadata[THUMBNAIL]) ? metadata[THUMBNAIL] : null,
    });
    show(this.image, isPicture(metadata[THUMBNAIL]));
    this.changes = h("span", { class: "ls-count" });
    this.save = button("Write into the file", () => edit({ model, ...this.edits() }), {
      kind: "primary",
      title: "Changes the file in place; its tensors stay as they are",
    });
    this.element = h(
      "details",
      { class: "ls-group ls-metadata" },
      h("summary", {}, h("span", {}, `Metadata (${Object.keys(metadata).length})`), this.changes),
      h(
        "div",
        { class: "ls-pairs" },
        FIELDS.map(([name, label]) => labelled(label, this.inputs.get(name))),
      ),
      h(
        "div",
        { class: "ls-row ls-metadata-image" },
        this.image,
        button("Choose a thumbnail …", () => this.choosePicture()),
      ),
      h("h4", {}, "All entries"),
      this.table(),
      h("div", { class: "ls-metadata-new" }, this.name, this.value),
      h("div", { class: "ls-row" }, this.save),
    );
    this.mark();
  }

  input(name) {
    const long = name.endsWith("description");
    const element = h(long ? "textarea" : "input", {
      class: "ls-input",
      rows: long ? 2 : null,
      oninput: () => this.mark(),
    });
    element.value = this.metadata[name] ?? "";
    return element;
  }

  table() {
    const rows = Object.entries(this.metadata).sort(([a], [b]) => a.localeCompare(b));
    return h(
      "dl",
      { class: "ls-values ls-metadata-list" },
      rows.map(([name, value]) => {
        const remove = button(`Remove ${name}`, () => this.toggle(name, row), { kind: "tool", icon: "close" });
        const row = h(
          "div",
          {},
          h("dt", {}, name),
          h("dd", { title: value.slice(0, 2000) }, short(name, value)),
          remove,
        );
        return row;
      }),
    );
  }

  toggle(name, row) {
    if (!this.removed.delete(name)) this.removed.add(name);
    row.classList.toggle("ls-removed", this.removed.has(name));
    this.mark();
  }

  /** What has been changed, as the tool wants it. An emptied field takes its entry out. */
  edits() {
    const set = [];
    const remove = new Set(this.removed);
    for (const [name, input] of this.inputs) {
      const before = this.metadata[name] ?? "";
      if (remove.has(name) || input.value === before) continue;
      if (input.value.trim()) set.push(`${name}=${input.value}`);
      else remove.add(name);
    }
    if (this.name.value.trim()) set.push(`${this.name.value.trim()}=${this.value.value}`);
    return { set, remove: [...remove], ...(this.thumbnail ? { thumbnail: this.thumbnail } : {}) };
  }

  mark() {
    const { set, remove, thumbnail } = this.edits();
    const number = set.length + remove.length + (thumbnail ? 1 : 0);
    text(this.changes, number ? `${number} changed` : "");
    this.save.disabled = number === 0;
  }

  choosePicture() {
    const input = h("input", { type: "file", accept: "image/*" });
    input.addEventListener("change", async () => {
      try {
        this.thumbnail = await small(input.files[0]);
      } catch {
        return tell(`${input.files[0].name} is no picture that this browser can read.`, "error");
      }
      this.image.src = this.thumbnail;
      show(this.image, true);
      return this.mark();
    });
    input.click();
  }
}

const isPicture = (value) => /^data:image\//.test(value ?? "");

const short = (name, value) =>
  isPicture(value) ? "a picture" : value.length > LONG ? `${value.slice(0, LONG)} …` : value;

/** A picture file as a data URL of at most 256 px. */
async function small(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, THUMBNAIL_PX / Math.max(picture.width, picture.height));
  const canvas = h("canvas", { width: Math.round(picture.width * scale), height: Math.round(picture.height * scale) });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.85);
}
