// What a model did between two polls, from its counters in the protocol's statistics.

export const SECONDS = 60;

/** One model's counters over the last minute. */
export class History {
  #readings = [];

  /** Counters that went back are those of a model that was loaded again. */
  add(statistics, time) {
    const reading = { time, ...counters(statistics) };
    const last = this.#readings.at(-1);
    const restarted = last !== undefined && (reading.requests < last.requests || reading.runs < last.runs);
    if (restarted) this.#readings = [];
    this.#readings.push(reading);
    while (this.#readings[0].time < time - SECONDS - 2) this.#readings.shift();
    return restarted;
  }

  /** Rates and mean times between each two polls; times are null where no request was answered. */
  get intervals() {
    return this.#readings.slice(1).map((now, index) => between(this.#readings[index], now));
  }

  /** The network's runs in the last minute, by rows. */
  get runs() {
    const [first, last] = [this.#readings[0], this.#readings.at(-1)];
    if (!last) return new Map();
    return new Map([...last.sizes].map(([rows, count]) => [rows, count - (first.sizes.get(rows) ?? 0)]));
  }

  get last() {
    return this.#readings.at(-1);
  }
}

function counters({ inference_count, execution_count, inference_stats: stats, batch_stats }) {
  return {
    rows: inference_count,
    runs: execution_count,
    requests: stats.success.count,
    failed: stats.fail.count,
    ns: { request: stats.success.ns, queue: stats.queue.ns, network: stats.compute_infer.ns },
    sizes: new Map(batch_stats.map((batch) => [batch.batch_size, batch.compute_infer.count])),
  };
}

function between(before, now) {
  const seconds = now.time - before.time;
  const answered = now.requests - before.requests;
  const mean = (name) => (answered ? (now.ns[name] - before.ns[name]) / answered / 1e6 : null);
  return {
    time: now.time,
    requests: answered / seconds,
    rows: (now.rows - before.rows) / seconds,
    request: mean("request"),
    queue: mean("queue"),
    network: mean("network"),
  };
}

/** Runs by rows → buckets: each number up to 8, powers of two beyond (as the metrics have them). */
export function buckets(runs, most) {
  const ends = [];
  for (let end = 1; end < most; end = most <= 8 ? end + 1 : end * 2) ends.push(end);
  ends.push(most);
  return ends.map((end, index) => {
    const first = index ? ends[index - 1] + 1 : 1;
    const inside = [...runs].filter(([rows]) => first <= rows && (rows <= end || end === most));
    return { label: first === end ? `${end}` : `${first}–${end}`, count: inside.reduce((sum, [, count]) => sum + count, 0) };
  });
}
