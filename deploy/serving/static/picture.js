// An image of the user's → the chosen model → its classes as bars, or its boxes drawn on the image.

import { ask, pathOf } from "./api.js";
import { byId, element, milliseconds, percent } from "./dom.js";

/** So many boxes show their names; those of the others appear when their row is pointed at. */
const NAMED = 12;

/** The section "Try". The image stays when another model is chosen, so that models can be compared on it. */
export class Picture {
  #model = null;
  #file = null;
  #asked = null;

  constructor() {
    for (const input of [byId("file"), byId("photo")]) {
      input.addEventListener("change", () => {
        this.#take(input.files);
        input.value = ""; // the same file may be chosen again
      });
    }
    document.addEventListener("paste", (event) => this.#take(event.clipboardData.files));
    document.addEventListener("dragover", (event) => this.#hover(event, true));
    document.addEventListener("dragleave", (event) => this.#hover(event, event.relatedTarget !== null));
    document.addEventListener("drop", (event) => {
      this.#hover(event, false);
      this.#take(event.dataTransfer.files);
    });
  }

  /** Anywhere on the page: a file dropped beside the section would otherwise replace the page. */
  #hover(event, over) {
    event.preventDefault();
    byId("try").classList.toggle("over", over);
  }

  #take(files) {
    if (!files.length) return;
    this.#file = files[0];
    this.#show();
    this.ask(this.#model);
  }

  /** Ask `model` about the image, where there is one. Only the latest question is answered. */
  async ask(model) {
    this.#model = model;
    this.#asked?.abort();
    byId("found").replaceChildren();
    for (const box of byId("picture").querySelectorAll(".box")) box.remove();
    if (model === null) return; // the first is not known yet; the image waits for it
    const images = !model.metadata || takesImages(model.metadata.inputs);
    byId("choose").hidden = !images;
    if (!images) return this.#say(`${model.name} takes no images.`);
    const refused = this.#refused();
    this.#say(refused ?? "", refused !== null);
    if (refused !== null || this.#file === null) return;
    this.#asked = new AbortController();
    this.#say("asking …");
    try {
      await this.#answer(this.#asked.signal);
    } catch (failure) {
      if (failure.name !== "AbortError") this.#say(failure.message, true);
    }
  }

  #refused() {
    if (this.#file?.type && !this.#file.type.startsWith("image/")) return `${this.#file.name} is not an image.`;
    return null;
  }

  async #answer(signal) {
    const start = performance.now();
    const answer = await ask(`${pathOf(this.#model)}/classify`, { method: "POST", body: this.#file, signal });
    const took = milliseconds(performance.now() - start);
    if (answer.detections) this.#boxes(answer.detections);
    else this.#classes(answer.predictions);
    const best = byId("found").firstChild?.dataset.words ?? "nothing found";
    this.#say(`${best} · ${took} round trip`);
  }

  #say(words, wrong = false) {
    byId("said").textContent = words;
    byId("said").classList.toggle("error", wrong);
  }

  #show() {
    const url = URL.createObjectURL(this.#file);
    const image = element("img", { alt: this.#file.name });
    const picture = byId("picture");
    picture.hidden = true; // until it is known to be an image; the server reads formats that browsers do not
    picture.replaceChildren(image);
    image.addEventListener("load", () => {
      picture.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
      picture.hidden = false;
    });
    for (const event of ["load", "error"]) image.addEventListener(event, () => URL.revokeObjectURL(url));
    image.src = url;
  }

  #classes(predictions) {
    for (const { index, label, probability } of predictions) {
      this.#list(label ?? `class ${index}`, probability);
    }
  }

  async #boxes(detections) {
    for (const { index, label, score } of detections) {
      this.#list(label ?? `class ${index}`, score, hue(index));
    }
    const picture = byId("picture");
    const image = picture.querySelector("img");
    await image.decode().catch(() => {}); // the answer may be there before the image is
    const boxes = detections.map((detection, at) => drawn(detection, image, byId("found").children[at], at >= NAMED));
    picture.append(...boxes.reverse()); // the best on top
  }

  #list(name, share, colour = null) {
    const bar = element("span", { className: "bar", ariaHidden: "true" });
    bar.style.setProperty("--share", share);
    if (colour !== null) bar.style.setProperty("--hue", colour);
    const row = element("li", {}, element("span", { className: "label" }, name), bar, element("span", {}, percent(share)));
    row.dataset.words = `${name} ${percent(share)}`;
    byId("found").append(row);
  }
}

/** As deploy/images/layout.py has it: one input of RGB images, channels first or last. */
export function takesImages(inputs) {
  const [{ shape, datatype }] = inputs;
  const numbers = ["FP32", "FP16", "UINT8"].includes(datatype);
  return inputs.length === 1 && numbers && shape.length === 4 && (shape[1] === 3 || shape[3] === 3);
}

/** The golden angle: each new hue lies in the widest gap that those before have left. */
const hue = (index) => (index * 137.508 + 20) % 360;

function drawn({ box: [x1, y1, x2, y2], index, label, score }, image, row, many) {
  const name = element("span", { className: "name" }, `${label ?? index} ${percent(score)}`);
  const made = element("div", { className: "box", ariaHidden: "true" }, name); // the list says the same
  const [width, height] = [image.naturalWidth / 100, image.naturalHeight / 100];
  const place = { left: x1 / width, top: y1 / height, width: (x2 - x1) / width, height: (y2 - y1) / height };
  for (const [side, value] of Object.entries(place)) made.style[side] = `${value}%`;
  made.style.setProperty("--hue", hue(index));
  made.classList.toggle("many", many);
  made.classList.toggle("low", place.top > 8); // room above the box for its name
  made.classList.toggle("right", place.left > 50);
  for (const [event, on] of [["mouseenter", true], ["mouseleave", false]]) {
    row.addEventListener(event, () => made.classList.toggle("pointed", on));
  }
  return made;
}
