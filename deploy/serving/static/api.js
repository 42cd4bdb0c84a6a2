// The server's replies, and what went wrong in plain words.

const KEY = "deploy.api-key";

/** A request that failed; the message is a sentence for people. `status` is HTTP's, 0 where nothing came back. */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The API key: this tab's alone, gone when it closes. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

const SAYS = {
  401: "The API key is missing or wrong.",
  413: "The file is larger than this server accepts.",
};

/** The JSON that `path` answers with. Throws Failure, or AbortError when `options.signal` fires. */
export async function ask(path, options = {}) {
  const headers = new Headers(key.get() ? { Authorization: `Bearer ${key.get()}` } : {});
  let reply;
  try {
    reply = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(await silence(options.body), 0);
  }
  if (!reply.ok) throw new Failure(SAYS[reply.status] ?? (await reason(reply)), reply.status);
  return reply.json();
}

async function reason(reply) {
  const { error } = await reply.json().catch(() => ({}));
  if (!error) return `The server answered with status ${reply.status}.`;
  return `${error[0].toUpperCase()}${error.slice(1)}${/[.!?…]$/.test(error) ? "" : "."}`;
}

/** Nothing came back. A server that refuses a large body may close the connection before it has said so. */
async function silence(body) {
  const alive = body && (await fetch("v2/health/live").then((reply) => reply.ok, () => false));
  return alive
    ? "The server closed the connection. The file may be larger than it accepts."
    : "The server does not answer. Is it still running?";
}

/** Where the protocol has one version of a model. */
export const pathOf = ({ name, version }) =>
  `v2/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`;
