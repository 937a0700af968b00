/** What the tests put around a client: a server, tabs, locks, a clock, all driven by hand. */

import { afterEach } from "node:test";

import { createClient } from "../../static/js/gapura-client.js";

export const ADA = { id: "1", username: "ada", email: "ada@example.org", name: "Ada", role: "user" };
export const BOB = { id: "2", username: "bob", email: "bob@example.org", name: "Bob", role: "user" };

const realTimeout = globalThis.setTimeout;

export const BASE = "https://gapura.test";

/** Lets everything that is ready run. */
export async function settle() {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** What a promise has come to so far: "pending", its value, or its error's name. */
export async function soFar(promise) {
  await settle();
  return Promise.race([promise.then((value) => value, (error) => error.name), Promise.resolve().then(() => settle()).then(() => "pending")]);
}

export function answer(data, { status = 200, headers = {} } = {}) {
  return new Response(JSON.stringify({ status, message: "", data }), { status, headers });
}

export function problem(status, code, more = {}, headers = {}) {
  return new Response(JSON.stringify({ status, code, message: `${code}.`, ...more }), {
    status,
    headers: { "Content-Type": "application/problem+json", ...headers },
  });
}

let pairs = 0;
/** `login` makes it a token that says which login it belongs to, as those of the server do. */
export function pair(user, { expiresIn = 1800, refreshToken, login } = {}) {
  pairs += 1;
  const claims = login ? `.${Buffer.from(JSON.stringify({ sid: login })).toString("base64url")}.` : "";
  const data = { access_token: `${user.username}-${pairs}${claims}`, token_type: "bearer", expires_in: expiresIn, user };
  if (refreshToken) data.refresh_token = refreshToken;
  return data;
}

/** A server of which every request waits for the test's answer, and which nothing aborts. */
export class Server {
  /** @type {{path: string, method: string, token: string, headers: Headers, body: any, init: any, signal: AbortSignal, done: boolean, answer: (r: Response) => void, fail: () => void}[]} */
  requests = [];
  /** Answers at once instead, where it returns something. */
  rule = (_request) => undefined;
  fetch = (url, init = {}) => {
    const headers = new Headers(init.headers);
    const { pathname, search, origin } = new URL(url);
    if (origin !== BASE) throw new Error(`a request to ${origin}`);
    const token = (headers.get("Authorization") ?? "").replace("Bearer ", "");
    let settleIt;
    const promise = new Promise((resolve, reject) => {
      settleIt = { answer: resolve, fail: () => reject(new TypeError("fetch failed")) };
    });
    const body = typeof init.body === "string" && init.body.startsWith("{") ? JSON.parse(init.body) : init.body;
    const request = { path: pathname + search, method: init.method ?? "GET", token, headers, body, init, signal: init.signal, done: false, ...settleIt };
    this.requests.push(request);
    const ruled = this.rule(request);
    if (ruled) {
      request.done = true;
      return Promise.resolve(ruled);
    }
    return promise;
  };

  /** The requests to that path which have no answer yet. */
  open(path) {
    return this.requests.filter((request) => !request.done && request.path === path);
  }

  /** The oldest of them, once it is there. */
  async next(path) {
    for (let turn = 0; turn < 200; turn += 1) {
      const [request] = this.open(path);
      if (request) {
        request.done = true;
        return request;
      }
      await new Promise((resolve) => realTimeout(resolve, 5));
    }
    throw new Error(`no request to ${path}, but to ${this.requests.map(({ path }) => path)}`);
  }

  count(path) {
    return this.requests.filter((request) => request.path === path).length;
  }
}

/** The BroadcastChannel of one browser; `new Tabs().join()` is a tab's end of it. */
export class Tabs {
  ends = new Set();
  join() {
    const end = new EventTarget();
    end.postMessage = (message) => {
      const copy = structuredClone(message);
      for (const other of this.ends) {
        if (other !== end) queueMicrotask(() => other.dispatchEvent(Object.assign(new Event("message"), { data: copy })));
      }
    };
    this.ends.add(end);
    return end;
  }
}

/** The locks of one browser, as the standard has them. */
export class Locks {
  queue = [];
  held = null;
  request = (name, { signal, steal } = {}, work) =>
    new Promise((resolve, reject) => {
      const entry = { name, work, resolve, reject };
      if (signal?.aborted) return reject(new DOMException("aborted", "AbortError"));
      signal?.addEventListener("abort", () => {
        const at = this.queue.indexOf(entry);
        if (at < 0) return;
        this.queue.splice(at, 1);
        reject(new DOMException("aborted", "AbortError"));
      });
      if (steal) {
        this.held?.reject(new DOMException("stolen", "AbortError"));
        this.held = null;
        this.queue.unshift(entry);
      } else {
        this.queue.push(entry);
      }
      this.#grant();
    });

  #grant() {
    if (this.held || this.queue.length === 0) return;
    const entry = (this.held = this.queue.shift());
    queueMicrotask(async () => {
      try {
        entry.resolve(await entry.work());
      } catch (error) {
        entry.reject(error);
      }
      if (this.held === entry) this.held = null;
      this.#grant();
    });
  }
}

