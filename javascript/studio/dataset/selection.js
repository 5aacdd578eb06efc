// Which pictures are chosen, and where the keys stand.

/** Event "selection". The pictures are those that the dataset shows, in its order. */
export class Selection extends EventTarget {
  /** @param {import("./store.js").Dataset} dataset */
  constructor(dataset) {
    super();
    this.dataset = dataset;
    this.ids = new Set();
    this.cursor = null; // where the next key begins
    this.anchor = null; // where a range begins
    dataset.addEventListener("items", () => this.prune());
  }

  get size() {
    return this.ids.size;
  }

  has(id) {
    return this.ids.has(id);
  }

  /** In the order of the dataset, also those that a filter hides. */
  list() {
    return this.dataset.all.filter((id) => this.ids.has(id));
  }

  set(ids, cursor, anchor = cursor) {
    this.ids = new Set(ids);
    this.cursor = cursor;
    this.anchor = anchor;
    this.dispatchEvent(new Event("selection"));
  }

  only(id) {
    this.set([id], id);
  }

  clear() {
    this.set([], this.cursor);
  }

  all() {
    this.set(this.dataset.view, this.cursor ?? this.dataset.view[0] ?? null);
  }

  toggle(id) {
    const ids = new Set(this.ids);
    if (!ids.delete(id)) ids.add(id);
    this.set(ids, id);
  }

  /** Everything from the anchor to `id`; `more` keeps what was chosen before. */
  reach(id, more = false) {
    const { view, places } = this.dataset;
    const anchor = places.has(this.anchor) ? this.anchor : id;
    const [from, to] = [places.get(anchor), places.get(id)].sort((a, b) => a - b);
    const range = view.slice(from, to + 1);
    this.set(more ? [...this.ids, ...range] : range, id, anchor);
  }

  /** Go to a place, as keys do. @param {"only"|"reach"|"look"} how */
  goTo(place, how = "only") {
    const { view } = this.dataset;
    if (!view.length) return;
    const id = view[Math.min(view.length - 1, Math.max(0, place))];
    if (how === "reach") this.reach(id);
    else if (how === "look") this.set(this.ids, id, this.anchor);
    else this.only(id);
  }

  go(by, how = "only") {
    const at = this.dataset.places.get(this.cursor);
    this.goTo(at === undefined ? 0 : at + by, how);
  }

  /** Forget pictures that are gone; the keys stay near where they were. */
  prune() {
    const kept = [...this.ids].filter((id) => this.dataset.has(id));
    const gone = this.cursor !== null && !this.dataset.has(this.cursor);
    if (kept.length === this.ids.size && !gone) return;
    this.set(kept, gone ? (kept[0] ?? null) : this.cursor);
  }
}
