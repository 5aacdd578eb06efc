// The open dataset as the page knows it: its pictures, which of them are shown and in which order.

import { get, Lost, post } from "../api.js";
import { recall, remember } from "../memory.js";

/** How a folder is read where nobody says otherwise. */
export const USUAL = { caption_extension: ".txt", recursive: true };

const POLL_MS = 1500,
  OPENING_MS = 250,
  HIDDEN_MS = 8000;
const MOST_RECENT = 6;
const NOTHING = { tag: null, ids: [], names: [], widths: [], heights: [], stamps: [], flags: [] };

/** The status of a refusal because the folder was opened anew meanwhile. */
export const ANEW = 409;

/** The folders that were opened last, and how each was read. */
export const lately = () => recall("datasets", []).filter((each) => each.folder);

const tokenOf = (version) => version?.split(".")[0] ?? null;
const numberOf = (version) => Number(version?.split(".")[1] ?? 0);

/** What a picture's flag says. */
export const FLAGS = { caption: 0, none: 1, problem: 2 };

/**
 * Events: "status" after each answer of the server's, "opened" with a folder, "items" when the list of pictures is
 * another, "view" when other ones are shown, "captions" when captions have changed (detail: their ids, null for all
 * that may have), "lost" with an error when the folder cannot be read any more.
 */
export class Dataset extends EventTarget {
  /** @param {() => boolean} seen whether somebody looks at it */
  constructor(seen) {
    super();
    this.seen = seen;
    this.timer = 0;
    this.forget();
  }

  forget() {
    this.id = null;
    this.folder = null;
    this.reading = USUAL; // how it is read
    this.status = null;
    this.version = null;
    this.token = null; // of the opening to which the pictures' numbers belong
    this.order = { by: "name", reverse: false };
    this.query = "";
    this.selected = []; // pictures that the query calls so
    this.asked = 0;
    this.renewed = 0;
    this.take(NOTHING);
    this.view = [];
    this.places = new Map();
  }

  get isOpen() {
    return this.id !== null && this.version !== null;
  }

  get count() {
    return this.columns.ids.length;
  }

  get all() {
    return this.columns.ids;
  }

  /** Where to ask about pictures by their numbers, and to change them: refused after the folder was opened anew. */
  route(path) {
    return `dataset/${this.id}${this.token ? `.${this.token}` : ""}/${path}`;
  }

  /** Where to look at the folder, whichever opening it is, and at pictures, which a browser keeps by their address. */
  look(path = "") {
    return `dataset/${this.id}${path && `/${path}`}`;
  }

  /** A picture's own values by the names of the columns. */
  name(id) {
    return this.columns.names[this.rows.get(id)] ?? "";
  }

  value(id, column) {
    return this.columns[column][this.rows.get(id)];
  }

  has(id) {
    return this.rows.has(id);
  }

  /** The folder, and how it is read. */
  get place() {
    return { folder: this.folder, ...this.reading };
  }

  /** @param {string} folder  @param {{caption_extension: string, recursive: boolean}} reading */
  async open(folder, reading = USUAL) {
    clearTimeout(this.timer);
    const status = await post("dataset/open", { folder, ...reading });
    if (status.id !== this.id) {
      this.forget();
      this.id = status.id;
    }
    this.folder = status.folder;
    this.reading = { caption_extension: status.caption_extension, recursive: status.recursive };
    const others = lately().filter((each) => each.folder !== status.folder);
    remember("datasets", [this.place, ...others].slice(0, MOST_RECENT));
    await this.follow(status);
    this.later();
    return status;
  }

  close() {
    clearTimeout(this.timer);
    this.forget();
    this.dispatchEvent(new Event("status"));
  }

  later() {
    clearTimeout(this.timer);
    if (this.id === null) return;
    const pause = this.version === null ? OPENING_MS : !document.hidden && this.seen() ? POLL_MS : HIDDEN_MS;
    this.timer = setTimeout(() => this.poll(), pause);
  }

