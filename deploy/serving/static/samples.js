// Requests to copy: the chosen model's own names and shapes, quoted for the shell and for Python.

import { key, pathOf } from "./api.js";
import { element } from "./dom.js";
import { takesImages } from "./picture.js";

const NUMPY = { BOOL: "bool", FP16: "float16", FP32: "float32", FP64: "float64", BYTES: "object" };

/** `[title, code]` of each sample for a model with its metadata. */
export function samples(model, base) {
  const url = new URL(pathOf(model), base).href.replaceAll("'", "%27");
  const header = key.get() ? ` -H "Authorization: Bearer $DEPLOY_API_KEY"` : "";
  const images = takesImages(model.inputs);
  return [
    ...(images ? [["curl: an image", `curl${header} -F image=@cat.jpg '${url}/classify?top_k=5'`]] : []),
    ...(images ? [["Python: an image", python(model, base, image(model))]] : []),
    ["Python: arrays", python(model, base, model.inputs.map(array).join("\n"))],
    ["curl: counters and times", `curl${header} '${url}/stats'`],
  ];
}

const text = (value) => JSON.stringify(value); // also a literal of Python

function python(model, base, inputs) {
  const { host, protocol } = new URL(base);
  const secure = protocol === "https:" ? ", ssl=True" : "";
  const keyed = key.get() ? `, headers={"Authorization": "Bearer " + os.environ["DEPLOY_API_KEY"]}` : "";
  return [
    ...(keyed ? ["import os", ""] : []),
    "import numpy as np",
    "import tritonclient.http as triton",
    "",
    `client = triton.InferenceServerClient(${text(host)}${secure})`,
    "inputs = []",
    inputs,
    `answer = client.infer(${text(model.name)}, inputs, ${text(model.version)}${keyed})`,
    ...model.outputs.map(({ name }) => `print(answer.as_numpy(${text(name)}))`),
  ].join("\n");
}

const image = ({ inputs: [{ name }] }) =>
  [
    `inputs.append(triton.InferInput(${text(name)}, [1], "BYTES"))`,
    `inputs[-1].set_data_from_numpy(np.array([open("cat.jpg", "rb").read()], object))`,
  ].join("\n");

const array = ({ name, datatype, shape }) => {
  const dims = text(shape.map((dim) => Math.max(dim, 1)));
  const zeros = `np.zeros(${dims}, ${text(NUMPY[datatype] ?? datatype.toLowerCase())})`;
  return [
    `inputs.append(triton.InferInput(${text(name)}, ${dims}, ${text(datatype)}))`,
    `inputs[-1].set_data_from_numpy(${zeros})`,
  ].join("\n");
};

/** Code with a button that copies it; the first of several is open. */
export function block([title, code], index) {
  const shown = element("pre", { tabIndex: 0 }, element("code", {}, code));
  const button = element("button", { type: "button", ariaLabel: `Copy ${title}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(code)) ? "Copied" : select(shown);
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return element("details", { open: index === 0 }, element("summary", {}, title), button, shown);
}

/** Browsers have a clipboard for pages of https and of this machine alone. */
const copied = (code) => navigator.clipboard?.writeText(code).then(() => true, () => false) ?? false;

function select(shown) {
  getSelection().selectAllChildren(shown);
  return "Selected";
}
