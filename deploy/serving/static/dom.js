// Elements and numbers. What comes from the server becomes text here and nowhere HTML.

export const byId = (id) => document.getElementById(id);

/** `element("p", { className: "hint" }, "text", child)`: properties of the element, then its children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** Three digits that count, none of an integer lost: 0.0123, 4.56, 789, 12,345. */
export const number = (value) => SHORT.format(Math.abs(value) < 1000 ? value : Math.round(value / 10) * 10);

export const whole = (value) => value.toLocaleString("en");

export const milliseconds = (value) => `${value < 10 ? value.toFixed(2) : number(value)} ms`;

export const percent = (value) => `${(100 * value).toFixed(1)} %`;

/** A shape of the protocol, where -1 is open: the first axis is then the batch. */
export const shape = (dims) => `[${dims.map((dim, axis) => (dim >= 0 ? dim : axis ? "?" : "N")).join("×")}]`;
