// The left side of the tab: which LoRA, what it changes in each block, and how much of that is to act.

import { get, post, Refused } from "../api.js";
import { copyText } from "../clipboard.js";
import { button, debounce, h, labelled, put, show, text } from "../dom.js";
import { count } from "../format.js";
import { Picker } from "../picker.js";
import { canSend, sendToTxt2img } from "../prompt.js";
import { Mixer } from "./mixer.js";
import { PresetChoice } from "./preset_choice.js";
import { tagOf, Vector } from "./vector.js";

const TYPING_MS = 350;

export class WeightsPanel {
  /**
   * @param {import("./store.js").Store} store
   * @param {{changed: () => void, save: () => void, train: () => void}} actions
   */
  constructor(store, actions) {
    Object.assign(this, { store, actions, lora: null, family: null, blocks: [], askedNorms: 0, askedWords: 0 });
    this.vector = new Vector();
    this.mixer = new Mixer(this.vector);
    this.presets = new PresetChoice(this.vector, {
      presets: () => store.presets,
      reload: () => store.load(),
      take: (name) => this.read(name),
    });
    store.addEventListener("change", () => this.presets.draw());
    this.element = h("div", { class: "ls-left" }, this.loraPart(), this.weightsPart());
    this.vector.addEventListener("change", () => this.draw());
    this.draw();
  }

  loraPart() {
    this.picker = new Picker((name) => this.choose(name), {
      choices: () => this.store.loras.map((name) => ({ value: name, label: name })),
      label: "LoRA",
      placeholder: "Choose a LoRA or type to search",
      nothing: "the LoRA folder is empty",
    });
    this.facts = h("p", { class: "ls-help", role: "status" });
    return h(
      "section",
      { class: "ls-section", "aria-label": "LoRA" },
      h("header", { class: "ls-section-head" }, h("h2", {}, "LoRA")),
      this.picker.element,
      this.facts,
    );
  }

  weightsPart() {
    this.empty = h("p", { class: "ls-empty" }, "What a LoRA changes in each block, and how much of it is to act.");
    this.lengths = h("div", { class: "ls-segments", role: "radiogroup", "aria-label": "List of blocks" });
    this.list = h("textarea", {
      class: "ls-input ls-vector-text",
      rows: 2,
      spellcheck: "false",
      oninput: debounce(() => this.read(this.list.value), TYPING_MS),
    });
    this.fault = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.note = h("p", { class: "ls-help", hidden: true });
    this.x = numberField(() => this.changeX());
    this.te = numberField(() => this.draw());
    this.unet = numberField(() => this.draw());
    this.tag = h("code", { class: "ls-tag-text" });
    this.send = button("Send to txt2img", () => this.sendIt(), { title: "Put it into the prompt of txt2img" });
    this.xField = labelled("X", this.x);
    this.body = h(
      "div",
      { class: "ls-weights-body" },
      this.presets.element,
      this.mixer.element,
      labelled("As text", this.list),
      this.fault,
      this.note,
      h(
        "div",
        { class: "ls-strengths" },
        labelled("TE strength", this.te),
        labelled("UNet strength", this.unet),
        this.xField,
      ),
      h(
        "div",
        { class: "ls-row ls-small ls-prompt-row" },
        this.tag,
        button("Copy for a prompt", () => copyText(this.tag.textContent, this.tag, "The prompt's text"), {
          icon: "copy",
        }),
        canSend() && this.send,
      ),
      h(
        "div",
        { class: "ls-row ls-small" },
        button("Save as a LoRA …", () => this.actions.save(), {
          title: "Write a LoRA file that acts everywhere as this one does with these weights",
        }),
        button("To Train as learning rates", () => this.actions.train(), {
          title: "The weights become each block's factor on the learning rate in the tab Train",
        }),
      ),
    );
    return h(
      "section",
      { class: "ls-section ls-weights", "aria-label": "Block weights" },
      h(
        "header",
        { class: "ls-section-head" },
        h("h2", {}, "Block weights"),
        h("span", { class: "ls-grow" }),
        this.lengths,
      ),
      this.empty,
      this.body,
    );
  }

  get strengths() {
    return { te: numberIn(this.te), unet: numberIn(this.unet) };
  }

  /** @param {string} name a LoRA's; its blocks are asked for */
  async choose(name) {
    this.picker.show(name);
    this.lora = name || null;
    const number = ++this.askedNorms;
    this.actions.changed();
    if (!name) return this.setBlocks(this.family, []);
    let found;
    try {
      found = await get(`blocks/norms?lora=${encodeURIComponent(name)}`);
    } catch (error) {
      if (number === this.askedNorms) {
        this.setBlocks(this.family, []);
        this.factsAre(error.message, true);
      }
      return null;
    }
    if (number !== this.askedNorms) return null;
    this.setBlocks(found.family, found.blocks);
    const modules = found.blocks.reduce((sum, row) => sum + row.modules, 0);
    return this.factsAre(`${found.family}, ${count(modules, "module")} in ${count(this.blocks.length, "block")}`);
  }

  factsAre(words, bad = false) {
    this.facts.classList.toggle("ls-bad", bad);
    text(this.facts, words);
  }

