// A grid of any length of which only the visible part is in the page.

import { h } from "../dom.js";

const MORE_ROWS = 2; // above and below what is seen

/**
 * @typedef {Object} Look
 * @property {(width: number) => {columns: number, width: number, height: number, gap: number}} layout in px
 * @property {() => HTMLElement} make an empty tile
 * @property {(tile: HTMLElement, place: number) => void} draw
 * @property {(tile: HTMLElement) => void} [clear] the tile is used for another place soon
 */
export class VirtualGrid {
  /** @param {HTMLElement} element what scrolls  @param {Look} look */
  constructor(element, look) {
    this.element = element;
    this.look = look;
    this.count = 0;
    this.tiles = new Map(); // place -> tile
    this.spare = [];
    this.space = h("div", { class: "ls-space", role: "presentation" });
    element.append(this.space);
    this.asked = 0;
    element.addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.resize()).observe(element);
  }

  /** Show so many places, all of them anew. */
  fill(count) {
    this.count = count;
    this.resize();
  }

  resize() {
    const width = this.element.clientWidth;
    if (!width) return; // not shown
    this.shape = this.look.layout(width);
    const rows = Math.ceil(this.count / this.shape.columns);
    this.space.style.height = `${rows * (this.shape.height + this.shape.gap)}px`;
    for (const [place, tile] of this.tiles) this.give(place, tile);
    this.draw();
  }

  soon() {
    this.asked ||= requestAnimationFrame(() => {
      this.asked = 0;
      this.draw();
    });
  }

  /** Bring what is in the page up to what is seen; tiles that stay are left alone. */
  draw() {
    if (!this.shape) return;
    const { columns, height, gap } = this.shape;
    const step = height + gap;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / step) - MORE_ROWS) * columns;
    const end = Math.min(this.count, (Math.ceil((scrollTop + clientHeight) / step) + MORE_ROWS) * columns);
    for (const [place, tile] of this.tiles) if (place < first || place >= end) this.give(place, tile);
    for (let place = first; place < end; place++) if (!this.tiles.has(place)) this.tile(place);
    for (const tile of this.spare) if (!tile.hidden) tile.hidden = true;
  }

  give(place, tile) {
    this.tiles.delete(place);
    this.look.clear?.(tile);
    this.spare.push(tile);
  }

  tile(place) {
    const { columns, width, height, gap } = this.shape;
    const tile = this.spare.pop() ?? this.space.appendChild(this.look.make());
    const [column, row] = [place % columns, Math.floor(place / columns)];
    tile.hidden = false;
    tile.style.width = `${width}px`;
    tile.style.height = `${height}px`;
    tile.style.transform = `translate(${column * (width + gap)}px, ${row * (height + gap)}px)`;
    this.tiles.set(place, tile);
    this.look.draw(tile, place);
  }

  /** Draw what is in the page once more: something about it has changed. */
  redraw() {
    for (const [place, tile] of this.tiles) this.look.draw(tile, place);
  }

  /** Scroll no more than is needed to see a place. */
  reveal(place) {
    if (!this.shape) return;
    const { columns, height, gap } = this.shape;
    const top = Math.floor(place / columns) * (height + gap);
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + height > scrollTop + clientHeight) this.element.scrollTop = top + height - clientHeight;
  }

  /** How many places one page down is. */
  get page() {
    if (!this.shape) return 1;
    const { columns, height, gap } = this.shape;
    return columns * Math.max(1, Math.floor(this.element.clientHeight / (height + gap)));
  }
}
