// The job of this tab that is looked at: its pictures and figures as they come in.

import { address } from "../api.js";
import { h, put, show } from "../dom.js";
import { fileName } from "../format.js";
import { JobCard } from "../job_card.js";
import { ACTIVE } from "../live.js";
import { AnalysisView } from "./analysis.js";
import { GridView } from "./grid_view.js";
import { KnowledgeView } from "./knowledge.js";

const VIEWS = { grid: GridView, analyse: AnalysisView, knowledge: KnowledgeView };

/** The kinds of jobs that are shown here. */
export const BLOCKS_KINDS = Object.keys(VIEWS);

/**
 * @typedef {{name: (job: Object) => string, change: (job: Object) => void, train: (values: Object) => void,
 *   use: (values: Object) => void, weigh: (lora: string, weights: Object<string, number>) => void,
 *   savePreset: (lora: string, weights: Object<string, number>) => void}} Actions what an experiment is called, and
 *   what a result leads to: a job's values into the form, values for the Train tab, a picture's LoRA and weights to the
 *   left side, weights by block to the sliders or into a preset
 */
export class BlocksRun extends JobCard {
  /**
   * @param {import("../live.js").Live} live
   * @param {Actions} actions
   */
  constructor(live, actions) {
    super(live, {
      empty: "Pictures are shown here as they are made. Choose a LoRA, write a prompt and start.",
      change: actions.change,
    });
    this.actions = actions;
  }

  begin() {
    this.view = new VIEWS[this.job.kind](this.actions);
    this.links = h("div", { class: "ls-row ls-small", hidden: true });
    put(this.result, this.view.element, this.links);
  }

  label(job) {
    return this.actions.name(job);
  }

  /** The notes are events, as the pictures are. */
  async readNotes(job) {
    const key = `${job.status}/${job.ended}`;
    if (!ACTIVE.has(job.status) && this.readUpTo === `${job.id}/${key}`) return;
    const { view } = this;
    await super.readNotes(job);
    if (this.view !== view) return;
    if (this.feed.readUpTo === key) this.readUpTo = `${job.id}/${key}`;
    view.update(job, this.feed);
    this.drawLinks(job);
  }

  drawLinks(job) {
    const any = this.feed.cells.length + this.feed.blocks.length > 0;
    show(this.links, any);
    if (!any || this.linked === `${job.id}/${job.status}`) return;
    this.linked = `${job.id}/${job.status}`;
    const base = `jobs/${encodeURIComponent(job.id)}`;
    const link = (label, path, file) =>
      h("a", { class: "ls-button ls-plain", href: address(`${base}/${path}`), download: file }, label);
    put(
      this.links,
      link("Figures as CSV", "csv", `${job.kind}-${fileName(job.name)}.csv`),
      job.status === "done" &&
        link(
          job.kind === "analyse" ? "The chart as a picture" : "The whole grid as a picture",
          "picture",
          `${job.kind}-${fileName(job.name)}.png`,
        ),
    );
  }
}
