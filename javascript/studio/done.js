// What happens when the queue has been worked off: a sound or a notification here, the rest at the server.

import { post } from "./api.js";
import { h } from "./dom.js";
import { ACTIVE } from "./live.js";
import { recall, remember } from "./memory.js";
import { attempt } from "./presets.js";

const HERE = ["sound", "notification"]; // what this browser does

/** A choice of what to do, which also does it. */
export function whenDone(live, host) {
  const choices = [
    ["nothing", "do nothing"],
    ["sound", "play a sound"],
    ["notification", "show a notification"],
  ];
  if (!host.exposed) choices.push(["shutdown", "shut the machine down"]);
  const list = h(
    "select",
    { class: "ls-input", "aria-label": "When the queue is done", onchange: () => attempt(() => choose(list.value)) },
    choices.map(([value, label]) => h("option", { value }, label)),
  );

  async function choose(value) {
    remember("when-done", HERE.includes(value) ? value : null);
    if (value === "notification" && "Notification" in window) await Notification.requestPermission();
    await post("queue", { when_done: value === "notification" ? "nothing" : value });
    await live.renew();
  }

  let worked = false;
  live.addEventListener("jobs", () => {
    const here = recall("when-done");
    list.value = live.whenDone === "nothing" && here === "notification" ? here : live.whenDone;
    const works = live.jobs.some((job) => ACTIVE.has(job.status) || job.status === "queued");
    if (worked && !works) announce(list.value);
    worked = works;
  });
  return h("label", { class: "ls-inline" }, "When done", list);
}

function announce(how) {
  if (how === "sound") beep();
  if (how === "notification" && "Notification" in window && Notification.permission === "granted") {
    new Notification("LoRA Studio", { body: "The queue is done." });
  }
}

/** Three rising tones. */
function beep() {
  const audio = new AudioContext();
  [523, 659, 784].forEach((pitch, index) => {
    const [tone, volume] = [audio.createOscillator(), audio.createGain()];
    const start = audio.currentTime + index * 0.18;
    tone.frequency.value = pitch;
    volume.gain.setValueAtTime(0.15, start);
    volume.gain.exponentialRampToValueAtTime(0.001, start + 0.4);
    tone.connect(volume).connect(audio.destination);
    tone.start(start);
    tone.stop(start + 0.4);
  });
}
