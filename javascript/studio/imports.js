// Settings of other programs: a file or pasted words, and what became of them.

import { ask } from "./dialogs.js";
import { button, h, newId } from "./dom.js";
import { count } from "./format.js";

/** The text of a config file or of a command; null when it was cancelled. */
export function chooseSettings() {
  const area = h("textarea", { class: "ls-input", rows: "12", spellcheck: "false", id: newId() });
  const file = h("input", {
    type: "file",
    accept: ".toml,.json,.txt,.bat,.sh,.ps1",
    hidden: true,
    onchange: async () => (area.value = await file.files[0].text()),
  });
  return ask(
    "Settings from elsewhere",
    () =>
      h(
        "div",
        { class: "ls-field" },
        h(
          "label",
          { for: area.id },
          "A config file or a command of sd-scripts, or settings of kohya_ss, LoRA_Easy_Training_Scripts, OneTrainer or TrainTrain. Choose the file, drop it here, or paste its text.",
        ),
        h("div", { class: "ls-row ls-small" }, button("Choose a file …", () => file.click(), { icon: "folder" }), file),
        dropped(area),
      ),
    [
      { label: "Cancel", value: null },
      { label: "Take over", value: () => area.value, kind: "primary" },
    ],
    { wide: true },
  );
}

function dropped(area) {
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("drop", async (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    event.stopPropagation(); // the WebUI takes dropped files everywhere
    area.value = await file.text();
  });
  return area;
}

/** What an import has understood, changed, and found no counterpart for. */
export function showTaken({ source, understood, changed, left_out }) {
  const part = (title, rows) =>
    rows.length > 0 && [
      h("h3", {}, title),
      h(
        "ul",
        { class: "ls-list" },
        rows.map(({ key, why }) => h("li", {}, h("b", {}, key), ` ${why}`)),
      ),
    ];
  return ask(
    "Taken over",
    () => [
      h("p", {}, `${count(understood.length, "setting")} of ${source} ${understood.length === 1 ? "is" : "are"} in the form.`),
      part("Left out", left_out),
      part("In other words here", changed),
    ],
    [{ label: "Close", value: true, kind: "primary" }],
    { wide: true },
  );
}
