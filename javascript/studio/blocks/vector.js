// Block weights as the sliders hold them: for each block a number or a word of the prompt's syntax.

const ENTRY = /^(?:[+-]?(?:\d+\.?\d*|\.\d+)|X(?:[+-](?:\d+\.?\d*|\.\d+))?|R|U)$/i;
const BASE = "BASE";

/** "0,5" is meant by many who write 0.5; a list has a field of its own. */
export const isEntry = (entry) => ENTRY.test(entry);

/** 0.30000000000000004 -> "0.3" */
export const shortNumber = (number) => String(Number(Number(number).toFixed(3)));

/** The number that an entry stands for; null for R and U, which are drawn for each picture. */
export function numberOf(entry, x) {
  const word = entry.toUpperCase();
  if (word === "R" || word === "U") return null;
  if (word.startsWith("X")) return Number(x) + Number(word.slice(1) || 0);
  return Number(entry);
}

/**
 * Fires "change" after any change.
 * Solo and mute lie over the entries: they change what acts, and are undone without a trace.
 */
export class Vector extends EventTarget {
  constructor() {
    super();
    Object.assign(this, {
      names: [],
      entries: [],
      x: "1",
      solo: new Set(),
      muted: new Set(),
      preset: null,
      presetHasX: false,
    });
  }

  /** Another list of blocks; what both lists have keeps its entry, the others begin with 1. */
  setNames(names) {
    const before = new Map(this.names.map((name, index) => [name, this.entries[index]]));
    this.load(
      names.map((name) => before.get(name) ?? "1"),
      { names },
    );
  }

  /**
   * All entries at once, without solo and mute.
   * @param {{names?: string[], preset?: string | null, presetHasX?: boolean}} from `preset` is the name of what they
   *   come from; `presetHasX`: they would be others with another X
   */
  load(entries, { names = this.names, preset = null, presetHasX = false } = {}) {
    Object.assign(this, { names, entries: entries.map(String), preset, presetHasX });
    this.solo.clear();
    this.muted.clear();
    this.tell();
  }

  set(index, entry) {
    this.entries[index] = entry;
    this.preset = null;
    this.tell();
  }

  setX(x) {
    this.x = x;
    this.tell();
  }

  /** @param {"solo"|"muted"} which */
  toggle(which, name) {
    if (!this[which].delete(name)) this[which].add(name);
    this.tell();
  }

  clearOver() {
    this.solo.clear();
    this.muted.clear();
    this.tell();
  }

  tell() {
    this.dispatchEvent(new Event("change"));
  }

  isSilent(name) {
    return this.muted.has(name) || (this.solo.size > 0 && !this.solo.has(name));
  }

  /** The entries as they act. */
  acting() {
    return this.entries.map((entry, index) => (this.isSilent(this.names[index]) ? "0" : entry));
  }

  get isOver() {
    return this.solo.size > 0 || this.muted.size > 0;
  }

  get hasX() {
    return (this.preset && this.presetHasX) || this.entries.some((entry) => /^x/i.test(entry));
  }

  get isPlain() {
    return !this.preset && this.acting().every((entry) => Number(entry) === 1);
  }

  /** The list as text; an untouched preset by its name. */
  get words() {
    return this.preset && !this.isOver ? this.preset : this.list;
  }

  get list() {
    return this.acting().join(",");
  }

  /**
   * The entries of a text that fits this list, with BASE or without (which then counts 1); null where it does not.
   * Everything else that block weights may be is the server's to read.
   */
  read(text) {
    const entries = text.split(",").map((each) => each.trim().toUpperCase());
    if (!entries.every(isEntry)) return null;
    if (entries.length === this.names.length) return entries;
    return entries.length === this.names.length - 1 && this.names[0] === BASE ? ["1", ...entries] : null;
  }
}

/**
 * What a prompt says to use a LoRA so. The WebUI's order is TE before UNet.
 * @param {string} name
 * @param {{te: string, unet: string}} strengths
 * @param {Vector} vector
 */
export function tagOf(name, { te, unet }, vector) {
  const items = [name.split("/").pop(), te];
  if (unet !== te) items.push(unet);
  if (!vector.isPlain) items.push(`lbw=${vector.words}`);
  if (!vector.isPlain && vector.hasX) items.push(`x=${vector.x}`);
  return `<lora:${items.join(":")}>`;
}
