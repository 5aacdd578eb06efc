// The tab Block weights: the LoRA and its blocks at the left, the pictures that tell what they do at the right.

import { post, Refused } from "./api.js";
import { tell } from "./dialogs.js";
import { button, debounce, h, put, show, text } from "./dom.js";
import { Earlier } from "./earlier.js";
import { ACTIVE } from "./live.js";
import { recall, remember } from "./memory.js";
import { attempt } from "./presets.js";
import { EXPERIMENTS, startWords } from "./blocks/experiments.js";
import { PicturesForm } from "./blocks/pictures_form.js";
import { BLOCKS_KINDS, BlocksRun } from "./blocks/run.js";
import { Store } from "./blocks/store.js";
import { shortNumber } from "./blocks/vector.js";
import { WeightsPanel } from "./blocks/weights.js";

const KEPT = "blocks";
const MARGIN_PX = 8;

export class BlocksTab {
  /**
   * @param {import("./live.js").Live} live
   * @param {{train: (values: Object) => void, saveLora: (values: Object) => void}} goTo other tabs: values for the next
   *   training, values for the tool that writes a weighted LoRA
   */
  constructor(live, goTo) {
    Object.assign(this, { live, goTo, store: new Store(), loading: null, built: false });
    this.draft = recall(KEPT, {});
    this.shown = recall("blocks-job");
    this.weights = new WeightsPanel(this.store, {
      changed: () => this.changed(),
      save: () => this.saveLora(),
      train: () => this.toTrain(),
    });
    this.run = new BlocksRun(live, {
      name: (job) => this.experimentOf(job).name,
      change: (job) => this.load(job),
      train: (values) => goTo.train(values),
      use: (values) => this.use(values),
      weigh: (lora, weights) => this.weigh(lora, weights),
      savePreset: async (lora, weights) => {
        await this.weigh(lora, weights);
        await this.weights.presets.save();
      },
    });
    this.earlier = new Earlier((id) => this.watch(id));
    this.right = h("div", { class: "ls-right" }, h("p", { class: "ls-empty", role: "status" }, "Loading …"));
    this.element = h("div", { class: "ls-blocks" }, this.weights.element, this.right);
    new ResizeObserver(() => this.stickLeft()).observe(this.weights.element);
    window.addEventListener("resize", () => this.stickLeft());
    this.keep = debounce(() => this.built && remember(KEPT, this.state()), 300);
    live.addEventListener("jobs", () => this.built && this.look());
  }

  /** The tab is shown. */
  opened() {
    this.loading ??= (this.built ? this.store.load().catch(() => {}) : this.begin()).finally(
      () => (this.loading = null),
    );
    return this.loading; // a lost connection has a banner
  }

  /** The left side stays in sight while the results scroll; where it is higher than the window, its lower end does. */
  stickLeft() {
    const { style, offsetHeight } = this.weights.element;
    style.top = `${Math.min(MARGIN_PX, window.innerHeight - offsetHeight - MARGIN_PX)}px`;
  }

  async begin() {
    show(this.weights.element, false);
    try {
      await this.store.load();
    } catch (error) {
      put(
        this.right,
        h(
          "div",
          { class: "ls-banner", role: "alert" },
          h("span", {}, `The block weights cannot be loaded: ${error.message || "the server does not answer"}`),
          button("Try again", () => this.opened()),
        ),
      );
      return;
    }
    show(this.weights.element, true);
    this.build();
    await this.weights.restore(this.draft.weights ?? {});
    this.built = true;
    this.changed();
    this.look();
  }

  build() {
    this.pictures = new PicturesForm(this.store, () => this.changed());
    this.experiments = EXPERIMENTS.map((Kind) =>
      new Kind(
        this.store,
        () => this.subject(),
        () => this.changed(),
      ).build(),
    );
    this.choices = this.experiments.map((experiment) =>
      h(
        "button",
        { type: "button", role: "tab", class: "ls-segment", onclick: () => this.choose(experiment.name) },
        experiment.name,
      ),
    );
    this.start = button("", () => this.go(), { kind: "primary" });
    this.start.classList.add("ls-start");
    this.general = h("p", { class: "ls-error", role: "alert", hidden: true });
    this.notes = h("div", { role: "status", hidden: true });
    this.store.addEventListener("change", () => this.note());
    const form = h(
      "section",
      { class: "ls-section ls-make", "aria-label": "Pictures" },
      h(
        "div",
        {
          class: "ls-segments ls-experiments",
          role: "tablist",
          "aria-label": "What to make",
          onkeydown: (event) => this.walk(event),
        },
        this.choices,
      ),
      this.experiments.map((experiment) => experiment.element),
      this.pictures.element,
      h("div", { class: "ls-row ls-start-row" }, this.start),
      this.general,
    );
    put(this.right, this.notes, form, this.run.element, this.earlier.element);
    this.note();
    const { pictures = {}, experiments = {}, experiment } = this.draft;
    this.pictures.form.fill(pictures);
    for (const each of this.experiments) each.form.fill(experiments[each.name] ?? {});
    this.choose(this.experiments.some((each) => each.name === experiment) ? experiment : this.experiments[0].name);
  }

  /** What of the presets and the lists of prompts cannot be read. */
  note() {
    const notes = [...this.store.preset_notes, ...this.store.prompt_notes];
    put(
      this.notes,
      notes.map((words) => h("p", { class: "ls-help ls-bad" }, words)),
    );
    show(this.notes, notes.length > 0);
  }

