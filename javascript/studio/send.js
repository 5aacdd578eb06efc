// "Send to dataset": the WebUI's results become pictures of a dataset, their prompts captions.

import { addPictures } from "./dataset/receive.js";
import { ask, tell } from "./dialogs.js";
import { button, h, labelled } from "./dom.js";
import { chooseFolder } from "./folder.js";
import { recall, remember } from "./memory.js";
import { forgetSent, sentPicture } from "./webui.js";

const FOLDER = "send-folder";

/**
 * Ask where a tab's results are to go, and send them.
 * @param {"txt2img"|"img2img"} tab
 */
export async function sendResults(tab) {
  const pictures = [...document.querySelectorAll(`#${tab}_gallery .thumbnail-item.thumbnail-small`)];
  const chosen = pictures.find((each) => each.classList.contains("selected"));
  const only = document.querySelector(`#${tab}_gallery img`);
  const found = (pictures.length ? pictures.map((each) => each.querySelector("img")) : [only]).filter(Boolean);
  if (!found.length) return tell("There is no picture to send yet: generate one first.", "error");
  const one = chosen?.querySelector("img") ?? found[0];
  const wanted = await askWhere(tab, found.length);
  if (!wanted) return null;
  remember(FOLDER, wanted.folder);
  return sendAll(wanted.all ? found : [one], wanted);
}

async function sendAll(images, { folder, caption }) {
  const pictures = images.map(({ src }) => ({
    name: nameOf(src),
    bytes: () => bytesOf(src),
    caption: caption ?? undefined, // JSON leaves it out
  }));
  if (await addPictures(folder, pictures)) forgetSent();
}

/** null when it was cancelled; `caption` null: each picture's own prompt. */
function askWhere(tab, many) {
  const origin = tab === "img2img" ? sentPicture() : null;
  const folder = h("input", { class: "ls-input", value: origin?.folder ?? recall(FOLDER, "") });
  const choose = button(
    "Choose …",
    async () => {
      folder.value = (await chooseFolder(folder.value)) ?? folder.value;
    },
    { icon: "folder" },
  );
  const all = h("input", { type: "checkbox" });
  const prompt = h("input", { type: "radio", name: "ls-caption", checked: !origin });
  const own = h("input", { type: "radio", name: "ls-caption", checked: Boolean(origin) });
  const text = h("textarea", { class: "ls-input", rows: 3, "aria-label": "Caption" });
  text.value = origin?.caption ?? "";
  text.addEventListener("input", () => (own.checked = true));
  const result = () => ({
    folder: folder.value.trim(),
    all: all.checked,
    caption: own.checked ? text.value.trim() : null,
  });
  return ask(
    "Send to dataset",
    () => [
      h("div", { class: "ls-row" }, h("div", { class: "ls-grow" }, labelled("Folder", folder)), choose),
      h("label", { class: "ls-inline" }, prompt, "Caption: the prompt, without <lora:…> and weights"),
      h("label", { class: "ls-inline" }, own, origin ? `Caption of ${origin.name}:` : "Caption:"),
      text,
      many > 1 && h("label", { class: "ls-inline" }, all, `All ${many} pictures, not the selected one alone`),
    ],
    [
      { label: "Cancel", value: null },
      { label: "Send", value: result, kind: "primary" },
    ],
  );
}

/** `…/file=/somewhere/00012-7.png?17000` is called `00012-7.png`. */
const nameOf = (url) => decodeURIComponent(new URL(url).pathname.split("/").pop()) || "picture.png";

async function bytesOf(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`it cannot be had from the WebUI (${answer.status})`);
  return answer.blob();
}
