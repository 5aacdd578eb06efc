// The way from a LoRA to the WebUI's own txt2img; standalone there is none.

const prompt = () => document.querySelector("#txt2img_prompt textarea");

export const canSend = () => prompt() !== null;

/** Put `<lora:name:weight> trigger` into the prompt of txt2img, where it is not yet, and go there. */
export function sendToTxt2img(name, weight, trigger) {
  const box = prompt();
  const words = [`<lora:${name}:${weight || 1}>`, trigger].filter((each) => each && !box.value.includes(each));
  box.value = [box.value.trim(), ...words].filter(Boolean).join(" ");
  box.dispatchEvent(new Event("input", { bubbles: true })); // gradio reads the value then
  if (typeof window.switch_to_txt2img === "function") window.switch_to_txt2img();
  else [...document.querySelectorAll("#tabs button")].find((tab) => tab.textContent.trim() === "txt2img")?.click();
}
