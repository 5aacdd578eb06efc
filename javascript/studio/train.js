// The Train tab: the form at the left, Start and the run at the right.

import { Advanced } from "./advanced.js";
import { cachePanel } from "./cache.js";
import { tell } from "./dialogs.js";
import { button, debounce, h } from "./dom.js";
import { folderButton } from "./folder.js";
import { Form } from "./form.js";
import { recall, remember } from "./memory.js";
import { OptimizerHelp } from "./optimizer.js";
import { Planner, PlanView } from "./plan.js";
import { Presets } from "./presets.js";
import { Refusal } from "./refusal.js";
import { RunPanel } from "./run.js";
import { StartPanel } from "./start.js";

// A run has one length: writing down one empties the other.
const LENGTHS = { max_train_epochs: "max_train_steps", max_train_steps: "max_train_epochs" };

export class TrainTab {
  /**
   * @param {Object} schema the server's answer to `form`
   * @param {import("./live.js").Live} live
   * @param {{edit: (folder: string) => void}} goTo other tabs
   */
  constructor(schema, live, goTo) {
    this.goTo = goTo;
    const { host } = schema;
    this.form = new Form(schema, (name) => this.changed(name));
    this.planner = new Planner(this.form);
    const refusal = new Refusal(this.form, (error) => this.start.fail(error));
    this.planner.addEventListener("plan", () => refusal.show(this.planner.error));
    this.planner.addEventListener("plan", () => this.settleEpochs());
    const simple = this.simplePart(schema);
    this.optimizer = new OptimizerHelp(this.form, schema.optimizers);
    this.advanced = new Advanced(this.form, new Set(this.form.fields.keys()), (option) => this.look(option, schema));
    this.start = new StartPanel(this.form, this.planner, live, host, (job, alone) => alone && this.run.pin(job.id));
    this.run = new RunPanel(live, host, (values) => this.again(values));
    this.keep = debounce(
      () => remember("draft", { values: this.form.changes(), preset: this.presets.applied?.id ?? null }),
      300,
    );
    this.element = h(
      "div",
      { class: "ls-train" },
      h("div", { class: "ls-left" }, simple, this.advanced.element, cachePanel(schema.cache)),
      h("div", { class: "ls-right" }, this.start.element, this.run.element),
    );
    this.form.fill(recall("draft")?.values ?? {});
  }

  simplePart(schema) {
    const { host } = schema;
    const form = this.form;
    this.presets = new Presets(form, schema.presets, recall("draft")?.preset);
    const plan = new PlanView(this.planner);
    const dataset = h(
      "section",
      { class: "ls-section", "aria-label": "Dataset" },
      h("header", { class: "ls-section-head" }, h("h2", {}, "Dataset")),
      form.field("train_data_dir", {
        label: "Folder",
        placeholder: host.dataset_dirs[0] ?? "",
        after: [folderButton(form, "train_data_dir"), this.editButton()],
      }),
      plan.element,
    );
    const folders = host.subfolders.map((name) => [name, name]);
    const lora = h(
      "section",
      { class: "ls-section", "aria-label": "LoRA" },
      h("header", { class: "ls-section-head" }, h("h2", {}, "LoRA")),
      this.presets.element,
      h(
        "div",
        { class: "ls-pairs" },
        form.field("pretrained_model_name_or_path", {
          label: "Base model",
          choices: checkpoints(schema),
          other: "another file …",
          help: "The checkpoint to train on",
        }),
        host.can_lend &&
          form.field("model_source", {
            help: "auto: the loaded weights where they are this checkpoint's, else its file",
          }),
        form.field("output_name", {
          label: "Name",
          help: "The file's name, without extension",
          placeholder: "my-lora",
        }),
        form.field("activation_text", {
          label: "Trigger",
          help: "The words that call it up; they go into the card",
          placeholder: "none",
        }),
        form.field("output_subfolder", {
          label: "Subfolder",
          help: "Below the LoRA folder",
          choices: [["", "none"], ...folders],
          other: "a new one …",
        }),
        form.field("network_dim", { label: "Rank", help: "How much the LoRA can hold, and the size of its file" }),
        form.field("max_train_epochs", {
          label: "Epochs",
          help: "How often all pictures are gone through; none: a number of steps",
        }),
      ),
    );
    return [dataset, lora];
  }

  editButton() {
    return button("Edit captions", () => this.goTo.edit(this.form.values.train_data_dir), {
      title: "Open this folder in the tab Dataset",
    });
  }

  /** What a field of the Advanced part has beside the option's own. */
  look(option, schema) {
    if (option.name === "optimizer_type") return { below: this.optimizer.about };
    if (option.name === "optimizer_args") return { below: this.optimizer.element };
    if (option.name === "vae")
      return { choices: schema.vaes.map((file) => [file.path, file.name]), other: "another file …" };
    return option.folder === "datasets" && option.name.endsWith("_dir")
      ? { after: folderButton(this.form, option.name) }
      : {};
  }

  changed(name) {
    const other = LENGTHS[name];
    if (other && this.form.values[name] !== "") this.form.set(other, "", { quiet: true });
    this.advanced?.refresh();
    this.optimizer?.refresh();
    this.keep?.();
    this.planner.later();
  }

  /** A preset's steps become whole epochs once the dataset is known; else the epochs that the steps make are hinted at. */
  settleEpochs() {
    const { plan, error } = this.planner;
    if (!plan || error) return;
    const field = this.form.fields.get("max_train_epochs");
    const epochs = Math.max(1, Math.round(plan.steps / plan.steps_per_epoch));
    field.control.placeholder = `about ${epochs}`;
    if (this.presets.unsettled) this.form.set("max_train_epochs", epochs);
    this.presets.unsettled = false;
  }

  /** Load a job's values, to change and start them as a new job. */
  load(values) {
    this.form.clear();
    this.presets.applied = null;
    this.presets.draw();
    this.form.fill(values);
  }

  /** A run's settings once more, under a name of their own. */
  again(values) {
    this.load({ ...values, output_name: nextName(values.output_name) });
    this.element.scrollIntoView({ block: "start" });
    tell("The form has this run's settings. Start trains with the pictures that the folder holds now.");
  }
}

/** "zorb" -> "zorb-2" -> "zorb-3". */
function nextName(name) {
  const [, stem, number] = /^(.*?)(?:-(\d{1,4}))?$/.exec(name ?? "");
  return stem ? `${stem}-${Number(number ?? 1) + 1}` : "";
}

/** The loaded checkpoint first, where the host lends it. */
function checkpoints({ checkpoints: files, host }) {
  const lent = files.filter((file) => file.loaded && host.can_lend);
  const rest = files.filter((file) => !lent.includes(file));
  return [...lent.map((file) => [file.path, `loaded: ${file.name}`]), ...rest.map((file) => [file.path, file.name])];
}
