// The pictures as tiles: only those that are seen are in the page.

import { address } from "../api.js";
import { h, text } from "../dom.js";
import { recall, remember } from "../memory.js";
import { FLAGS } from "./store.js";
import { Thumbnails } from "./thumbnails.js";
import { VirtualGrid } from "./virtual.js";

const GAP = 6,
  NAME_HEIGHT = 20,
  SIZES = { least: 90, most: 260, usual: 150 };

export class Gallery {
  /**
   * @param {import("./store.js").Dataset} dataset
   * @param {import("./selection.js").Selection} selection
   * @param {{unsaved: (id: number) => boolean, open: () => void, trash: () => void}} look
   *   `open` is what Enter and a double click do
   */
  constructor(dataset, selection, look) {
    Object.assign(this, { dataset, selection, look });
    this.size = recall("tile", SIZES.usual);
    this.thumbnails = new Thumbnails();
    this.element = h("div", {
      class: "ls-gallery",
      role: "listbox",
      tabindex: "0",
      "aria-label": "Pictures",
      "aria-multiselectable": "true",
      onkeydown: (event) => this.key(event),
      onmousedown: (event) => event.shiftKey && event.preventDefault(), // no text is marked
      onclick: (event) => this.click(event),
      ondblclick: (event) => this.idAt(event) !== null && look.open(),
    });
    this.grid = new VirtualGrid(this.element, {
      layout: (width) => this.layout(width),
      make: () => this.make(),
      draw: (tile, place) => this.draw(tile, place),
      clear: (tile) => this.forget(tile),
    });
    let top = 0;
    this.element.addEventListener("scroll", () => {
      if (Math.abs(this.element.scrollTop - top) > this.element.clientHeight / 2) this.thumbnails.rest();
      top = this.element.scrollTop;
    });
    dataset.addEventListener("opened", () => this.thumbnails.clear());
    dataset.addEventListener("items", () => this.grid.redraw());
    dataset.addEventListener("view", () => this.renew());
    selection.addEventListener("selection", () => this.follow());
  }

  /** How large tiles are. */
  slider() {
    const input = h("input", {
      type: "range",
      min: SIZES.least,
      max: SIZES.most,
      value: this.size,
      "aria-label": "Size of the tiles",
      title: "Size of the tiles",
      oninput: () => {
        this.size = Number(input.value);
        remember("tile", this.size);
        this.grid.resize();
        this.follow();
      },
    });
    return input;
  }

  layout(width) {
    const columns = Math.max(1, Math.floor((width + GAP) / (this.size + GAP)));
    const tile = Math.floor((width - GAP * (columns - 1)) / columns);
    return { columns, width: tile, height: tile + NAME_HEIGHT, gap: GAP };
  }

  make() {
    const image = h("img", { alt: "", draggable: "false", decoding: "async" });
    const name = h("span", { class: "ls-tile-name" });
    const tile = h("div", { class: "ls-tile", role: "option" }, h("span", { class: "ls-tile-picture" }, image), name);
    return Object.assign(tile, { image, name });
  }

  draw(tile, place) {
    const { dataset, selection } = this;
    const id = dataset.view[place];
    if (!dataset.has(id)) return;
    const [name, flag] = [dataset.name(id), dataset.value(id, "flags")];
    tile.dataset.id = id;
    tile.id = `ls-tile-${id}`;
    text(tile.name, name.split("/").pop());
    const mark = this.look.unsaved(id)
      ? "unsaved"
      : flag === FLAGS.problem
        ? "problem"
        : flag === FLAGS.none
          ? "none"
          : "";
    if (tile.dataset.mark !== mark) tile.dataset.mark = mark;
    tile.title =
      name + { unsaved: ": not saved yet", problem: ": see what is wrong with it", none: ": no caption", "": "" }[mark];
    tile.setAttribute("aria-selected", String(selection.has(id)));
    tile.setAttribute("aria-posinset", place + 1);
    tile.setAttribute("aria-setsize", dataset.view.length);
    tile.classList.toggle("ls-cursor", id === selection.cursor);
    this.thumbnails.show(tile.image, this.thumb(id));
  }

  /** A tile that shows nothing is found by nobody as the picture's that it showed. */
  forget(tile) {
    for (const name of ["id", "title", "data-id", "aria-selected"]) tile.removeAttribute(name);
    this.thumbnails.forget(tile.image);
  }

  thumb(id) {
    return address(this.dataset.look(`thumb/${id}?v=${this.dataset.value(id, "stamps")}`));
  }

  renew() {
    this.grid.fill(this.dataset.view.length);
    this.follow();
  }

  /** From the top: hidden, it keeps the place to which the folder before was scrolled. */
  begin() {
    this.element.scrollTop = 0;
    this.follow();
  }

  follow() {
    this.grid.redraw();
    const { cursor } = this.selection;
    const place = this.dataset.places.get(cursor);
    if (place === undefined) return this.element.removeAttribute("aria-activedescendant");
    this.element.setAttribute("aria-activedescendant", `ls-tile-${cursor}`);
    return this.grid.reveal(place);
  }

  idAt(event) {
    const tile = event.target.closest(".ls-tile");
    return tile ? Number(tile.dataset.id) : null;
  }

  click(event) {
    const id = this.idAt(event);
    const { selection } = this;
    if (id === null) return event.target === this.grid.space && selection.clear();
    if (event.shiftKey) return selection.reach(id, event.ctrlKey || event.metaKey);
    if (event.ctrlKey || event.metaKey) return selection.toggle(id);
    return selection.only(id);
  }

  key(event) {
    const { selection } = this;
    const command = event.ctrlKey || event.metaKey;
    const columns = this.grid.shape?.columns ?? 1;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    moves.PageUp = -(moves.PageDown = this.grid.page);
    const how = event.shiftKey ? "reach" : command ? "look" : "only";
    if (event.key in moves) this.go(moves[event.key], how);
    else if (event.key === "Home") selection.goTo(0, how);
    else if (event.key === "End") selection.goTo(this.dataset.view.length - 1, how);
    else if (event.key === " " && selection.cursor !== null) selection.toggle(selection.cursor);
    else if (event.key === "Enter") this.look.open();
    else if (event.key === "Delete") this.look.trash();
    else if (event.key === "Escape") selection.clear();
    else if (command && event.key.toLowerCase() === "a") selection.all();
    else return;
    event.preventDefault();
    event.stopPropagation(); // the WebUI has keys of its own
  }

  /** Up and down end in the first and last row, in the same column. */
  go(by, how) {
    const { selection, dataset } = this;
    const at = dataset.places.get(selection.cursor);
    if (at === undefined || Math.abs(by) === 1) return selection.go(by, how);
    const { columns } = this.grid.shape;
    let to = at + by;
    if (to < 0) to = at % columns;
    if (to >= dataset.view.length) to = Math.max(at, dataset.view.length - 1);
    return selection.goTo(to, how);
  }
}
