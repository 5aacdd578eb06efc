// What a finished run leaves: its file, what the check says, its card, and the saves of all epochs side by side.

import { get, part, post } from "./api.js";
import { copyText } from "./clipboard.js";
import { tell } from "./dialogs.js";
import { breakable, button, h, labelled, put, show, text } from "./dom.js";
import { fileName, whole } from "./format.js";
import { enlarge, pictureAddress } from "./pictures.js";
import { attempt } from "./presets.js";
import { canSend, sendToTxt2img } from "./prompt.js";

/** "/models/Lora/a/b.safetensors" -> "a/b", the name that the WebUI's lists and our routes know. */
function loraName(path, folder) {
  const [whole, root] = [path, folder].map((each) => String(each).replaceAll("\\", "/"));
  const inside = whole.startsWith(`${root.replace(/\/$/, "")}/`)
    ? whole.slice(root.replace(/\/$/, "").length + 1)
    : fileName(whole);
  return inside.replace(/\.safetensors$/, "");
}

/** What a prompt calls the LoRA. */
const promptName = (path) => fileName(path).replace(/\.safetensors$/, "");

/** The LoRA of the run, or the last that a stopped run has saved; null where there is none. */
function resultOf(job) {
  const saves = job.status === "stopped" ? job.written.filter((path) => path.endsWith(".safetensors")) : [];
  return job.result ?? saves.at(-1) ?? null;
}

export class Result {
  /**
   * @param {{lora_dir: string}} host
   * @param {(values: Object) => void} again puts a run's settings into the form
   */
  constructor(host, again) {
    this.host = host;
    this.drawn = "";
    this.file = h("p", { class: "ls-path" });
    this.check = h("p", { class: "ls-help" });
    this.send = button("Send to txt2img", () => this.sendIt(), { kind: "primary" });
    this.copy = button("Copy the path", () => copyText(this.path, this.file, "The path"), { icon: "copy" });
    this.again = button("Train again …", () => again(this.job.values), {
      title: "These settings once more, with the pictures that the folder holds now",
    });
    this.trigger = h("input", { class: "ls-input" });
    this.weight = h("input", { class: "ls-input ls-number", inputmode: "decimal", placeholder: "1" });
    this.notes = h("textarea", { class: "ls-input", rows: 2 });
    this.choices = h("div", { class: "ls-thumbs ls-choices", role: "radiogroup", "aria-label": "Picture of the card" });
    this.card = h(
      "details",
      { class: "ls-group" },
      h("summary", {}, h("span", {}, "Card in the WebUI")),
      h(
        "div",
        { class: "ls-card-form" },
        labelled("Trigger", this.trigger),
        labelled("Preferred weight", this.weight),
        labelled("Notes", this.notes),
        this.choices,
        h(
          "div",
          { class: "ls-row" },
          button("Save the card", () => this.saveCard()),
        ),
      ),
    );
    this.card.addEventListener("toggle", () => this.card.open && this.loadCard());
    this.saves = h("div", { class: "ls-saves" });
    this.element = h(
      "section",
      { class: "ls-result", hidden: true, "aria-label": "Result" },
      h("h3", {}, "Result"),
      this.file,
      this.check,
      h("div", { class: "ls-row" }, this.send, this.copy, this.again),
      this.card,
      this.saves,
    );
  }

  update(job, feed) {
    this.job = job;
    this.path = resultOf(job);
    show(this.element, this.path);
    const key = `${job.id}/${this.path}/${feed.saves.length}/${job.pictures.length}/${Boolean(feed.checked)}`;
    if (!this.path || key === this.drawn) return;
    const another = !this.drawn.startsWith(`${job.id}/`);
    this.drawn = key;
    text(this.file, this.path);
    this.writeCheck(job.checked ?? feed.checked);
    show(this.send, canSend());
    this.drawSaves(feed);
    if (another) this.card.open = false;
  }

  writeCheck(check) {
    this.check.classList.toggle("ls-bad", Boolean(check && check.matched < check.keys));
    if (!check) return text(this.check, "");
    const change = check.change === null ? "" : ` A prediction changes by ${(check.change * 100).toPrecision(2)} %.`;
    const unmatched = check.unmatched.length ? ` Not matched: ${check.unmatched.slice(0, 3).join(", ")} …` : "";
    return text(
      this.check,
      `Checked: ${whole(check.matched)} of ${whole(check.keys)} keys matched by the host's own loader.${change}${unmatched}`,
    );
  }

  /** One column for each save, with the previews of the same step. */
  drawSaves(feed) {
    const saves = feed.saves.filter((save) => save.path.endsWith(".safetensors"));
    show(this.saves, saves.length > 1);
    if (saves.length < 2) return;
    const columns = saves.map((save) =>
      h(
        "figure",
        {},
        this.job.pictures
          .filter((picture) => picture.step === save.step)
          .map((picture) =>
            h(
              "button",
              { type: "button", class: "ls-thumb", title: picture.prompt, onclick: () => enlarge(this.job, picture) },
              h("img", {
                src: pictureAddress(this.job.id, picture.name),
                alt: `step ${picture.step}: ${picture.prompt}`,
                loading: "lazy",
              }),
            ),
          ),
        h(
          "figcaption",
          { title: save.path },
          promptName(save.path),
          h("span", { class: "ls-help" }, save.final ? " the end" : ` step ${whole(save.step)}`),
        ),
        canSend() && button("To txt2img", () => this.sendIt(save.path)),
      ),
    );
    put(
      this.saves,
      h("h3", {}, `All ${saves.length} saves`),
      h("div", { class: "ls-strip", tabindex: "0", role: "group", "aria-label": "Saves by step" }, columns),
    );
  }

  sendIt(path = this.path) {
    const { values } = this.job;
    sendToTxt2img(promptName(path), Number(values.preferred_weight) || 1, values.activation_text);
  }

  loadCard() {
    this.chosen = null;
    put(
      this.choices,
      this.job.pictures.slice(-12).map((picture) => this.choice(picture)),
    );
    return attempt(async () => {
      const card = await get(`loras/${part(loraName(this.path, this.host.lora_dir))}/card`);
      this.trigger.value = card["activation text"] ?? "";
      this.weight.value = card["preferred weight"] || "";
      this.notes.value = card.notes ?? "";
    });
  }

  choice(picture) {
    const mark = h(
      "button",
      {
        type: "button",
        role: "radio",
        "aria-checked": "false",
        class: "ls-thumb",
        title: `The card's picture: ${picture.prompt}`,
        onclick: () => {
          this.chosen = picture;
          for (const each of this.choices.children) each.setAttribute("aria-checked", String(each === mark));
        },
      },
      h("img", { src: pictureAddress(this.job.id, picture.name), alt: picture.prompt }),
    );
    return mark;
  }

  saveCard() {
    return attempt(async () => {
      const card = {
        "activation text": this.trigger.value,
        "preferred weight": Number(this.weight.value) || 0,
        notes: this.notes.value,
      };
      if (this.chosen) card.picture = { job: this.job.id, name: this.chosen.name };
      await post(`loras/${part(loraName(this.path, this.host.lora_dir))}/card`, card);
      tell("The card is saved.");
    });
  }
}
