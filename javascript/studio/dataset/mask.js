// Painting a mask: where training looks at the picture (clear) and where it does not (red).

import { address, post, remove } from "../api.js";
import { ask, tell } from "../dialogs.js";
import { button, h } from "../dom.js";

const MOST_PX = 1024; // of the canvas; strokes are sent in px of the picture
const RED = [220, 38, 38, 150];

/** A picture as an element, once it is loaded; null where there is none. */
const loaded = (source) =>
  new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = source;
  });

/** Strokes over what was there, on a canvas that shows what does not count in red. */
class MaskPainter {
  constructor(item, before) {
    this.scale = Math.min(1, MOST_PX / Math.max(item.width, item.height));
    const [width, height] = [item.width, item.height].map((side) => Math.max(1, Math.round(side * this.scale)));
    this.mask = h("canvas", { width, height }); // white counts
    this.canvas = h("canvas", { class: "ls-mask-canvas", width, height, tabindex: "0", "aria-label": "Mask" });
    this.before = before;
    this.start = before ? "now" : "white";
    this.strokes = [];
    this.draw();
  }

  draw() {
    const pen = this.mask.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = this.start === "black" ? "#000" : "#fff";
    pen.fillRect(0, 0, this.mask.width, this.mask.height);
    if (this.start === "now" && this.before) pen.drawImage(this.before, 0, 0, this.mask.width, this.mask.height);
    for (const stroke of this.strokes) this.stroke(pen, stroke);
    this.tint();
  }

  stroke(pen, { points, radius, white }) {
    pen.strokeStyle = pen.fillStyle = white ? "#fff" : "#000";
    pen.lineWidth = 2 * radius * this.scale;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    points.forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](x * this.scale, y * this.scale));
    if (points.length === 1) pen.lineTo(points[0][0] * this.scale + 0.01, points[0][1] * this.scale);
    pen.stroke();
  }

  /** The mask's dark as red over the picture. */
  tint() {
    const { width, height } = this.mask;
    const pixels = this.mask.getContext("2d").getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const dark = 255 - pixels.data[at];
      pixels.data.set([RED[0], RED[1], RED[2], (RED[3] * dark) / 255], at);
    }
    this.canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  at(event) {
    const place = this.canvas.getBoundingClientRect();
    const across = this.canvas.width / this.scale / place.width;
    return [(event.clientX - place.left) * across, (event.clientY - place.top) * across].map(
      (value) => Math.round(value * 10) / 10,
    );
  }

  fill(start) {
    this.start = start;
    this.strokes = [];
    this.draw();
  }

  undo() {
    this.strokes.pop();
    this.draw();
  }
}

/** Let a person paint the mask of a picture, and write it. */
export async function paintMask(dataset, item) {
  const route = dataset.route(`mask/${item.id}`);
  const before = item.mask ? await loaded(address(`${route}?now=${Date.now()}`)) : null;
  if (item.mask && !before) throw new Error(`The mask of ${item.name} cannot be loaded.`);
  const painter = new MaskPainter(item, before);
  const size = h("input", {
    type: "range",
    min: 2,
    max: 60,
    value: 14,
    "aria-label": "Size of the brush",
    title: "Size of the brush",
  });
  const erase = h("input", { type: "checkbox", class: "ls-check" });

  painter.canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    painter.canvas.setPointerCapture(event.pointerId);
    const radius = (size.value / 200) * Math.max(item.width, item.height);
    const stroke = { points: [painter.at(event)], radius, white: erase.checked };
    painter.strokes.push(stroke);
    painter.draw();
    const move = (each) => {
      stroke.points.push(painter.at(each));
      painter.stroke(painter.mask.getContext("2d"), { ...stroke, points: stroke.points.slice(-2) });
      painter.tint();
    };
    painter.canvas.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"])
      painter.canvas.addEventListener(end, () => painter.canvas.removeEventListener("pointermove", move), {
        once: true,
      });
  });

  const image = h("img", {
    src: address(dataset.look(`picture/${item.id}?v=${item.stamp}`)),
    alt: item.name,
    draggable: "false",
  });
  const answers = [
    { label: "Cancel", value: null },
    { label: "Write the mask", value: "write", kind: "primary" },
  ];
  if (item.mask) answers.unshift({ label: "Remove the mask", value: "remove", kind: "stop" });
  const answer = await ask(
    `Mask of ${item.name}`,
    () => [
      h("p", { class: "ls-help" }, "Paint over what training is not to learn: it turns red."),
      h(
        "div",
        {
          class: "ls-mask-stage",
          onkeydown: (event) => event.key === "z" && (event.ctrlKey || event.metaKey) && painter.undo(),
        },
        image,
        painter.canvas,
      ),
      h(
        "div",
        { class: "ls-row ls-small" },
        "Brush",
        size,
        h("label", { class: "ls-inline" }, erase, "erase the red"),
        button("Undo", () => painter.undo()),
        button("All red", () => painter.fill("black")),
        button("Nothing red", () => painter.fill("white")),
      ),
    ],
    answers,
    { wide: true },
  );
  if (answer === "remove") await finish(dataset, remove(route), "The mask is in the trash.");
  else if (answer === "write")
    await finish(dataset, post(route, { start: painter.start, strokes: painter.strokes }), "The mask is written.");
}

async function finish(dataset, request, words) {
  const { status } = await request;
  await dataset.follow(status);
  tell(`${words} Ctrl+Z takes it back.`);
}
