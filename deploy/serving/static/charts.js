// Small charts in SVG. A drawing is stretched to the width of its figure; texts stand beside it in HTML, so they are not.

import { element } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 100;
const DASH = 6;

function drawn(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** The next of 1, 2, 5, 10, 20, … so that an axis ends in a round number. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * 0.999) * power;
}

function framed(figure, title, series) {
  const values = series.map(() => element("b", {}, "–"));
  const legend = series.map(({ name }, index) => {
    const swatch = element("i", { className: `swatch series-${index}` });
    return element("span", {}, swatch, `${name} `, values[index]);
  });
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const top = element("span", { className: "top" });
  const plot = element("div", { className: "plot" }, svg, top);
  figure.append(element("figcaption", {}, element("h3", {}, title), ...legend), plot);
  return { svg, top, values, figure };
}

/** Lines over the last `seconds`. `series`: name and `value(interval)`, null where there is nothing to show. */
export class LineChart {
  constructor(figure, { title, seconds, series, format }) {
    Object.assign(this, { title, seconds, series, format }, framed(figure, title, series));
    for (const height of [0.5, HEIGHT / 2]) this.svg.append(drawn("path", { class: "grid", d: `M0 ${height}H${WIDTH}` }));
    this.lines = series.map((_, index) => drawn("path", { class: `line series-${index}` }));
    this.svg.append(...this.lines);
    const ends = [element("span", {}, `${seconds} s ago`), element("span", {}, "now")];
    figure.append(element("div", { className: "axis" }, ...ends));
  }

  /** `intervals`: oldest first, each with the `time` of its end in seconds. */
  draw(intervals, now) {
    const rows = this.series.map(({ value }) => intervals.map(value));
    const most = Math.max(...rows.flat().filter((value) => value !== null), 0);
    const ceiling = most > 0 ? round(most) : 1;
    this.top.textContent = this.format(ceiling);
    rows.forEach((row, index) => {
      const points = row.map((value, at) => [intervals[at].time, value]);
      this.lines[index].setAttribute("d", this.#path(points, now, ceiling));
      this.values[index].textContent = row.length && row.at(-1) !== null ? this.format(row.at(-1)) : "–";
    });
    const words = this.series.map(({ name }, index) => `${name} ${this.values[index].textContent}`);
    this.svg.setAttribute("aria-label", `${this.title}, now: ${words.join(", ")}`);
  }

  /** A gap where a value is null; a point without one before it begins with a dash, so that it is seen alone too. */
  #path(points, now, ceiling) {
    let path = "";
    let open = false;
    for (const [time, value] of points) {
      if (value === null || time < now - this.seconds) {
        open = false;
        continue;
      }
      const x = WIDTH * (1 - (now - time) / this.seconds);
      const y = HEIGHT - 1 - (HEIGHT - 2) * (value / ceiling);
      path += open ? `L${x.toFixed(1)} ${y.toFixed(1)}` : `M${(x - DASH).toFixed(1)} ${y.toFixed(1)}h${DASH}`;
      open = true;
    }
    return path;
  }
}

/** One bar for each bucket, as a share of all. */
export class BarChart {
  constructor(figure, { title, name, format }) {
    Object.assign(this, { title, format }, framed(figure, title, [{ name }]));
    this.axis = figure.appendChild(element("div", { className: "axis bars" }));
  }

  /** `buckets`: label and count of each; `value` stands in the legend. */
  draw(buckets, value) {
    const total = buckets.reduce((sum, { count }) => sum + count, 0);
    const step = WIDTH / buckets.length;
    const bars = buckets.map(({ count }, index) => {
      const height = total ? (HEIGHT * count) / total : 0;
      const [x, width] = [(index + 0.15) * step, 0.7 * step];
      return drawn("rect", { class: "column series-0", x, y: HEIGHT - height, width, height });
    });
    this.svg.replaceChildren(drawn("path", { class: "grid", d: `M0 0.5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}` }), ...bars);
    this.axis.replaceChildren(...buckets.map(({ label }) => element("span", {}, label)));
    this.top.textContent = "100 %";
    this.values[0].textContent = value === null ? "–" : this.format(value);
    const words = buckets.filter(({ count }) => count).map(({ label, count }) => `${label}: ${count}`);
    this.svg.setAttribute("aria-label", `${this.title}. ${words.join(", ") || "no runs"}`);
  }
}
