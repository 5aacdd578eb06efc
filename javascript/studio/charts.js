// Line charts on a canvas, in the page's own colours.

import { h, show, text } from "./dom.js";

const LEFT = 50,
  RIGHT = 10,
  TOP = 8,
  BOTTOM = 20;
const COLORS = ["--ls-line-1", "--ls-line-2", "--ls-line-3", "--ls-line-4"];

/**
 * TensorBoard's moving average: each value counts `weight` times as much as the next one, and the start is not
 * pulled towards 0. What is no number is left out.
 */
export function smooth(values, weight) {
  let sum = 0;
  let norm = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return NaN;
    sum = sum * weight + (1 - weight) * value;
    norm = norm * weight + (1 - weight);
    return norm > 0 ? sum / norm : value;
  });
}

/** At most `columns` spans of [first, last] indices into `count` values. */
function spans(count, columns) {
  const size = Math.max(1, count / Math.max(1, columns));
  const parts = [];
  for (let start = 0; start < count; start += size) {
    const [first, last] = [Math.floor(start), Math.min(count, Math.floor(start + size)) - 1];
    if (last >= first) parts.push([first, last]);
  }
  return parts;
}

/** Smallest and largest number, without the outermost `share` of them at each end. */
function limits(values, share = 0) {
  const numbers = values.filter(Number.isFinite);
  if (numbers.length === 0) return [NaN, NaN];
  if (share === 0)
    return numbers.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  numbers.sort((a, b) => a - b);
  const out = Math.floor(numbers.length * share);
  return [numbers[out], numbers[numbers.length - 1 - out]];
}

/** Round numbers between two limits, about `wanted` of them. */
export function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++)
    found.push(index * step + 0); // no -0
  return found;
}

export class LineChart {
  /** @param {{label: string, format: (value: number) => string, height: number}} look */
  constructor({ label, format, height }) {
    Object.assign(this, { label, format, height, series: [], marks: [], x: [], at: null, due: 0 });
    this.canvas = h("canvas", {
      class: "ls-canvas",
      role: "img",
      tabindex: "0",
      style: `height: ${height}px`,
      "aria-label": label,
    });
    this.readout = h("div", { class: "ls-readout", "aria-live": "off" });
    this.legend = h("div", { class: "ls-legend" });
    this.element = h("figure", { class: "ls-chart" }, this.canvas, h("figcaption", {}, this.legend, this.readout));
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("keydown", (event) => this.walk(event));
    new ResizeObserver(() => this.later()).observe(this.canvas);
    for (const element of [document.body, document.documentElement]) {
      // light and dark are classes there
      new MutationObserver(() => this.later()).observe(element, { attributes: true, attributeFilter: ["class"] });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.later());
  }

  /**
   * @param {number[]} x steps
   * @param {{name: string, y: number[], raw?: number[]}[]} series `raw` is drawn faint behind `y`
   * @param {{step: number, epoch: number}[]} marks
   */
  set(x, series, marks = []) {
    Object.assign(this, { x, series, marks });
    show(this.legend, series.length > 1);
    if (series.length > 1) this.writeLegend();
    const last = series.map((each) => `${each.name} ${this.format(each.y[each.y.length - 1] ?? NaN)}`).join(", ");
    this.canvas.setAttribute(
      "aria-label",
      x.length ? `${this.label} up to step ${x[x.length - 1]}: ${last}` : `${this.label}: nothing yet`,
    );
    this.later();
  }

  writeLegend() {
    const names = this.series.map((each) => each.name);
    if (this.names === names.join()) return;
    this.names = names.join();
    this.legend.replaceChildren(
      ...names.map((name, index) =>
        h("span", { class: "ls-key" }, h("i", { style: `background: var(${COLORS[index % COLORS.length]})` }), name),
      ),
    );
  }

  later() {
    this.due ||= requestAnimationFrame(() => {
      this.due = 0;
      this.draw();
    });
  }