  choose(name) {
    this.experiment = this.experiments.find((each) => each.name === name);
    this.experiments.forEach((each, index) => {
      const chosen = each === this.experiment;
      show(each.element, chosen);
      this.choices[index].setAttribute("aria-selected", String(chosen));
      this.choices[index].tabIndex = chosen ? 0 : -1;
    });
    this.changed();
  }

  /** Arrow keys go along the experiments. */
  walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    const next = (this.experiments.indexOf(this.experiment) + move + this.experiments.length) % this.experiments.length;
    this.choose(this.experiments[next].name);
    this.choices[next].focus();
  }

  /** What the experiments are about. @returns {import("./blocks/experiments.js").Subject} */
  subject() {
    const { lora, vector, strengths, blocks } = this.weights;
    return {
      lora,
      words: this.store.presets.find((preset) => preset.values === vector.words)?.name ?? vector.words,
      plain: vector.isPlain,
      x: vector.x,
      ...strengths,
      blocks: blocks.map((row) => row.block),
    };
  }

  changed() {
    if (!this.experiment) return;
    text(this.start, startWords(this.experiment, this.pictures.number));
    this.start.disabled = this.experiment.needsLora && !this.weights.lora;
    this.start.title = this.start.disabled ? "Choose a LoRA first" : "";
    this.keep();
  }

  state() {
    const experiments = Object.fromEntries(this.experiments.map(({ name, form }) => [name, form.changes()]));
    return {
      weights: this.weights.state,
      pictures: this.pictures.form.changes(),
      experiment: this.experiment.name,
      experiments,
    };
  }

  async go() {
    const { kind, form } = this.experiment;
    this.start.disabled = true;
    for (const each of [form, this.pictures.form]) each.clearErrors();
    this.fail(null);
    try {
      const [values, checkpoint] = this.pictures.submitted();
      const job = await post("jobs", { kind, values: { ...values, ...this.experiment.values(checkpoint) } });
      await this.live.renew();
      this.watch(job.id);
    } catch (error) {
      if (!(error instanceof Refused)) tell("The server does not answer. Nothing was started.", "error");
      else if (!form.showError(error) && !this.pictures.form.showError(error)) this.fail(error);
    } finally {
      this.changed();
    }
  }

  /** An error that has no field on the page. */
  fail(error) {
    show(this.general, error);
    text(this.general, error ? error.message : "");
  }

  /** Keep showing one job. */
  watch(id) {
    this.shown = id;
    remember("blocks-job", id);
    if (this.built) this.look();
  }

  look() {
    const jobs = this.live.jobs.filter((job) => BLOCKS_KINDS.includes(job.kind)).sort((a, b) => b.created - a.created);
    const busy = jobs.find((job) => ACTIVE.has(job.status));
    const job = jobs.find((each) => each.id === this.shown) ?? busy ?? jobs[0] ?? null;
    this.run.update(job);
    this.earlier.draw(jobs, job, (each) => this.experimentOf(each).name);
  }

  /** The experiment that a job is. */
  experimentOf(job) {
    return this.experiments.find((each) => each.takes(job));
  }

  /** A job's values, to change and start them as a new one. */
  async load(job) {
    await this.opened();
    if (!this.built) return;
    const { values } = job;
    const experiment = this.experimentOf(job);
    experiment.form.clear();
    experiment.fill(values);
    this.pictures.form.clear();
    this.pictures.fill(values);
    this.choose(experiment.name);
    const lora = values.lora ?? values.loras?.[0];
    if (lora)
      await this.weights.restore({
        lora,
        words: this.wordsOf(values),
        x: String([values.x ?? 1].flat()[0]),
        te: String([values.te ?? values.unet ?? 1].flat()[0] ?? 1),
        unet: String([values.unet ?? 1].flat()[0]),
      });
  }

  /** A job's block weights for the sliders; nothing where it has several or is not about any. */
  wordsOf({ weights }) {
    return weights?.length === 0 ? this.ones : weights?.length === 1 ? weights[0] : undefined;
  }

  /** Block weights that are as good as none. */
  get ones() {
    return this.weights.vector.names.map(() => "1").join(",");
  }

  /** A picture's LoRA, strengths and weights to the left side. */
  async use({ lora, unet, te, weights, x }) {
    await this.weights.restore({
      lora,
      words: weights ?? this.ones,
      x: String(x ?? 1),
      te: String(te),
      unet: String(unet),
    });
    this.weights.element.scrollIntoView({ block: "start", behavior: "smooth" });
  }

  /** Weights by block to the sliders. */
  async weigh(lora, weights) {
    if (this.weights.lora !== lora) await this.weights.choose(lora);
    const names = this.weights.fittingList();
    this.weights.useList(names);
    this.weights.vector.load(names.map((name) => shortNumber(weights[name] ?? 0)));
  }

  saveLora() {
    const { lora, vector } = this.weights;
    this.goTo.saveLora({ model: lora, lbw: vector.words, ...(vector.hasX ? { x: vector.x } : {}) });
  }

  /** The weights as factors on each block's learning rate, in place of any others. */
  toTrain() {
    const { vector, family } = this.weights;
    return attempt(async () => {
      const { values } = await post("blocks/rates", { text: vector.words, family, x: vector.x });
      this.goTo.train({ down_lr_weight: [], mid_lr_weight: [], up_lr_weight: [], ...values });
    });
  }

  /** The defaults of a kind's form, for what differs from them. */
  defaults(kind) {
    return this.store.forms?.[kind]?.defaults ?? {};
  }
}
