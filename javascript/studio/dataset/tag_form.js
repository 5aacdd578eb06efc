// The form of tagging: which taggers, how sure they must be, and what becomes of captions.

import { h, put, text } from "../dom.js";
import { Form } from "../form.js";
import { recall, remember } from "../memory.js";

const THRESHOLDS = ["general_threshold", "character_threshold"];
const BEGIN_AT = { general_threshold: 0.35, character_threshold: 0.85 };
const FIRST = ["policy", "exclude", "always_add", "first_tags"];
const LOOKS = { policy: { help: "What becomes of captions that are there" } };
const OWN = "Each tagger has a threshold of its own, at which it is right as often as it finds everything";

export class TagForm {
  /** @param {Object} schema the server's answer to `dataset/tagging`  @param {() => void} onchange */
  constructor(schema, onchange) {
    this.form = new Form(schema, () => {
      remember("tagging", this.form.changes());
      onchange();
    });
    this.taggers = schema.taggers;
    const shown = ["taggers", ...THRESHOLDS, ...FIRST];
    const rest = [...this.form.options.keys()].filter((name) => !shown.includes(name));
    const field = (name) => this.form.field(name, LOOKS[name]);
    const fields = h("div", { class: "ls-batch-fields" }, FIRST.map(field));
    const more = h("div", { class: "ls-batch-fields" }, rest.map(field));
    this.list = h("div", { class: "ls-taggers" });
    this.form.fill(recall("tagging", {}));
    this.drawTaggers();
    this.element = h(
      "div",
      { class: "ls-panel" },
      h("h3", {}, "Taggers"),
      this.list,
      h(
        "div",
        {},
        THRESHOLDS.map((name) => this.threshold(name)),
      ),
      fields,
      h("details", { class: "ls-more" }, h("summary", {}, "More options"), more),
    );
  }

  /** The taggers' names. */
  get chosen() {
    return this.form.values.taggers
      .split(",")
      .map((name) => name.trim())
      .filter(Boolean);
  }

  get values() {
    return this.form.submitted();
  }

  drawTaggers() {
    put(
      this.list,
      this.taggers.map((each) => {
        const tick = h("input", {
          type: "checkbox",
          class: "ls-check",
          disabled: each.problem !== null,
          onchange: () => {
            const others = this.chosen.filter((name) => name !== each.name);
            this.form.set("taggers", tick.checked ? [...others, each.name] : others);
          },
        });
        tick.checked = this.chosen.includes(each.name);
        return h(
          "label",
          { class: "ls-tagger", title: each.problem ?? each.help },
          tick,
          h("span", { class: "ls-grow" }, each.name),
          h(
            "span",
            { class: each.problem ? "ls-bad" : "ls-count" },
            each.problem ?? (each.present ? each.source : "to be downloaded"),
          ),
        );
      }),
    );
  }

  /** A threshold as a slider, or the tagger's own. */
  threshold(name) {
    const option = this.form.options.get(name);
    const words = h("output", { class: "ls-figure" });
    const own = h("input", { type: "checkbox", class: "ls-check", title: OWN });
    const slider = h("input", { type: "range", min: option.minimum, max: 1, step: 0.01, "aria-label": option.label });
    slider.value = this.form.values[name] || BEGIN_AT[name];
    const draw = () => {
      const value = this.form.values[name];
      own.checked = slider.disabled = value === "";
      text(words, value === "" ? "own" : Number(value).toFixed(2));
    };
    const take = () => {
      this.form.set(name, own.checked ? "" : slider.value);
      draw();
    };
    slider.addEventListener("input", take);
    own.addEventListener("change", take);
    draw();
    return h(
      "div",
      { class: "ls-threshold" },
      h("span", { class: "ls-label" }, option.label),
      slider,
      words,
      h("label", { class: "ls-inline" }, own, "its own"),
    );
  }
}
