// The page: polls the server once a second and shows the model that is chosen.

import { ask, key, pathOf } from "./api.js";
import { BarChart, LineChart } from "./charts.js";
import { byId, element, milliseconds, number, shape, whole } from "./dom.js";
import { History, SECONDS, buckets } from "./history.js";
import { Picture } from "./picture.js";
import { block, samples } from "./samples.js";

const PLATFORMS = { onnxruntime_onnx: "ONNX Runtime", tensorrt_plan: "TensorRT", tensorrt_rtx_plan: "TensorRT-RTX" };
const POLL = 1000;

/** Name and version, in one text → what is known of that model. */
const models = new Map();
const picture = new Picture();
let chosen = null;

const line = (name, of) => ({ name, value: (interval) => interval[of] });
const charts = {
  throughput: new LineChart(byId("throughput"), {
    title: "Throughput",
    seconds: SECONDS,
    series: [line("requests/s", "requests"), line("rows/s", "rows")],
    format: number,
  }),
  latency: new LineChart(byId("latency"), {
    title: "Mean latency",
    seconds: SECONDS,
    series: [line("request", "request"), line("queue", "queue"), line("network", "network")],
    format: milliseconds,
  }),
  batches: new BarChart(byId("batches"), { title: "Batch sizes, last minute", name: "rows a run", format: number }),
};

async function refresh() {
  const [rows, { model_stats }] = await Promise.all([
    ask("v2/repository/index", { method: "POST" }),
    ask("v2/models/stats"),
  ]);
  const now = performance.now() / 1000;
  const there = new Set(rows.map(idOf));
  for (const id of models.keys()) if (!there.has(id)) models.get(id).remove();
  for (const row of rows) known(row).state(row);
  for (const statistics of model_stats) models.get(idOf(statistics))?.count(statistics, now);
  await Promise.all([...models.values()].map((model) => model.describe()));
  if (rows.length && !models.has(chosen?.id)) choose(models.get(idOf(rows[0])));
  if (chosen) draw(now);
  const ready = rows.filter(({ state }) => state === "READY").length;
  status(ready === rows.length ? "ready" : "wait", ready === rows.length ? "ready" : `${ready} of ${rows.length} ready`);
}

const idOf = ({ name, version }) => JSON.stringify([name, version]);

function known(row) {
  const id = idOf(row);
  if (!models.has(id)) models.set(id, new Model(id, row));
  return models.get(id);
}

/** A model's row in the list, its counters and what it says of itself. */
class Model {
  constructor(id, { name, version }) {
    Object.assign(this, { id, name, version, history: new History(), metadata: null });
    this.radio = element("input", { type: "radio", name: "model" });
    this.radio.addEventListener("change", () => choose(this));
    this.badge = element("span", { className: "badge" });
    this.facts = element("span", { className: "facts" });
    this.tensors = element("span", { className: "tensors" });
    const title = element("span", { className: "title" }, element("b", {}, name), this.badge);
    this.label = element("label", { className: "model" }, this.radio, title, this.facts, this.tensors);
    byId("models").append(this.label);
  }

  remove() {
    models.delete(this.id);
    this.label.remove();
  }

  state({ state, reason }) {
    this.ready = state === "READY";
    if (!this.ready) this.metadata = null; // another file may be loaded next
    this.badge.textContent = this.ready ? "ready" : reason || state.toLowerCase();
    this.badge.dataset.state = this.ready ? "ready" : "wait";
  }

  count(statistics, now) {
    if (this.history.add(statistics, now)) this.metadata = null;
    const rate = this.history.intervals.at(-1)?.requests;
    if (this.ready && rate) this.badge.textContent = `${number(rate)} requests/s`;
  }

  async describe() {
    if (this.metadata || !this.ready) return;
    const [metadata, config] = await Promise.all([ask(pathOf(this)), ask(`${pathOf(this)}/config`)]);
    this.metadata = { ...metadata, version: this.version };
    this.most = config.max_batch_size || 1;
    const said = Object.fromEntries(Object.entries(config.parameters ?? {}).map(([name, { string_value }]) => [name, string_value]));
    const count = config.instance_group?.[0]?.count ?? 1;
    const facts = [
      `version ${this.version}`,
      PLATFORMS[metadata.platform] ?? metadata.platform,
      ...(said.precision ? [said.precision] : []),
      config.max_batch_size ? `max batch ${this.most}` : "no batching",
      ...(count > 1 ? [`${count} instances`] : []),
    ];
    const each = facts.map((fact, at) => element("span", {}, at < facts.length - 1 ? `${fact} ·` : fact));
    this.facts.replaceChildren(...each.flatMap((fact) => [fact, " "]));
    const tensor = ({ name, datatype, shape: dims }) => `${name} ${datatype}${shape(dims)}`;
    this.tensors.textContent = [metadata.inputs, metadata.outputs].map((side) => side.map(tensor).join(", ")).join(" → ");
    if (said.weights === "random") this.tensors.append(element("em", {}, "random weights: answers mean nothing"));
    if (this === chosen) show();
  }
}

function choose(model) {
  chosen = model;
  model.radio.checked = true;
  show();
}

/** All that depends on which model is chosen, and on what it says of itself. */
function show() {
  for (const place of document.querySelectorAll(".chosen")) place.textContent = chosen.name;
  byId("samples").hidden = !chosen.metadata;
  if (chosen.metadata) byId("code").replaceChildren(...samples(chosen.metadata, document.baseURI).map(block));
  picture.ask(chosen);
  draw(performance.now() / 1000);
}

function draw(now) {
  const { intervals, runs, last } = chosen.history;
  charts.throughput.draw(intervals, now);
  charts.latency.draw(intervals, now);
  const count = [...runs.values()].reduce((sum, value) => sum + value, 0);
  const rows = [...runs].reduce((sum, [size, value]) => sum + size * value, 0);
  charts.batches.draw(buckets(runs, chosen.most ?? 1), count ? rows / count : null);
  if (last) byId("totals").textContent = `Requests since it was loaded: ${whole(last.requests)} answered, ${whole(last.failed)} failed.`;
}

function status(state, words) {
  byId("state").dataset.state = state;
  if (byId("state").textContent !== words) byId("state").textContent = words; // said aloud when it changes
}

/** Until a key was given; the next poll tells whether it is the right one. */
function askForKey() {
  status("wait", "locked");
  byId("wrong").textContent = key.get() ? "This key is wrong." : "";
  key.forget();
  open(false);
  byId("key").focus();
  return new Promise((resolve) => {
    byId("lock").addEventListener("submit", (event) => {
      event.preventDefault();
      key.set(byId("key").value);
      byId("lock").reset();
      resolve();
    }, { once: true });
  });
}

function open(yes) {
  byId("lock").hidden = yes;
  byId("main").hidden = !yes;
  byId("forget").hidden = !yes || !key.get();
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const visible = () => new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));

async function main() {
  byId("forget").addEventListener("click", () => {
    key.forget();
    location.reload();
  });
  for (;;) {
    try {
      if (!byId("version").textContent) byId("version").textContent = (await ask("v2")).version;
      await refresh();
      open(true);
    } catch (failure) {
      if (failure.status === 401) {
        await askForKey();
        continue;
      }
      status("gone", failure.message);
    }
    await sleep(POLL);
    if (document.hidden) await visible();
  }
}

main();
