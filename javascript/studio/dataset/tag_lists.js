// Lists of known tags (booru csv) that a person drops in, for suggestions and for the tags' categories.

import { get, part, post, remove } from "../api.js";
import { tell } from "../dialogs.js";
import { button, h, put, text } from "../dom.js";
import { count } from "../format.js";

export class TagLists {
  constructor() {
    this.file = h("input", {
      type: "file",
      accept: ".csv,.txt",
      hidden: true,
      onchange: () => this.add([...this.file.files]),
    });
    this.rows = h("ul", {});
    this.known = h("span", { class: "ls-count" });
    this.notes = h("div", {});
    this.element = h(
      "details",
      {
        class: "ls-more ls-tag-lists",
        ondragover: (event) => event.preventDefault(),
        ondrop: (event) => this.drop(event),
        ontoggle: () => this.element.open && this.load(),
      },
      h("summary", {}, "Lists of tags for suggestions"),
      h(
        "p",
        { class: "ls-help" },
        "Drop a csv of tags here (name, category, count, aliases), such as a booru's: its tags are suggested while you type and give chips their colours.",
      ),
      this.rows,
      this.notes,
      h(
        "div",
        { class: "ls-row ls-small" },
        button("Add a list …", () => this.file.click()),
        this.known,
      ),
      this.file,
    );
  }

  async load() {
    try {
      this.draw(await get("dataset/tag-lists"));
    } catch (error) {
      tell(error.message, "error");
    }
  }

  draw({ lists, tags, notes }) {
    put(
      this.notes,
      notes.map((note) => h("p", { class: "ls-help" }, note)),
    );
    text(this.known, lists.length ? `${count(tags, "tag")} known` : "");
    put(
      this.rows,
      lists.map((name) =>
        h(
          "li",
          { class: "ls-row ls-small" },
          h("span", { class: "ls-grow" }, name),
          button(`Remove ${name}`, () => this.remove(name), { kind: "tool", icon: "close" }),
        ),
      ),
    );
  }

  drop(event) {
    event.preventDefault();
    event.stopPropagation(); // the WebUI takes dropped files everywhere
    this.add([...event.dataTransfer.files]);
  }

  async add(files) {
    this.file.value = "";
    try {
      for (const file of files)
        this.draw(await post("dataset/tag-lists", { name: file.name, text: await file.text() }));
    } catch (error) {
      tell(error.message, "error");
    }
  }

  async remove(name) {
    try {
      this.draw(await remove(`dataset/tag-lists/${part(name)}`));
    } catch (error) {
      tell(error.message, "error");
    }
  }
}
