// Cropping by hand: a box on the picture, to be drawn, moved and pulled at its corners and edges.

import { address, post } from "../api.js";
import { ask, tell } from "../dialogs.js";
import { button, h, select, text } from "../dom.js";
import { TaskView } from "./task.js";

const SHAPES = [
  ["", "any shape"],
  ["1:1", "1:1"],
  ["2:3", "2:3"],
  ["3:2", "3:2"],
  ["3:4", "3:4"],
  ["4:3", "4:3"],
  ["9:16", "9:16"],
  ["16:9", "16:9"],
];
const LEAST_PX = 16;
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** A box in px of the picture, kept inside it and in its shape. */
export class CropBox {
  constructor(width, height) {
    Object.assign(this, { width, height, shape: null });
    this.all();
  }

  all() {
    Object.assign(this, { left: 0, top: 0, right: this.width, bottom: this.height });
  }

  get size() {
    return [Math.round(this.right) - Math.round(this.left), Math.round(this.bottom) - Math.round(this.top)];
  }

  get values() {
    return {
      left: Math.round(this.left),
      top: Math.round(this.top),
      right: Math.round(this.right),
      bottom: Math.round(this.bottom),
    };
  }

  set(left, top, right, bottom) {
    Object.assign(this, { left, top, right, bottom });
  }

  move(x, y) {
    const [dx, dy] = [clamp(x, -this.left, this.width - this.right), clamp(y, -this.top, this.height - this.bottom)];
    this.set(this.left + dx, this.top + dy, this.right + dx, this.bottom + dy);
  }

  /** Pull a corner or an edge to a point; what lies opposite stays. */
  pull(handle, x, y) {
    const west = handle.includes("w");
    const north = handle.includes("n");
    if (west) this.left = clamp(x, 0, this.right - LEAST_PX);
    else if (handle.includes("e")) this.right = clamp(x, this.left + LEAST_PX, this.width);
    if (north) this.top = clamp(y, 0, this.bottom - LEAST_PX);
    else if (handle.includes("s")) this.bottom = clamp(y, this.top + LEAST_PX, this.height);
    if (this.shape) this.keepShape(handle, west, north);
  }

  /** The side that was pulled decides, unless there is no room for the other one. */
  keepShape(handle, west, north) {
    let width = this.right - this.left;
    let height = this.bottom - this.top;
    if (handle === "n" || handle === "s") width = height * this.shape;
    else height = width / this.shape;
    const scale = Math.min(
      1,
      (west ? this.right : this.width - this.left) / width,
      (north ? this.bottom : this.height - this.top) / height,
    );
    [width, height] = [width * scale, height * scale];
    if (west) this.left = this.right - width;
    else this.right = this.left + width;
    if (north) this.top = this.bottom - height;
    else this.bottom = this.top + height;
  }
}

/** A new picture of a part of this one, beside it or in its place. */
export async function cropByHand(dataset, item) {
  const box = new CropBox(item.width, item.height);
  const frame = h("div", {
    class: "ls-crop-box",
    tabindex: "0",
    role: "group",
    "aria-label": "What is kept; arrow keys move it",
  });
  const size = h("span", { class: "ls-figure" });
  const over = h("input", { type: "checkbox", class: "ls-check" });
  const image = h("img", {
    src: address(dataset.look(`picture/${item.id}?v=${item.stamp}`)),
    alt: item.name,
    draggable: "false",
  });
  const stage = h("div", { class: "ls-crop-stage" }, image, frame);

  function draw() {
    const part = (value, whole) => `${(value / whole) * 100}%`;
    Object.assign(frame.style, {
      left: part(box.left, box.width),
      top: part(box.top, box.height),
      width: part(box.right - box.left, box.width),
      height: part(box.bottom - box.top, box.height),
    });
    text(size, `${box.size[0]} × ${box.size[1]} px of ${box.width} × ${box.height}`);
  }

  const at = (event) => {
    const place = image.getBoundingClientRect();
    return [
      ((event.clientX - place.left) / place.width) * box.width,
      ((event.clientY - place.top) / place.height) * box.height,
    ];
  };

  function drag(event, step) {
    event.preventDefault();
    event.stopPropagation();
    stage.setPointerCapture(event.pointerId);
    const move = (each) => {
      step(...at(each));
      draw();
    };
    stage.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"])
      stage.addEventListener(end, () => stage.removeEventListener("pointermove", move), { once: true });
  }

  frame.append(
    ...HANDLES.map((handle) =>
      h("i", {
        class: `ls-crop-handle ls-${handle}`,
        onpointerdown: (event) => drag(event, (x, y) => box.pull(handle, x, y)),
      }),
    ),
  );
  frame.addEventListener("pointerdown", (event) => {
    let [x, y] = at(event);
    drag(event, (nextX, nextY) => {
      box.move(nextX - x, nextY - y);
      [x, y] = [nextX, nextY];
    });
  });
  frame.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 16 : 1;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!move) return;
    event.preventDefault();
    box.move(...move);
    draw();
  });
  stage.addEventListener("pointerdown", (event) => {
    // Outside the box: a new one is drawn.
    const [x, y] = at(event).map((value, side) => clamp(value, 0, side ? box.height : box.width));
    const room = (value, most) => Math.min(value + LEAST_PX, most);
    box.set(
      Math.min(x, box.width - LEAST_PX),
      Math.min(y, box.height - LEAST_PX),
      room(x, box.width),
      room(y, box.height),
    );
    drag(event, (nextX, nextY) => box.pull("se", nextX, nextY));
  });

  /** The largest box of a shape where the picture shows most. */
  async function suggest(shape) {
    box.shape = null;
    if (!shape) return;
    const [wide, high] = shape.split(":").map(Number);
    try {
      const { box: found } = await post(dataset.route(`box/${item.id}`), { aspect: shape });
      box.set(...found);
      box.shape = wide / high;
      draw();
    } catch (error) {
      tell(error.message, "error");
    }
  }

  const shapes = select(SHAPES, "", suggest);
  shapes.setAttribute("aria-label", "Shape");
  const whole = button("Whole picture", () => {
    shapes.value = "";
    box.shape = null;
    box.all();
    draw();
  });
  draw();
  const yes = await ask(
    `Crop ${item.name}`,
    () => [
      stage,
      h(
        "div",
        { class: "ls-row ls-small" },
        shapes,
        whole,
        size,
        h("span", { class: "ls-grow" }),
        h("label", { class: "ls-inline" }, over, "in place of the original"),
      ),
    ],
    [
      { label: "Cancel", value: false },
      { label: "Crop", value: true, kind: "primary" },
    ],
    { wide: true },
  );
  if (!yes) return;
  const done = await new TaskView(dataset).run("tools/crop", {
    ids: [item.id],
    values: box.values,
    over: over.checked,
  });
  await dataset.follow(done.status);
  if (done.conflicts.length) tell(done.conflicts[0].why, "error");
  else
    tell(
      over.checked
        ? "The picture is cropped. Ctrl+Z takes it back."
        : "The part lies beside the original. Ctrl+Z takes it back.",
    );
}
