// What can be made of a LoRA and its block weights: each an experiment with a few options of its own.

import { button, h } from "../dom.js";
import { Form } from "../form.js";
import { count } from "../format.js";
import { linesOf, Several, toLines } from "./several.js";

const SLIDERS = { value: "<sliders>", label: "the sliders" }; // no preset has < or > in its name
const COMPARED = ["INALL", "MIDD", "OUTALL"];
const STRENGTHS = "0, 0.25, 0.5, 0.75, 1, 1.25";

/** How many values a list in a text has. */
const ways = (text) => text.split(",").filter((each) => each.trim()).length;

/** Whether a job's list of numbers, as it was submitted, has several. */
const isMany = (value) => ways([value ?? ""].flat().join(",")) > 1;

/** The saves of one training: zorb-000002, zorb-step00000100, zorb. */
const stemOf = (name) => name.replace(/-(?:\d{6}|step\d{8})$/, "");

/**
 * @typedef {{lora: string | null, words: string, plain: boolean, x: string, te: string, unet: string,
 *   blocks: string[]}} Subject what the left side of the tab says
 */
class Experiment {
  needsLora = true;
  start = null;

  /**
   * @param {import("./store.js").Store} store
   * @param {() => Subject} subject
   * @param {() => void} onchange
   */
  constructor(store, subject, onchange) {
    Object.assign(this, { store, subject, onchange });
  }

  /** Its part of the form, once the class is whole. */
  build() {
    const { store } = this;
    const wanted = new Set(Object.keys(this.fields));
    const options = store.options(this.kind).filter((option) => wanted.has(option.name));
    const defaults = { ...store.forms[this.kind].defaults, ...this.defaults() };
    this.form = new Form({ groups: [{ name: this.name, options }], defaults }, this.onchange);
    this.element = h(
      "div",
      { class: "ls-experiment" },
      h("p", { class: "ls-help" }, this.help),
      h(
        "div",
        { class: "ls-pairs" },
        options.map(({ name }) => {
          const field = this.form.field(name, this.fields[name]);
          if (this.fields[name].widget) field.classList.add("ls-whole-row");
          return field;
        }),
      ),
    );
    return this;
  }

  defaults() {
    return {};
  }

  several(label, choices, look = {}) {
    return (take) => new Several(take, { label, choices, placeholder: "Add one: choose or type to search", ...look });
  }

  /** The weights of the sliders; none where every block acts in full. */
  get weights() {
    const { plain, words } = this.subject();
    return plain ? [] : [words];
  }

  /** What a grid of the LoRA as the left side has it is made of. */
  grid(checkpoint) {
    const { lora, x, te, unet } = this.subject();
    return {
      loras: [lora],
      weights: this.weights,
      x: [x],
      unet: [unet],
      te: [te],
      checkpoints: checkpoint ? [checkpoint] : [],
    };
  }

  /** Whether a job is such an experiment. The first of them that says so has made it. */
  takes(job) {
    return job.kind === this.kind;
  }

  /** Shows what a job of this experiment was started with. */
  fill(values) {
    this.form.fill(Object.fromEntries(Object.entries(values).filter(([name]) => this.form.has(name))));
  }
}

class OnePicture extends Experiment {
  name = "Picture";
  kind = "grid";
  help = "The LoRA with the weights of the sliders, for each prompt and seed.";
  fields = { without: { label: "Also without the LoRA", help: "" } };

  takes(job) {
    return super.takes(job) && GRIDS.every((Grid) => !Grid.prototype.takes.call(this, job));
  }

  number() {
    return 1 + Boolean(this.form.values.without);
  }

  values(checkpoint) {
    return { ...this.grid(checkpoint), without: this.form.values.without };
  }
}

class PresetGrid extends Experiment {
  name = "Presets";
  start = "Make the grid";
  kind = "grid";
  help = "One column for each of these block weights, to see which of them keeps what is wanted.";
  fields = {
    weights: {
      label: "Block weights",
      help: "Presets, or lists as text",
      widget: this.several("Add block weights", () => this.choices(), { free: true, none: "none yet" }),
    },
    without: { label: "Also without the LoRA", help: "" },
  };

  choices() {
    const presets = this.store.presets.map(({ name }) => ({ value: name, label: name }));
    return [SLIDERS, ...presets];
  }

  defaults() {
    const known = COMPARED.filter((name) => this.store.presets.some((preset) => preset.name === name));
    return { weights: toLines([SLIDERS.value, ...known]) };
  }

  /** The chosen ones, where the sliders stand for their list; what they say twice counts once. */
  get weights() {
    const { words } = this.subject();
    return [...new Set(linesOf(this.form.values.weights).map((each) => (each === SLIDERS.value ? words : each)))];
  }

  takes({ kind, values }) {
    return kind === "grid" && values.weights?.length > 1;
  }

  number() {
    return this.weights.length + Boolean(this.form.values.without);
  }

