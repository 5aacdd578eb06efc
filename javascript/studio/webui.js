// Between a dataset and the WebUI's own tabs.

const PLACES = {
  img2img: { image: "#img2img_image", open: "switch_to_img2img" },
  inpaint: { image: "#img2maskimg", open: "switch_to_inpaint" },
};
const MOST_TRIES = 50;

let sent = null; // a reload empties img2img, too

const inputOf = (mode) => document.querySelector(`${PLACES[mode].image} input[type=file]`);

const imageOf = (mode) => document.querySelector(`${PLACES[mode].image} img[src^='data:image']`);

/** Whether there is an img2img to send pictures to. */
export const canEdit = () => Boolean(document.querySelector(PLACES.img2img.image));

/**
 * Put a dataset's picture into img2img or inpaint, with its caption as the prompt, and go there.
 * @param {"img2img"|"inpaint"} mode
 * @param {{url: string, name: string, folder: string, caption: string}} picture `folder` is where it lies: what becomes
 *   of it can be sent there
 */
export async function editPicture(mode, picture) {
  const answer = await fetch(picture.url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`the picture cannot be had (${answer.status})`);
  const bytes = await answer.blob();
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], picture.name, { type: bytes.type }));
  window[PLACES[mode].open]();
  const input = await freeInput(mode);
  input.files = carried.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  const prompt = document.querySelector("#img2img_prompt textarea");
  prompt.value = picture.caption;
  prompt.dispatchEvent(new Event("input", { bubbles: true })); // gradio reads the value then
  const { folder, name, caption } = picture;
  sent = { mode, src: (await shown(mode)).src, picture: { folder, name, caption } };
}

/** The dataset's picture that img2img or inpaint shows, or null: another one has come from elsewhere. */
export const sentPicture = () => (sent && imageOf(sent.mode)?.src === sent.src ? sent.picture : null);

/** What becomes of the picture was sent back. */
export const forgetSent = () => {
  sent = null;
};

/** The picture, as soon as gradio shows it. */
async function shown(mode) {
  for (let left = MOST_TRIES; left > 0; left--) {
    const image = imageOf(mode);
    if (image) return image;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`the WebUI's ${mode} shows no picture`);
}

/** gradio has no place for a file while there is a picture: that is taken away, as its own cross does. */
async function freeInput(mode) {
  for (let left = MOST_TRIES; left > 0; left--) {
    const input = inputOf(mode);
    if (input) return input;
    document.querySelector(`${PLACES[mode].image} button[aria-label="Clear"]`)?.click();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`the WebUI's ${mode} takes no picture`);
}
