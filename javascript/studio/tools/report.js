// What a tool says of its work, for people: facts, a chart of the blocks, a table of the layers.

import { BarChart } from "../bars.js";
import { button, h, put } from "../dom.js";
import { bytes, count, whole } from "../format.js";
import { fact } from "../plan.js";
import { DataTable } from "../table.js";
import { MetadataTable } from "./metadata.js";

const figure = (number) => (number === null || number === undefined ? "–" : String(Number(number.toPrecision(4))));

/** 0.0123 -> "1.23 %" */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  if (share === 0) return "0 %";
  if (Math.abs(share) < 1e-6) return "< 0.0001 %";
  return `${Number((share * 100).toPrecision(3))} %`;
}

const arrow = (before, after) => (before === after ? (after ?? "–") : `${before ?? "–"} → ${after ?? "–"}`);

// What a layer's block says already.
const KNOWN =
  /^lora_|(?<=^lora_unet_)(down|up)_blocks_\d+_(attentions_\d+_(?=transformer))?|(?<=^lora_unet_)mid_block_(attentions_\d+_(?=transformer))?|text_model_encoder_/g;

/** A layer's key without what its block says, to be broken behind its underscores. */
const layerName = (key) =>
  h(
    "span",
    { class: "ls-path", title: key },
    key
      .replace(KNOWN, "")
      .split(/(?<=_)/)
      .flatMap((part, index) => (index ? [h("wbr"), part] : [part])),
  );

const LAYER = { name: "Layer", value: (row) => row.key, show: (row) => layerName(row.key) };
const BLOCK = { name: "Block", value: (row) => row.block ?? "other" };
const LOST = {
  name: "Lost",
  number: true,
  value: (row) => row.lost,
  show: (row) => percent(row.lost),
  title: "Share of the layer's change that the result does not have",
};
const RANK = {
  name: "Rank",
  number: true,
  value: (row) => row.rank,
  show: (row) => arrow(row.old_rank ?? row.rank, row.rank),
};
const TYPE = { name: "Type", unlessSame: true };
const LAYERS = {
  extract: [LAYER, BLOCK, { ...TYPE, value: (row) => row.kind }, RANK, LOST],
  merge: [LAYER, BLOCK, { ...TYPE, value: (row) => `${row.kinds.join(" + ")} → ${row.saved_as}` }, RANK, LOST],
  resize: [LAYER, BLOCK, RANK, LOST],
  convert: [LAYER, BLOCK, { ...TYPE, value: (row) => arrow(row.from, row.to) }, RANK, LOST],
  compare: [
    LAYER,
    BLOCK,
    { name: "Cosine", number: true, value: (row) => row.cosine, show: (row) => figure(row.cosine) },
    { name: "Overlap", number: true, value: (row) => row.overlap, show: (row) => figure(row.overlap) },
  ],
};

const WEIGHED = [
  { name: "Block", value: (row) => row.block },
  { name: "Weight", number: true, value: (row) => row.ratio, show: (row) => figure(row.ratio) },
  { name: "Layers", number: true, value: (row) => row.modules },
];

const facts = (rows) =>
  h(
    "dl",
    { class: "ls-facts ls-tool-facts" },
    rows
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => fact(name, value)),
  );

function chart(title, format, names, series, reach = 0) {
  const bars = new BarChart({ label: title, format, reach });
  bars.set(names, series);
  return h("div", { class: "ls-tool-chart" }, h("h4", {}, title), bars.element);
}

/** The place of a block in the order of the data: BASE, IN00 …, M00, OUT00 …, other. */
const place = (block) => ["BASE", "IN", "M", "OUT"].findIndex((word) => block.startsWith(word)) + 1 || 9;

/** The mean of a block's layers, and the worst of them. */
function lostChart(layers) {
  const blocks = new Map();
  for (const { block, lost } of layers) {
    const name = block ?? "other";
    if (!blocks.has(name)) blocks.set(name, []);
    blocks.get(name).push(lost);
  }
  const names = [...blocks.keys()].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
  const lists = names.map((name) => blocks.get(name));
  return chart("Share of the change that is lost, by block", percent, names, [
    { name: "mean of the layers", y: lists.map((list) => list.reduce((sum, each) => sum + each, 0) / list.length) },
    { name: "worst layer", y: lists.map((list) => Math.max(...list)) },
  ]);
}

/** The layers, the worst first. */
function layerTable(kind, layers, worst = "Lost", falling = true) {
  const columns = LAYERS[kind].filter(
    (column) => !column.unlessSame || new Set(layers.map((layer) => column.value(layer))).size > 1,
  );
  const order = { column: columns.findIndex((column) => column.name === worst), falling };
  return new DataTable("Layers", columns, layers, order).element;
}

const leftOut = (names) =>
  names.length > 0 &&
  h(
    "details",
    { class: "ls-left-out" },
    h("summary", {}, `${count(names.length, "layer")} left out`),
    h(
      "ul",
      {},
      names.map((name) => h("li", { class: "ls-path" }, name)),
    ),
  );

