// The files that tools work on, as pickers show them; asked for anew after each job.

import { get } from "../api.js";
import { bytes } from "../format.js";

export class Files {
  constructor() {
    this.all = { loras: [], checkpoints: [], vaes: [] };
  }

  /** The server's answer to `tools`, of which the files are kept here. */
  async load() {
    this.all = await get("tools");
    return this.all;
  }

  lora = (name) => this.all.loras.find((lora) => lora.name === name) ?? null;

  loras = () => this.all.loras.map(({ name, bytes: size }) => ({ value: name, label: name, note: bytes(size) }));

  checkpoints = () => this.all.checkpoints.map(modelChoice);

  vaes = () => this.all.vaes.map(modelChoice);

  /** Whether a tool that writes "lora" or "checkpoint" would find its name taken. */
  isTaken(writes, subfolder, name) {
    if (writes === "lora") return this.lora(subfolder ? `${subfolder}/${name}` : name) !== null;
    return this.all.checkpoints.some(
      (file) =>
        file.name
          .replace(/\.\w+$/, "")
          .split(/[\\/]/)
          .pop() === name,
    );
  }
}

const modelChoice = ({ name, path, loaded }) => ({ value: path, label: name, note: loaded ? "loaded" : "" });
