// What the server knows for this tab: LoRAs, presets, lists of blocks, checkpoints, samplers, saved prompts, forms.

import { get } from "../api.js";

export class Store extends EventTarget {
  constructor() {
    super();
    Object.assign(this, {
      loras: [],
      presets: [],
      preset_notes: [], // a sentence on each that cannot be read
      lists: {},
      checkpoints: [],
      samplers: [],
      prompts: [],
      prompt_notes: [],
      forms: null,
    });
  }

  /** Ask for it anew; fires "change". @throws what the server or the connection refuses */
  async load() {
    Object.assign(this, await get("blocks"));
    this.dispatchEvent(new Event("change"));
  }

  /** The options of a kind of job. @param {"grid"|"analyse"|"knowledge"} kind */
  options(kind) {
    return this.forms[kind].groups.flatMap((group) => group.options);
  }

  checkpointChoices = () =>
    this.checkpoints.map(({ name, path, loaded }) => ({ value: path, label: name, note: loaded ? "loaded" : "" }));
}