/** Of extract, merge, resize and convert. */
function lossy(kind, report, rows = []) {
  const { layers } = report;
  const loses = layers.some((layer) => layer.lost > 0);
  return [
    facts([
      ["Lost of the whole change", loses ? percent(report.lost) : "nothing but rounding"],
      ["Layers", whole(layers.length)],
      ...rows,
    ]),
    loses && lostChart(layers),
    layerTable(kind, layers),
    leftOut(report.left_out),
  ];
}

const counted = (kinds) =>
  Object.entries(kinds)
    .map(([name, number]) => `${name} (${whole(number)})`)
    .join(", ");

const MOST_TAGS = 40;

/** The tags that it was trained on, the most frequent first. */
function tagList(tags) {
  if (tags.length === 0) return null;
  const list = h("p", { class: "ls-tags" });
  const draw = (most) =>
    put(
      list,
      tags
        .slice(0, most)
        .map(([tag, number]) =>
          h("span", { class: "ls-trained" }, tag, h("span", { class: "ls-count" }, whole(number))),
        ),
      tags.length > most && button(`All ${whole(tags.length)}`, () => draw(tags.length)),
    );
  draw(MOST_TAGS);
  return [h("h4", {}, "Tags that it was trained on"), list];
}

const REPORTS = {
  extract: (report) =>
    lossy("extract", report, [
      [
        "Above the best possible error",
        report.exact ? "0 (exact)" : `at most ${percent(report.worst_excess)} in any layer`,
      ],
    ]),
  merge: (report) => lossy("merge", report, [["Made of", report.recipe.join(" + ")]]),
  resize: (report) => lossy("resize", report),
  blocks: (report) => [
    facts([
      ["Weights", report.words],
      ["Layers", `${whole(report.modules - report.left_out)} of ${whole(report.modules)}`],
      ["Whole differences", report.whole && whole(report.whole)],
    ]),
    new DataTable("Blocks", WEIGHED, report.blocks, { column: 0, falling: false }).element,
  ],
  convert: (report) => lossy("convert", report, [["Names", report.names]]),
  bake: (report) => [
    facts([
      ["Baked in", report.recipe.join(" + ")],
      ["VAE", report.vae],
      ["Layers", whole(report.layers)],
      ["Tensors changed", `${whole(report.changed)} of ${whole(report.tensors)}`],
    ]),
    leftOut(report.unknown),
  ],
  inspect: (report, job, actions) => [
    facts([
      ["Family", report.family ?? "unknown"],
      ["Types", counted(report.types)],
      ["Ranks", counted(report.ranks) || "none"],
      ["Alpha / rank", report.scales.slice(0, 8).map(figure).join(", ")],
      ["Precision", Object.keys(report.precisions).join(", ")],
      ["Size", `${bytes(report.bytes)}, ${whole(report.parameters)} numbers in ${count(report.modules, "module")}`],
    ]),
    chart(
      "Norm of the change, by block",
      figure,
      report.blocks.map((row) => row.block),
      [{ name: "norm", y: report.blocks.map((row) => row.norm) }],
    ),
    report.blocks.some((row) => row.norm === null) &&
      h(
        "p",
        { class: "ls-help" },
        "–: a type whose change depends on the checkpoint, which is given under More options.",
      ),
    tagList(report.tags),
    new MetadataTable(report.metadata, job.values.model, actions.edit).element,
  ],
  verify: (report) => [
    h(
      "p",
      { class: `ls-verdict ${report.ok ? "ls-fine" : "ls-broken"}` },
      report.ok
        ? `No errors: ${report.family ?? "unknown family"}, ${counted(report.kinds)}.`
        : "This file does not work as it should.",
    ),
    report.problems.map(problem),
  ],
  compare: (report) => [
    facts([
      ["Cosine of the whole", figure(report.cosine)],
      ["Overlap of directions", figure(report.overlap)],
      ["Norms", `${figure(report.first)} and ${figure(report.second)}`],
      ["Layers of both", whole(report.layers.length)],
      ["Of the first alone", whole(report.only_first.length)],
      ["Of the second alone", whole(report.only_second.length)],
    ]),
    h("p", { class: "ls-help" }, "1: the same; 0: nothing to do with each other; cosine below 0: against each other."),
    chart(
      "How alike, by block",
      figure,
      report.blocks.map((row) => row.block),
      ["cosine", "overlap"].map((name) => ({ name, y: report.blocks.map((row) => row[name]) })),
      1,
    ),
    layerTable("compare", report.layers, "Cosine", false),
  ],
};

function problem({ level, text, count: number, names }) {
  const words = [h("b", {}, level), ` ${text}${number ? ` (${whole(number)})` : ""}`];
  if (names.length === 0) return h("p", { class: `ls-problem ls-${level}` }, words);
  return h(
    "details",
    { class: `ls-problem ls-${level}` },
    h("summary", {}, words),
    h(
      "ul",
      {},
      names.map((name) => h("li", { class: "ls-path" }, name)),
      number > names.length && h("li", {}, `and ${whole(number - names.length)} more`),
    ),
  );
}

/**
 * @param {Object} job with its report
 * @param {{edit: (values: Object) => void}} actions
 */
export const reportOf = (job, actions) => REPORTS[job.kind](job.tool.report, job, actions);