  values(checkpoint) {
    return { ...this.grid(checkpoint), without: this.form.values.without };
  }

  fill(values) {
    super.fill({ ...values, weights: toLines(values.weights ?? []) });
  }
}

class Analysis extends Experiment {
  name = "Analyse";
  start = "Analyse the blocks";
  kind = "analyse";
  help = "Each block alone and each block off: how much the picture changes, as a ranked table, a chart and heat maps.";
  fields = { ways: { label: "Measure" }, threshold: { label: "Threshold" } };

  number() {
    const { blocks } = this.subject();
    return blocks.length * (this.form.values.ways === "both" ? 2 : 1) + 2;
  }

  values(checkpoint) {
    const { lora, te, unet } = this.subject();
    return { lora, te, unet, checkpoint, ...this.form.submitted() };
  }
}

class Strengths extends Experiment {
  name = "UNet × TE";
  start = "Make the grid";
  kind = "grid";
  help = "Mark the best of the pictures afterwards, and be told what to train otherwise next time.";
  fields = {
    unet: { label: "UNet strengths", help: "The columns" },
    te: { label: "TE strengths", help: "The rows" },
    without: { label: "Also without the LoRA", help: "" },
  };

  defaults() {
    return { unet: STRENGTHS, te: STRENGTHS };
  }

  takes({ kind, values }) {
    return kind === "grid" && isMany(values.te);
  }

  number() {
    const { unet, te, without } = this.form.values;
    return ways(unet) * Math.max(1, ways(te)) + Boolean(without);
  }

  values(checkpoint) {
    return { ...this.grid(checkpoint), ...this.form.submitted() };
  }
}

class Epochs extends Experiment {
  name = "Epochs";
  start = "Make the grid";
  kind = "grid";
  help = "The saves of a training side by side, at several strengths and on several checkpoints, to choose the best.";
  fields = {
    loras: {
      label: "LoRA files",
      help: "",
      widget: this.several("Add a LoRA file", () => this.store.loras.map((name) => ({ value: name, label: name })), {
        none: "the one above alone",
      }),
      after: button("All epochs", () => this.addEpochs(), { title: "The saves of the same training" }),
    },
    unet: { label: "Strengths", help: "Of UNet and text encoder alike" },
    checkpoints: {
      label: "Checkpoints",
      help: "Each is loaded for a while",
      widget: this.several("Add a checkpoint", this.store.checkpointChoices, { none: "the one below alone" }),
    },
    without: { label: "Also without the LoRA", help: "" },
  };

  defaults() {
    return { unet: "0.5, 0.75, 1" };
  }

  addEpochs() {
    const stem = stemOf(this.subject().lora ?? "");
    const found = this.store.loras.filter((name) => stemOf(name) === stem);
    this.form.set("loras", toLines([...new Set([...linesOf(this.form.values.loras), ...found])]));
  }

  get loras() {
    const { lora } = this.subject();
    const chosen = linesOf(this.form.values.loras);
    return chosen.length ? chosen : [lora];
  }

  takes({ kind, values }) {
    const { loras, checkpoints, unet, te } = values;
    return kind === "grid" && (loras?.length > 1 || checkpoints?.length > 1 || (isMany(unet) && !isMany(te)));
  }

  number() {
    const { unet, checkpoints, without } = this.form.values;
    return (this.loras.length * ways(unet) + Boolean(without)) * Math.max(1, linesOf(checkpoints).length);
  }

  values(checkpoint) {
    const { unet, without, checkpoints } = this.form.values;
    const chosen = linesOf(checkpoints);
    const rest = this.grid(checkpoint);
    return {
      ...rest,
      loras: this.loras,
      unet,
      te: [],
      checkpoints: chosen.length ? chosen : rest.checkpoints,
      without,
    };
  }

  fill(values) {
    const { loras = [], checkpoints = [] } = values;
    super.fill({ ...values, loras: toLines(loras), checkpoints: toLines(checkpoints) });
  }
}

class Knowledge extends Experiment {
  name = "Tags";
  start = "Look the tags up";
  kind = "knowledge";
  help = "Before training: what the checkpoint makes of your tags without any LoRA. What it knows need not be learnt.";
  fields = { tags: { label: "Tags", help: "With commas", rows: 2 } };
  needsLora = false;

  number() {
    return Math.max(1, ways(this.form.values.tags));
  }

  values(checkpoint) {
    return { checkpoint, ...this.form.submitted() };
  }
}

const GRIDS = [PresetGrid, Strengths, Epochs];
export const EXPERIMENTS = [OnePicture, PresetGrid, Analysis, Strengths, Epochs, Knowledge];

/** "Make the grid: 12 pictures", where each of its places is made so many times. */
export function startWords(experiment, times) {
  const pictures = count(experiment.number() * times, "picture");
  return experiment.start ? `${experiment.start}: ${pictures}` : `Make ${pictures}`;
}
