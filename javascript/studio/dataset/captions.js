// What was typed, until the server has it: nothing typed is ever lost, neither by a reload nor by somebody else's edit.

import { Lost, post } from "../api.js";
import { tell } from "../dialogs.js";
import { debounce } from "../dom.js";
import { recall, remember } from "../memory.js";
import { ANEW } from "./store.js";

const AT_ONCE_MS = 1200; // of rest, then a draft is saved by itself
const KEEP_MS = 120;

/**
 * Drafts by picture: `was` is the caption that the editor began with, `text` what was typed over it, `theirs` another
 * text that stands in the file meanwhile.
 * Events: "drafts" when one has come or gone (detail: the picture), "written" with what stands in a file now (detail:
 * {id, text}), "saved" (detail: the pictures).
 */
export class Captions extends EventTarget {
  /** @param {import("./store.js").Dataset} dataset */
  constructor(dataset) {
    super();
    this.dataset = dataset;
    this.drafts = new Map();
    this.byItself = recall("save-captions", true);
    this.saving = null;
    this.memory = null; // where drafts of the open folder are kept in the browser
    this.absent = {};
    this.kept = new Set(); // names of pictures whose drafts this page has put into the browser's memory
    this.keepSoon = debounce(() => this.keep(), KEEP_MS);
    this.saveSoon = debounce(() => this.saveFilled(), AT_ONCE_MS);
    dataset.addEventListener("opened", () => this.bringBack());
    window.addEventListener("pagehide", () => this.keep());
  }

  get size() {
    return this.drafts.size;
  }

  draft(id) {
    return this.drafts.get(id) ?? null;
  }

  setByItself(on) {
    this.byItself = on;
    remember("save-captions", on);
    this.saveFilled();
  }

  /** A person has typed. Space at the ends is no part of a caption. */
  write(id, was, text) {
    const draft = this.drafts.get(id);
    if (draft && draft.text === text) return;
    if (draft) draft.text = text;
    else if (text.trim() === was) return;
    else this.drafts.set(id, { name: this.dataset.name(id), was, text, theirs: null });
    const now = this.drafts.get(id);
    if (now.text.trim() === now.was && now.theirs === null) this.drafts.delete(id);
    this.changed(id);
    this.saveSoon();
  }

  /** Give up what was typed. */
  drop(id) {
    if (this.drafts.delete(id)) this.changed(id);
  }

  /** In a conflict: what was typed is to stand, over what is there now. */
  insist(id) {
    const draft = this.drafts.get(id);
    Object.assign(draft, { was: draft.theirs, theirs: null });
    this.changed(id);
    return this.save([id]);
  }

  /** The caption is another now than what the editor began with. */
  found(id, text) {
    const draft = this.drafts.get(id);
    if (!draft || this.saving) return;
    const theirs = text === draft.was ? null : text;
    if (draft.text.trim() === text) return this.drop(id);
    if (draft.theirs === theirs) return;
    draft.theirs = theirs;
    this.changed(id);
  }

  changed(id) {
    this.keepSoon();
    this.dispatchEvent(new CustomEvent("drafts", { detail: id }));
  }

  /** Save what was typed: that of some pictures, or all of it. Conflicts stay for a person to settle. */
  async save(ids = [...this.drafts.keys()]) {
    while (this.saving) await this.saving;
    const wanted = ids.filter((id) => this.drafts.has(id) && this.drafts.get(id).theirs === null);
    if (!wanted.length || !this.dataset.isOpen) return;
    this.saving = this.send(wanted).finally(() => (this.saving = null));
    await this.saving;
  }

  /** Save without being asked to: an emptied caption waits, for its file would go. */
  saveFilled(ids = [...this.drafts.keys()]) {
    return this.byItself ? this.save(ids.filter((id) => this.drafts.get(id)?.text.trim())) : this.saving;
  }

  async send(ids) {
    const sent = new Map(ids.map((id) => [id, { ...this.drafts.get(id) }]));
    const body = { new: {}, was: {}, empty: [] };
    for (const [id, { text, was }] of sent) {
      [body.new[id], body.was[id]] = [text, was];
      if (!text.trim()) body.empty.push(id);
    }
    let answer;
    try {
      answer = await post(this.dataset.route("captions"), body);
    } catch (error) {
      // It stays a draft; where the folder was opened anew, until the drafts have their pictures' new numbers.
      if (error instanceof Lost || error.status === ANEW) this.saveSoon();
      else tell(`Not saved: ${error.message}`, "error");
      return;
    }
    const conflicts = new Map(answer.conflicts.map((each) => [each.id, each]));
    for (const [id, { text }] of sent) this.settle(id, text, conflicts.get(id));
    const refused = answer.conflicts.filter((each) => each.text === sent.get(each.id)?.was);
    for (const why of new Set(refused.map((each) => each.why))) tell(`Not saved: ${why}`, "error");
    this.keep();
    this.dispatchEvent(new CustomEvent("saved", { detail: ids.filter((id) => !conflicts.has(id)) }));
    await this.dataset.follow(answer.status);
  }

  /** What became of one caption that was sent, while somebody may have typed on. */
  settle(id, sent, conflict) {
    const now = conflict ? conflict.text : sent.trim();
    if (now !== null) this.dispatchEvent(new CustomEvent("written", { detail: { id, text: now } }));
    const draft = this.drafts.get(id);
    if (!draft) return;
    if (conflict?.text === null) this.putAway(id);
    else if (conflict && conflict.text === draft.was)
      draft.theirs = null; // refused, and nobody else has written
    else if (conflict && conflict.text !== draft.text.trim()) draft.theirs = conflict.text;
    else if (draft.text === sent || conflict) this.drafts.delete(id);
    else draft.was = sent.trim();
    if (this.drafts.has(id) && !conflict) this.saveSoon();
    this.changed(id);
  }

  /** The picture is gone; what was typed is kept for when it comes back. */
  putAway(id) {
    const { name, was, text } = this.drafts.get(id);
    this.absent[name] = { was, text };
    this.drafts.delete(id);
  }

  // Over a reload. Pictures are known by their names then: their numbers may be others.

  get named() {
    return Object.fromEntries([...this.drafts.values()].map(({ name, was, text }) => [name, { was, text }]));
  }

  /** What other pages of this browser keep for the same folder stays. */
  keep() {
    if (!this.memory) return;
    const own = { ...this.absent, ...this.named };
    const others = Object.entries(recall(this.memory, {})).filter(([name]) => !this.kept.has(name));
    const all = { ...Object.fromEntries(others), ...own };
    this.kept = new Set(Object.keys(own));
    remember(this.memory, Object.keys(all).length ? all : null);
  }

  /** A folder was opened: what was typed there and not saved stands in the editor again. */
  bringBack() {
    const { columns, folder, reading } = this.dataset;
    this.keep();
    this.memory = `drafts:${folder}:${reading.caption_extension}`;
    const ids = new Map(columns.names.map((name, row) => [name, columns.ids[row]]));
    this.drafts.clear();
    this.absent = {}; // of pictures that are not there now, and may come back
    for (const [name, { was, text }] of Object.entries(recall(this.memory, {}))) {
      if (ids.has(name)) this.drafts.set(ids.get(name), { name, was, text, theirs: null });
      else this.absent[name] = { was, text };
    }
    this.kept = new Set([...Object.keys(this.absent), ...Object.keys(this.named)]);
    for (const id of this.drafts.keys()) this.dispatchEvent(new CustomEvent("drafts", { detail: id }));
    this.saveSoon();
  }
}