/** A tab's localStorage. */
export class Store {
  #items = new Map();
  get length() {
    return this.#items.size;
  }
  key(index) {
    return [...this.#items.keys()][index] ?? null;
  }
  getItem(key) {
    return this.#items.get(key) ?? null;
  }
  setItem(key, value) {
    this.#items.set(key, String(value));
  }
  removeItem(key) {
    this.#items.delete(key);
  }
  keys() {
    return [...this.#items.keys()];
  }
}

/** Sockets that a client opens; the test is the server. */
export function sockets() {
  const opened = [];
  class FakeSocket {
    readyState = 0;
    sent = [];
    onopen = null;
    onmessage = null;
    onclose = null;
    constructor(url) {
      this.url = url;
      opened.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close() {
      this.readyState = 3;
    }
    // What the server does.
    accept() {
      this.readyState = 1;
      this.onopen?.({});
    }
    say(message) {
      this.onmessage?.({ data: JSON.stringify(message) });
    }
    drop(code, reason = "") {
      this.readyState = 3;
      this.onclose?.({ code, reason });
    }
  }
  return { opened, FakeSocket, live: () => opened.filter(({ readyState }) => readyState < 2) };
}

/** Its calls may fail before the test looks at them. */
function patient(client) {
  for (const name of ["fetch", "get", "login", "register", "resume"]) {
    const call = client[name];
    client[name] = (...given) => {
      const promise = call(...given);
      promise.catch(() => {});
      return promise;
    };
  }
  return client;
}

/** @type {Set<{close: () => void}>} */
const clients = new Set();
// What a test leaves waiting would keep its file from ending.
afterEach(() => {
  for (const client of clients) client.close();
  clients.clear();
});

/** Gives a test the parts of a page that Node has not; `show` is a return to it from the browser's own cache. */
export function page(t, { userId, token } = {}) {
  const events = new EventTarget();
  const meta = token && { getAttribute: () => token };
  Object.assign(globalThis, {
    document: { querySelector: () => meta ?? null, body: { dataset: { userId } } },
    addEventListener: events.addEventListener.bind(events),
    removeEventListener: events.removeEventListener.bind(events),
  });
  t.after(() => {
    for (const name of ["document", "addEventListener", "removeEventListener"]) delete globalThis[name];
  });
  let listening = 0;
  for (const [name, change] of [["addEventListener", 1], ["removeEventListener", -1]]) {
    const real = globalThis[name];
    globalThis[name] = (...given) => ((listening += change), real(...given));
  }
  return { listening: () => listening, show: (persisted = true) => events.dispatchEvent(Object.assign(new Event("pageshow"), { persisted })) };
}

/** A client on a platform of its own, and what it has told its listeners. */
export function tab(more = {}) {
  const server = more.server ?? new Server();
  const clock = more.clock ?? { at: 1000 };
  const { opened, FakeSocket, live } = sockets();
  const storage = more.storage ?? new Store();
  const client = patient(createClient({
    baseUrl: BASE,
    fetch: server.fetch,
    WebSocket: /** @type {any} */ (FakeSocket),
    locks: null,
    channel: null,
    storage: /** @type {any} */ (storage),
    now: () => clock.at,
    ...more.options,
  }));
  clients.add(client);
  const told = [];
  for (const name of ["signed-in", "signed-out", "refreshed", "expiring", "event"]) {
    client.on(name, (detail) => told.push([name, detail.user?.username ?? detail.type ?? null, ...(detail.reason ? [detail.reason] : [])]));
  }
  return { client, server, clock, opened, live, storage, told };
}

export const TOKEN = "/api/v1/auth/token";
export const REFRESH = "/api/v1/auth/refresh";
export const LOGOUT = "/api/v1/auth/logout";

/** Signs somebody in and answers for the server. */
export async function signIn({ client, server }, user, how = {}) {
  const coming = client.login({ username: user.username, password: "correct horse battery staple" });
  coming.catch(() => {});
  if (!how.handOver) {
    const request = await server.next(TOKEN);
    const data = pair(user, how);
    request.answer(answer(data));
    await coming;
    return data.access_token;
  }
  return coming;
}