  /** Ask whether anything has changed, here or by somebody else. */
  async poll() {
    const id = this.id;
    if (id === null) return;
    try {
      const status = await get(this.look());
      if (id === this.id) await this.follow(status);
    } catch (error) {
      if (id !== this.id) return;
      // The server was started again, or has closed what nobody looked at.
      if (error.status === 404) await this.reopen();
      else if (!(error instanceof Lost)) this.dispatchEvent(new CustomEvent("lost", { detail: error }));
    } finally {
      if (id === this.id) this.later();
    }
  }

  async reopen() {
    this.version = null;
    try {
      await this.follow(await post("dataset/open", this.place));
    } catch (error) {
      this.dispatchEvent(new CustomEvent("lost", { detail: error }));
      this.close();
    }
  }

  /** Take what the server says, and fetch what is new with it. */
  async follow(status) {
    // An answer that was overtaken on its way, and knows nothing of the last edit.
    const isOlder = numberOf(status.version) < numberOf(this.version);
    if (isOlder && status.version && tokenOf(status.version) === tokenOf(this.version)) return;
    // Opened anew by the server: the pictures' numbers are others.
    if (this.version !== null && tokenOf(status.version) !== tokenOf(this.version)) this.version = null;
    this.status = status;
    if (status.error) {
      this.dispatchEvent(new CustomEvent("lost", { detail: status.error }));
      return this.close();
    }
    if (status.version !== null && status.version !== this.version) await this.renew(status.version);
    this.dispatchEvent(new Event("status"));
  }

  async renew(version) {
    const { id, version: before } = this;
    const turn = ++this.renewed;
    const isStale = () => id !== this.id || turn !== this.renewed;
    this.version = version;
    let columns;
    try {
      columns = await get(this.look("items"));
    } catch (error) {
      if (!isStale()) this.version = before; // asked for again with the next look
      throw error;
    }
    if (isStale()) return;
    if (columns.tag !== this.columns.tag) {
      this.take(columns);
      this.dispatchEvent(new Event("items"));
    }
    await this.filter(this.query).catch(() => this.show(this.view.filter((id) => this.has(id))));
    if (isStale()) return;
    if (this.token !== tokenOf(version)) {
      this.token = tokenOf(version);
      this.dispatchEvent(new Event("opened"));
    }
    this.dispatchEvent(new CustomEvent("captions", { detail: null }));
  }

  take(columns) {
    this.columns = columns;
    this.rows = new Map(columns.ids.map((id, row) => [id, row]));
  }

  show(ids) {
    const same = ids.length === this.view.length && ids.every((id, place) => id === this.view[place]);
    if (same) return;
    this.view = ids;
    this.places = new Map(ids.map((id, place) => [id, place]));
    this.dispatchEvent(new Event("view"));
  }

  /**
   * Show what fits a query; `selected` are the pictures that it may call so. Of several questions under way the last one counts.
   * @throws {import("../api.js").Refused} the query cannot be read; what is shown stays
   */
  async filter(query, selected = this.selected) {
    const turn = ++this.asked;
    const body = { query, by: this.order.by, reverse: this.order.reverse, selected: [...selected] };
    const { ids } = await post(this.look("filter"), body);
    if (turn !== this.asked) return;
    Object.assign(this, { query, selected });
    this.show(ids.filter((id) => this.has(id)));
  }

  async sort(by, reverse) {
    this.order = { by, reverse };
    await this.filter(this.query);
  }

  /** Do something that changes the dataset, and take what comes of it. */
  async change(path, body = {}) {
    let answer;
    try {
      answer = await post(this.route(path), body);
    } catch (error) {
      if (error.status === ANEW) this.poll();
      throw error;
    }
    const { status, ...done } = answer;
    await this.follow(status);
    return done;
  }

  item(id) {
    return get(this.route(`items/${id}`));
  }
}
