// The options' fields, made from the server's schema. A value is what a person typed (text) or ticked (boolean).

import { button, h, newId, show, text } from "./dom.js";

/** A value from the server (default, preset, job) as its field shows it. */
function shown(option, value) {
  if (option.kind === "bool") return value === true || value === "true";
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

export class Form {
  /**
   * @param {{groups: {name: string, options: Object[]}[], defaults: Object}} schema
   * @param {(name: string | null) => void} onchange called after a person has changed a value; null: many have changed
   */
  constructor(schema, onchange) {
    this.groups = schema.groups;
    this.onchange = onchange;
    this.options = new Map(schema.groups.flatMap((group) => group.options).map((option) => [option.name, option]));
    this.defaults = {};
    for (const option of this.options.values()) {
      this.defaults[option.name] = shown(option, schema.defaults[option.name] ?? option.default);
    }
    this.values = { ...this.defaults };
    this.fields = new Map();
  }

  has(name) {
    return this.options.has(name);
  }

  isChanged(name) {
    return this.values[name] !== this.defaults[name];
  }

  /** Set one value; the field, where there is one, follows. */
  set(name, value, { quiet = false } = {}) {
    const option = this.options.get(name);
    if (!option) return;
    this.values[name] = shown(option, value);
    this.fields.get(name)?.follow();
    this.clearError(name);
    if (!quiet) this.onchange(name);
  }

  /** Set many values, given as the server writes them. Unknown names are given back. */
  fill(values) {
    const unknown = [];
    for (const [name, value] of Object.entries(values)) {
      if (this.has(name)) this.set(name, value, { quiet: true });
      else unknown.push(name);
    }
    this.onchange(null);
    return unknown;
  }

  /** Everything to its default, except the names kept. */
  clear(kept = []) {
    for (const name of this.options.keys())
      if (!kept.includes(name)) this.set(name, this.defaults[name], { quiet: true });
    this.onchange(null);
  }

  /** The values as the server wants them: an optional one left empty is none. */
  submitted() {
    const values = {};
    for (const [name, option] of this.options) {
      const value = this.values[name];
      values[name] = option.optional && value === "" ? null : value;
    }
    return values;
  }

  /** The changed values alone. */
  changes() {
    return Object.fromEntries(Object.entries(this.submitted()).filter(([name]) => this.isChanged(name)));
  }

  /**
   * Show an error at its field, opening whatever hides it.
   * @returns {boolean} whether the field is on the page
   */
  showError(error, { focus = true } = {}) {
    const field = this.fields.get(error.field);
    if (!field) return false;
    field.fail(error);
    if (focus) {
      field.element.dispatchEvent(new CustomEvent("ls-reveal", { bubbles: true }));
      field.control.focus({ preventScroll: true });
      field.element.scrollIntoView({ block: "center", behavior: "smooth" });
    }
    return true;
  }

  clearError(name) {
    this.fields.get(name)?.fail(null);
  }

  clearErrors() {
    for (const field of this.fields.values()) field.fail(null);
  }

  /**
   * An option's field. Each option has one place on the page.
   * @param {string} name
   * @param {{label?: string, help?: string, placeholder?: string, after?: Node, below?: Node,
   *   choices?: [string, string][], other?: string, named?: boolean, rows?: number,
   *   widget?: (take: (value: string) => void) => Widget}} look `other` names a choice's last entry; `named` shows the
   *   option's own name; `rows` makes a field of so many lines; `widget` makes a control of another kind, such
   *   as a Picker: {element, control, show(value)}, which calls `take` with what a person has chosen
   */
  field(name, look = {}) {
    const field = new Field(this, this.options.get(name), look);
    this.fields.set(name, field);
    return field.element;
  }
}

const MANY_LINES = ["sample_prompts_text", "notes"];
const OTHER = "\u0000other"; // no option has such a value

class Field {
  constructor(form, option, look) {
    this.form = form;
    this.option = option;
    const id = newId();
    const label = look.label ?? option.label;
    this.help = h("p", { class: "ls-help", id: `${id}-help` }, look.help ?? capital(option.help));
    this.error = h("p", { class: "ls-error", id: `${id}-error`, role: "alert", hidden: true });
    this.box = this.makeControl(look);
    this.control.id = id;
    this.control.setAttribute("aria-describedby", `${id}-help ${id}-error`);
    const to = shownDefault(form.defaults[option.name]);
    this.reset = button(`Reset ${label} to ${to}`, () => this.toDefault(), {
      kind: "tool",
      icon: "reset",
      title: `Back to ${to}`,
    });
    this.reset.classList.add("ls-reset");
    const caption = h("label", { for: id, class: "ls-label" }, label);
    const notes = [
      option.unit && h("span", { class: "ls-unit" }, option.unit),
      option.way === "child" &&
        h(
          "span",
          {
            class: "ls-tag",
            title: "A job with this set runs in a process of its own: it does not share the loaded model",
          },
          "own process",
        ),
    ];
    const kind = option.kind === "bool" ? "ls-tick" : "";
    this.element = h(
      "div",
      { class: `ls-field ${kind}`, "data-option": option.name },
      option.kind === "bool"
        ? h("div", { class: "ls-label-row" }, this.box, caption, notes, this.reset)
        : [
            h("div", { class: "ls-label-row" }, caption, notes, this.reset),
            h("div", { class: "ls-control" }, this.box, look.after),
          ],
      this.help,
      look.below,
      look.named && h("code", { class: "ls-name" }, option.name),
      this.error,
    );
    this.follow();
  }

  makeControl(look) {
    const { option } = this;
    if (look.widget) {
      this.widget = look.widget((value) => this.take(value));
      this.control = this.widget.control;
      return this.widget.element;
    }
    const closed = option.choices?.map((choice) => [choice, choice]);
    const open = look.choices ?? option.suggestions?.map((choice) => [choice, choice]);
    if (option.kind === "bool") {
      this.control = h("input", {
        type: "checkbox",
        class: "ls-check",
        onchange: () => this.take(this.control.checked),
      });
      return this.control;
    }
    if (closed || open) return this.makeChoice(closed ?? open, !closed, look);
    this.control = this.makeText(look, Boolean(look.rows) || MANY_LINES.includes(option.name));
    return this.control;
  }

  makeText(look, lines = false) {
    const number = ["int", "float"].includes(this.option.kind);
    const control = h(lines ? "textarea" : "input", {
      class: `ls-input${number ? " ls-number" : ""}`,
      rows: lines ? (look.rows ?? 3) : null,
      inputmode: number ? "decimal" : null,
      spellcheck: "false",
      autocomplete: "off",
      placeholder: look.placeholder ?? (this.option.optional ? "none" : null),
      oninput: () => this.take(control.value),
    });
    return control;
  }

  /** A list to choose from; with `open`, a last entry lets a person write something else. */
  makeChoice(choices, open, look) {
    this.choices = choices;
    const list = this.option.optional ? [["", "none"], ...choices] : choices;
    this.control = h(
      "select",
      { class: "ls-input", onchange: () => this.choose() },
      list.map(([value, label]) => h("option", { value }, label)),
      open && h("option", { value: OTHER }, look.other ?? "something else …"),
    );
    if (!open) return this.control;
    this.free = this.makeText(look);
    this.free.setAttribute("aria-label", look.label ?? this.option.label);
    return h("div", { class: "ls-choice" }, this.control, this.free);
  }

  choose() {
    if (this.control.value !== OTHER) return this.take(this.control.value);
    this.take("");
    this.control.value = OTHER;
    show(this.free, true);
    this.free.focus();
  }

  take(value) {
    this.form.values[this.option.name] = value;
    if (this.free) show(this.free, this.control.value === OTHER);
    this.mark();
    this.fail(null);
    this.form.onchange(this.option.name);
  }

  toDefault() {
    this.form.set(this.option.name, this.form.defaults[this.option.name]);
    this.control.focus();
  }

  /** Show the form's value. */
  follow() {
    const value = this.form.values[this.option.name];
    if (this.widget) this.widget.show(value);
    else if (this.option.kind === "bool") this.control.checked = value;
    else if (!this.choices) this.control.value = value;
    else {
      const known = [...this.control.options].some((each) => each.value === value);
      this.control.value = known ? value : OTHER;
      if (this.free) {
        this.free.value = known ? "" : value;
        show(this.free, !known);
      } else if (!known) this.control.selectedIndex = -1;
    }
    this.mark();
  }

  mark() {
    const changed = this.form.isChanged(this.option.name);
    this.element?.classList.toggle("ls-changed", changed);
    if (this.reset) this.reset.style.visibility = changed ? "visible" : "hidden"; // keeps its place
  }

  fail(error) {
    text(this.error, error ? errorText(error) : "");
    show(this.error, Boolean(error));
    this.control.toggleAttribute("aria-invalid", Boolean(error));
    this.element.classList.toggle("ls-failed", Boolean(error));
  }
}

const shownDefault = (value) => (value === "" ? "nothing" : value === true ? "on" : value === false ? "off" : value);

/** An error without its field's name, for a place at the field. */
function errorText(error) {
  const head = `${error.field}: `;
  return capital(error.message.startsWith(head) ? error.message.slice(head.length) : error.message);
}

export const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);