  draw() {
    const { canvas, height } = this;
    const width = canvas.clientWidth;
    if (width === 0) return;
    const scale = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.style = getComputedStyle(canvas);
    pen.font = `11px ${this.style.fontFamily}`;
    const axes = this.axes(width);
    this.drawGrid(pen, axes, width);
    if (this.x.length === 0) return;
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, TOP - 2, width - LEFT - RIGHT, height - TOP - BOTTOM + 4);
    pen.clip();
    this.series.forEach((each, index) => this.drawSeries(pen, axes, each, this.color(COLORS[index % COLORS.length])));
    pen.restore();
    this.drawPointer(pen, axes);
  }

  color(name) {
    return this.style.getPropertyValue(name).trim() || "gray";
  }

  axes(width) {
    const { x, height } = this;
    const [first, last] = x.length > 1 ? [x[0], x[x.length - 1]] : [0, 10];
    let [low, high] = [Infinity, -Infinity];
    for (const { y, raw } of this.series) {
      for (const [a, b] of [limits(y), raw ? limits(raw, 0.02) : [NaN, NaN]]) {
        if (a < low) low = a;
        if (b > high) high = b;
      }
    }
    if (!(low <= high)) [low, high] = [0, 1];
    if (high - low < 1e-3 * Math.abs(high) || high === low)
      [low, high] = [Math.min(0, low), Math.max(0, high) * 1.1 || 1];
    const room = (high - low) * 0.06;
    const bottom = low >= 0 ? Math.max(0, low - room) : low - room;
    high += room;
    return {
      first,
      last,
      low: bottom,
      high,
      toX: (step) => LEFT + ((step - first) / Math.max(1e-9, last - first)) * (width - LEFT - RIGHT),
      toY: (value) => height - BOTTOM - ((value - bottom) / (high - bottom)) * (height - TOP - BOTTOM),
    };
  }

  drawGrid(pen, axes, width) {
    const { height } = this;
    pen.strokeStyle = this.color("--ls-grid");
    pen.fillStyle = this.color("--ls-faint");
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const value of ticks(axes.low, axes.high, Math.max(3, height / 44))) {
      const y = Math.round(axes.toY(value)) + 0.5;
      line(pen, LEFT, y, width - RIGHT, y);
      pen.fillText(this.format(value), LEFT - 6, y);
    }
    if (this.x.length === 0) return;
    this.drawEpochs(pen, axes);
    pen.textBaseline = "alphabetic";
    pen.textAlign = "center";
    for (const step of ticks(axes.first, axes.last, (width - LEFT) / 90)) {
      if (Number.isInteger(step))
        pen.fillText(step.toLocaleString("en"), Math.min(axes.toX(step), width - RIGHT - 10), height - 5);
    }
  }

  /** A dashed line at each epoch's end; of many epochs every second, fifth and so on. */
  drawEpochs(pen, axes) {
    const every = Math.ceil(this.marks.length / 25);
    pen.save();
    pen.setLineDash([2, 3]);
    for (const { step, epoch } of this.marks) {
      if (epoch % every === 0 && step > axes.first && step < axes.last) {
        const x = Math.round(axes.toX(step)) + 0.5;
        line(pen, x, TOP, x, this.height - BOTTOM);
      }
    }
    pen.restore();
  }

  drawSeries(pen, axes, { y, raw }, color) {
    pen.strokeStyle = pen.fillStyle = color;
    const parts = spans(this.x.length, axes.toX(axes.last) - LEFT);
    if (raw) {
      const dense = parts.length < this.x.length; // bars beside one another, in place of points
      const thick = dense ? 1 : 2;
      pen.globalAlpha = dense ? 0.25 : 0.4;
      for (const [first, last] of parts) {
        const [low, high] = limits(raw.slice(first, last + 1));
        const x = axes.toX(this.x[first]);
        if (Number.isFinite(low))
          pen.fillRect(x - thick / 2, axes.toY(high) - 1, thick, axes.toY(low) - axes.toY(high) + 2);
      }
      pen.globalAlpha = 1;
    }
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    pen.beginPath();
    let drawing = false;
    for (const [first, last] of parts) {
      const value = y[last];
      if (!Number.isFinite(value)) drawing = false;
      else {
        pen[drawing ? "lineTo" : "moveTo"](axes.toX(this.x[last]), axes.toY(value));
        drawing = true;
      }
    }
    pen.stroke();
  }

  drawPointer(pen, axes) {
    if (this.at === null) return text(this.readout, "");
    const index = Math.min(this.at, this.x.length - 1);
    const x = axes.toX(this.x[index]);
    pen.strokeStyle = this.color("--ls-faint");
    line(pen, x, TOP, x, this.height - BOTTOM);
    this.series.forEach(({ y }, number) => {
      pen.fillStyle = this.color(COLORS[number % COLORS.length]);
      pen.beginPath();
      pen.arc(x, axes.toY(y[index]), 3, 0, 2 * Math.PI);
      pen.fill();
    });
    return text(this.readout, this.words(index));
  }

  words(index) {
    const step = this.x[index];
    const epoch = this.marks.filter((mark) => mark.step < step).length + 1;
    const values = this.series.map(
      ({ name, y, raw }) => `${name} ${this.format(y[index])}${raw ? ` (unsmoothed ${this.format(raw[index])})` : ""}`,
    );
    return `step ${step.toLocaleString("en")}, epoch ${epoch}: ${values.join(", ")}`;
  }

  /** The step under the pointer. */
  point(offset) {
    if (offset === null || this.x.length === 0) this.at = null;
    else {
      const share = (offset - LEFT) / Math.max(1, this.canvas.clientWidth - LEFT - RIGHT);
      const wanted = this.x[0] + share * (this.x[this.x.length - 1] - this.x[0]);
      this.at = nearest(this.x, wanted);
    }
    this.later();
  }

  walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -50, PageDown: 50, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined || this.x.length === 0) return;
    event.preventDefault();
    this.at = Math.max(0, Math.min(this.x.length - 1, (this.at ?? this.x.length - 1) + move));
    this.readout.setAttribute("aria-live", "polite");
    this.later();
  }
}

/** The index of the value nearest to `wanted` in an ascending list. */
export function nearest(values, wanted) {
  let [low, high] = [0, values.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] <= wanted) low = middle;
    else high = middle;
  }
  return Math.abs(values[low] - wanted) <= Math.abs(values[high] - wanted) ? low : high;
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}
