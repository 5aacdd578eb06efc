// What a checkpoint makes of tags without a LoRA: their pictures, and how much each changes what it predicts.

import { h, put } from "../dom.js";
import { DataTable } from "../table.js";
import { percent } from "../tools/report.js";
import { GridView } from "./grid_view.js";

const times = (number) => (number === null ? "–" : `${number.toFixed(1)} ×`);

const COLUMNS = [
  { name: "Tag", value: (row) => row.tag },
  {
    name: "Effect",
    number: true,
    value: (row) => row.over_nonsense,
    show: (row) => times(row.over_nonsense),
    title: "How much it changes the prediction, over what a word does that nobody knows: near 1 it is not known",
  },
  {
    name: "Change",
    number: true,
    value: (row) => row.effect,
    show: (row) => percent(row.effect),
    title: "How much it changes the prediction",
  },
];

export class KnowledgeView extends GridView {
  constructor(actions) {
    super(actions);
    this.table = h("div");
    this.element.prepend(this.table);
    put(this.hint, "Near 1 × the checkpoint may as well not know a tag; far above it the tag means something already.");
  }

  update(job, feed) {
    const before = this.drawn;
    super.update(job, feed);
    if (this.drawn === before) return;
    const tags = new Map(feed.cells.filter(({ values }) => values.tag).map(({ values }) => [values.tag, values]));
    const table = new DataTable("Tags", COLUMNS, [...tags.values()], { column: 1, falling: true });
    put(this.table, table.element);
  }
}