  /** The blocks of a LoRA; its family decides which lists there are. */
  setBlocks(family, blocks) {
    if (family && family !== this.family) {
      this.family = family;
      this.drawLengths();
    }
    // Layers of no block have no weight of their own.
    this.blocks = blocks.filter((row) => row.modules > 0 && this.lists[0].includes(row.block));
    const { names } = this.vector;
    const known = this.lists.some((list) => list.join() === names.join());
    if (this.family && !(known && this.blocks.every((row) => names.includes(row.block))))
      this.useList(this.fittingList());
    this.mixer.setNorms(this.blocks);
    this.draw();
  }

  /** The family's lists of blocks, the longest first. */
  get lists() {
    return Object.values(this.store.lists[this.family] ?? {}).sort((a, b) => b.length - a.length);
  }

  /** The shortest list that has all blocks in which the LoRA has weights. */
  fittingList() {
    const has = this.blocks.map((row) => row.block);
    return [...this.lists].reverse().find((names) => has.every((block) => names.includes(block))) ?? this.lists[0];
  }

  useList(names) {
    this.vector.setNames(names);
    this.drawLengths();
  }

  drawLengths() {
    put(
      this.lengths,
      this.lists.map((names, index) =>
        h(
          "button",
          {
            type: "button",
            role: "radio",
            class: "ls-segment",
            "aria-checked": String(names.length === this.vector.names.length),
            title: index === 0 ? "Every block of the UNet" : "The blocks that have attention",
            onclick: () => this.useList(names),
          },
          `${names.length} blocks`,
        ),
      ),
    );
  }

  /** Take a preset's name or a list: what does not fit the sliders as it is, the server reads. */
  async read(words) {
    const number = ++this.askedWords;
    this.refuse(null);
    const here = this.vector.read(words);
    if (here) return this.take(here, [], null);
    if (!words.trim() || !this.family) return null;
    try {
      const found = await post("blocks/vector", {
        text: words,
        family: this.family,
        length: this.vector.names.length,
        x: this.vector.x,
      });
      if (number !== this.askedWords) return null;
      const isPreset = this.store.presets.some((preset) => preset.name === words.trim());
      return this.take(found.values.map(String), found.notes ?? [], isPreset ? words.trim() : null);
    } catch (error) {
      if (number === this.askedWords)
        this.refuse(error instanceof Refused ? error.message : "The server does not answer.");
      return null;
    }
  }

  take(entries, notes, preset) {
    this.noted = notes.join(" ");
    this.reading = true; // what a person types stays as it is typed
    const values = this.store.presets.find(({ name }) => name === preset)?.values ?? "";
    this.vector.load(entries, { preset, presetHasX: /x/i.test(values) });
    this.reading = false;
    text(this.note, this.noted);
    show(this.note, this.noted);
  }

  changeX() {
    const { vector } = this;
    const x = numberIn(this.x);
    if (!Number.isFinite(Number(x))) return;
    vector.setX(x);
    if (vector.preset && vector.presetHasX) this.read(vector.preset);
  }

  refuse(message) {
    text(this.fault, message ?? "");
    show(this.fault, message);
    this.list.toggleAttribute("aria-invalid", Boolean(message));
  }

  draw() {
    const typing = this.reading && document.activeElement === this.list;
    if (!typing) {
      this.list.value = this.vector.list;
      this.refuse(null);
    }
    if (!this.reading) {
      this.askedWords += 1; // an answer that comes late would undo what was done meanwhile
      show(this.note, false);
    }
    show(this.xField, this.vector.hasX);
    const known = this.lora !== null && this.vector.names.length > 0;
    show(this.body, known);
    show(this.lengths, known);
    show(this.empty, !known);
    text(this.tag, known ? tagOf(this.lora, this.strengths, this.vector) : "");
    this.actions.changed();
  }

  sendIt() {
    const [, words] = /^<lora:([^>]+)>$/.exec(this.tag.textContent);
    const [name, ...items] = words.split(":");
    sendToTxt2img(name, items.join(":"), "");
  }

  /** What a reload brings back. */
  get state() {
    const { lora, vector } = this;
    return {
      lora,
      length: vector.names.length,
      words: vector.preset ?? vector.entries.join(","),
      x: vector.x,
      ...this.strengths,
    };
  }

  async restore({ lora, length, words, x = "1", te = "1", unet = "1" }) {
    Object.assign(this.te, { value: te });
    Object.assign(this.unet, { value: unet });
    this.x.value = x;
    this.vector.x = x;
    if (!lora) return;
    if (!this.store.loras.includes(lora)) {
      await this.choose("");
      this.factsAre(`${lora} is not in the LoRA folder any more.`, true);
      return;
    }
    await this.choose(lora);
    const names = this.lists.find((list) => list.length === length);
    if (names) this.useList(names);
    if (words) await this.read(words);
  }
}

const numberField = (oninput) =>
  h("input", { class: "ls-input ls-number", inputmode: "decimal", autocomplete: "off", value: "1", oninput });

/** What stands in a number's field, marked where it is none; nothing is 1. */
function numberIn(input) {
  const number = input.value.trim().replace(",", ".") || "1";
  input.toggleAttribute("aria-invalid", !Number.isFinite(Number(number)));
  return number;
}
