// What each block does to the pictures: a chart, a ranked table, heat maps, and a preset made of it.

import { BarChart } from "../bars.js";
import { button, h, labelled, put, select, show, text } from "../dom.js";
import { pictureAddress } from "../pictures.js";
import { DataTable } from "../table.js";
import { percent } from "../tools/report.js";
import { zoom } from "./zoom.js";

const WAYS = { alone: "alone", off: "off" };
const KEEP_PERCENT = 30;

const column = (way, figure, name, title) => ({
  name,
  title,
  number: true,
  value: (row) => row[way]?.[figure] ?? null,
  show: (row) => (row[way] ? percent(row[way][figure]) : "–"),
});

const COLUMNS = [
  { name: "Block", value: (row) => row.block },
  column("alone", "mean", "Alone", "Mean difference from the picture without the LoRA when this block alone acts"),
  column("alone", "changed", "Changed", "Share of the picture that differs by more than the threshold"),
  column("off", "mean", "Off", "Mean difference from the picture of the whole LoRA when this block is off"),
  column("off", "changed", "Changed off", "Share of the picture that differs by more than the threshold"),
];

export class AnalysisView {
  /** @param {import("./run.js").Actions} actions */
  constructor(actions) {
    Object.assign(this, { actions, drawn: -1, blocks: [], look: "heat_alone" });
    this.chart = new BarChart({ label: "Change of the picture, by block", format: percent });
    this.table = h("div");
    this.maps = h("div", { class: "ls-thumbs ls-maps" });
    this.looks = select([], "", (look) => this.drawMaps(look));
    this.looks.setAttribute("aria-label", "Pictures of");
    this.element = h(
      "div",
      { class: "ls-tool-result" },
      h("div", { class: "ls-tool-chart" }, h("h4", {}, "Change of the picture, by block"), this.chart.element),
      this.table,
      this.presetPart(),
      h("header", { class: "ls-part-head" }, h("h3", {}, "Block by block"), h("div", {}, this.looks)),
      this.maps,
    );
  }

  update(job, feed) {
    this.job = job;
    if (feed.blocks.length === this.drawn) return;
    this.drawn = feed.blocks.length;
    this.blocks = feed.blocks;
    show(this.element, this.drawn > 0);
    if (this.drawn === 0) return;
    const ways = Object.keys(WAYS).filter((way) => this.blocks.some((block) => block[way]));
    this.way = ways[0];
    this.chart.set(
      this.blocks.map((block) => block.block),
      ways.map((way) => ({ name: WAYS[way], y: this.blocks.map((block) => block[way]?.mean ?? null) })),
    );
    const columns = COLUMNS.filter((each) => this.blocks.some((block) => each.value(block) !== null));
    const table = new DataTable("Blocks", columns, this.blocks, { column: 1, falling: true });
    put(this.table, table.element);
    this.drawLooks(ways);
    this.drawMaps(this.look);
    this.drawPreset();
  }

  /** Which blocks to keep, by how much they change. */
  presetPart() {
    this.share = h("input", {
      class: "ls-input ls-number",
      inputmode: "decimal",
      value: KEEP_PERCENT,
      oninput: () => this.drawPreset(),
    });
    this.shape = select(
      [
        ["whole", "1, the others 0"],
        ["graded", "graded by their change"],
      ],
      "whole",
      () => this.drawPreset(),
    );
    this.kept = h("p", { class: "ls-help", role: "status" });
    return h(
      "div",
      { class: "ls-result ls-make-preset" },
      h("b", {}, "Make a preset of it"),
      h(
        "div",
        { class: "ls-row" },
        labelled("Blocks from % of the strongest", this.share),
        labelled("Their weights", this.shape),
      ),
      this.kept,
      h(
        "div",
        { class: "ls-row ls-small" },
        button("To the sliders", () => this.actions.weigh(this.job.values.lora, this.weights()), { kind: "primary" }),
        button("Save as a preset …", () => this.actions.savePreset(this.job.values.lora, this.weights())),
      ),
    );
  }

  /** The weight of each block by its name. */
  weights() {
    const change = (block) => block[this.way]?.mean ?? 0;
    const strongest = Math.max(...this.blocks.map(change));
    const least = (Number(this.share.value.replace(",", ".")) || 0) / 100;
    const weight = (share) => (share === 0 || share < least ? 0 : this.shape.value === "whole" ? 1 : share);
    return Object.fromEntries(
      this.blocks.map((block) => [block.block, strongest ? weight(change(block) / strongest) : 0]),
    );
  }

  drawPreset() {
    const kept = Object.entries(this.weights()).filter(([, weight]) => weight > 0);
    text(this.kept, kept.length ? `Keeps ${kept.map(([block]) => block).join(", ")}` : "Keeps no block.");
  }

  drawLooks(ways) {
    const choices = ways.flatMap((way) => [
      [`heat_${way}`, `heat maps, ${WAYS[way]}`],
      [way, `pictures, ${WAYS[way]}`],
    ]);
    if (!choices.some(([look]) => look === this.look)) this.look = choices[0][0];
    put(
      this.looks,
      choices.map(([value, label]) => h("option", { value }, label)),
    );
    this.looks.value = this.look;
  }

  drawMaps(look) {
    this.look = look;
    // A row for each prompt and seed, of which the first is shown; the others are below it, once it is large.
    const shown = this.blocks
      .filter((block) => block.pictures[look]?.length)
      .flatMap((block, column) =>
        [block.pictures[look]].flat().map((name, row) => ({
          source: pictureAddress(this.job.id, name),
          label: block.block,
          note: this.note(block),
          row,
          column,
        })),
      );
    const first = shown.filter((each) => each.row === 0);
    put(
      this.maps,
      first.map((each) =>
        h(
          "figure",
          {},
          h(
            "button",
            {
              type: "button",
              class: "ls-thumb",
              title: `${each.label}: ${each.note}`,
              onclick: () => zoom(`${this.job.name}: ${this.looks.selectedOptions[0].textContent}`, shown, each),
            },
            h("img", { src: each.source, alt: `${each.label}: ${each.note}`, loading: "lazy" }),
          ),
          h("figcaption", {}, each.label),
        ),
      ),
    );
  }

  note(block) {
    return Object.keys(WAYS)
      .filter((way) => block[way])
      .map((way) => `${WAYS[way]} ${percent(block[way].mean)}`)
      .join(", ");
  }
}
