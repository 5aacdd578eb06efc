// Bar charts in SVG: a group of bars for each name, with its values under the pointer or the arrow keys.

import { ticks } from "./charts.js";
import { h, put, show, svg, text } from "./dom.js";

const LEFT = 46,
  RIGHT = 4,
  TOP = 8,
  BOTTOM = 38,
  HEIGHT = 190;
const WIDEST_GROUP = 56;

export class BarChart {
  /**
   * @param {{label: string, format: (value: number) => string, reach?: number}} look the axis goes up to `reach` at
   *   least
   */
  constructor({ label, format, reach = 0 }) {
    Object.assign(this, { label, format, reach, names: [], series: [], at: null });
    this.picture = svg("svg", {
      class: "ls-bars",
      role: "img",
      tabindex: "0",
      height: HEIGHT,
      onpointermove: (event) => this.point(event.clientX - this.picture.getBoundingClientRect().left),
      onpointerleave: () => this.mark(null),
      onblur: () => this.mark(null),
      onkeydown: (event) => this.walk(event),
    });
    this.legend = h("div", { class: "ls-legend" });
    this.readout = h("div", { class: "ls-readout" });
    this.element = h("figure", { class: "ls-chart" }, this.picture, h("figcaption", {}, this.legend, this.readout));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /**
   * @param {string[]} names
   * @param {{name: string, y: (number | null)[]}[]} series null is no bar
   */
  set(names, series) {
    Object.assign(this, { names, series, at: null });
    show(this.legend, series.length > 1);
    put(
      this.legend,
      series.map(({ name }, index) =>
        h("span", { class: "ls-key" }, h("i", { class: `ls-series-${index + 1}` }), name),
      ),
    );
    this.picture.setAttribute("aria-label", `${this.label}. ${names.map((_, index) => this.words(index)).join("; ")}`);
    this.width = 0;
    this.draw();
  }

  draw() {
    const width = Math.round(this.element.clientWidth);
    if (width === 0 || width === this.width || this.names.length === 0) return;
    this.width = width;
    this.group = Math.min(WIDEST_GROUP, (width - LEFT - RIGHT) / this.names.length);
    const values = this.series.flatMap(({ y }) => y).filter(Number.isFinite);
    this.high = Math.max(this.reach, ...values) || 1;
    this.low = Math.min(0, ...values);
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.cursor = svg("rect", {
      class: "ls-bars-cursor",
      y: TOP,
      width: this.group,
      height: HEIGHT - TOP,
      visibility: "hidden",
    });
    put(
      this.picture,
      this.cursor,
      this.grid(),
      this.series.map((each, number) => this.bars(each.y, number)),
      this.labels(),
    );
  }

  toY(value) {
    return HEIGHT - BOTTOM - ((value - this.low) / (this.high - this.low)) * (HEIGHT - TOP - BOTTOM);
  }

  grid() {
    return ticks(this.low, this.high, 4).map((value) => {
      const y = Math.round(this.toY(value)) + 0.5;
      return [
        svg("line", { class: "ls-bars-line", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }),
        svg("text", { class: "ls-bars-tick", x: LEFT - 6, y: y + 3.5 }, this.format(value)),
      ];
    });
  }

  bars(y, number) {
    const room = this.group * 0.78;
    const wide = room / this.series.length;
    return y.map((value, index) => {
      if (!Number.isFinite(value)) return null;
      const [top, bottom] = [this.toY(Math.max(0, value)), this.toY(Math.min(0, value))];
      return svg("rect", {
        class: `ls-series-${number + 1}`,
        x: LEFT + index * this.group + (this.group - room) / 2 + number * wide,
        y: top,
        width: Math.max(1, wide - 1),
        height: Math.max(1, bottom - top),
        rx: 1,
      });
    });
  }

  labels() {
    const upright = this.group < 34;
    return this.names.map((name, index) => {
      const x = LEFT + (index + 0.5) * this.group;
      const y = HEIGHT - BOTTOM + (upright ? 5 : 14);
      return svg(
        "text",
        upright
          ? { class: "ls-bars-name ls-upright", x, y, transform: `rotate(-90 ${x} ${y})`, dy: "0.35em" }
          : { class: "ls-bars-name", x, y },
        name,
      );
    });
  }

  point(x) {
    const index = Math.floor((x - LEFT) / this.group);
    this.mark(index >= 0 && index < this.names.length ? index : null);
  }

  walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined || this.names.length === 0) return;
    event.preventDefault();
    this.readout.setAttribute("aria-live", "polite");
    this.mark(Math.max(0, Math.min(this.names.length - 1, (this.at ?? (move > 0 ? -1 : this.names.length)) + move)));
  }

  mark(index) {
    this.at = index;
    this.cursor?.setAttribute("visibility", index === null ? "hidden" : "visible");
    if (index !== null) this.cursor.setAttribute("x", LEFT + index * this.group);
    text(this.readout, index === null ? "" : this.words(index));
  }

  words(index) {
    const values = this.series.map(({ name, y }) => `${name} ${y[index] === null ? "–" : this.format(y[index])}`);
    return `${this.names[index]}: ${values.join(", ")}`;
  }
}
