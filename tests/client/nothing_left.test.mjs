/** After logout nothing of a client runs on. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { getHeapSnapshot } from "node:v8";

import { ADA, BOB, LOGOUT, Locks, REFRESH, TOKEN, Tabs, answer, pair, problem, settle, signIn, tab } from "./platform.mjs";

/** Counts the timers that are set and neither over nor cleared. */
function countTimers(t, made = (it) => it) {
  const live = new Set();
  const [set, clear] = [globalThis.setTimeout, globalThis.clearTimeout];
  t.after(() => Object.assign(globalThis, { setTimeout: set, clearTimeout: clear }));
  // Not a mock of the test runner's, which remembers every call.
  globalThis.setTimeout = (work, wait, ...given) => {
    // Other tabs answer at once or not at all.
    const timer = made(set(() => {
      live.delete(timer);
      work(...given);
    }, wait === 50 ? 0 : wait));
    live.add(timer);
    return timer;
  };
  globalThis.clearTimeout = (timer) => {
    live.delete(timer);
    clear(timer);
  };
  return live;
}

/** Tells how much of what it was shown is still held by somebody; it sees every AbortController by itself. */
function watch(t) {
  const refs = [];
  const made = (it) => {
    refs.push(new WeakRef(it));
    return it;
  };
  const { AbortController } = globalThis;
  t.after(() => Object.assign(globalThis, { AbortController }));
  globalThis.AbortController = class extends AbortController {
    constructor() {
      super();
      made(this);
    }
  };
  made.alive = () => refs.filter((ref) => ref.deref() !== undefined).length;
  made.count = () => refs.length;
  return made;
}

/** What is in use after collections: what one of them finds is tidied up by the next. */
async function heapUsed() {
  for (let turn = 0; turn < 3; turn += 1) {
    await settle();
    globalThis.gc();
  }
  return process.memoryUsage().heapUsed;
}

test("a thousand turns of login and logout leave no timer, listener, socket or memory", async (t) => {
  const made = watch(t);
  const timers = countTimers(t, made);
  const channel = new Tabs();
  const [end, locks] = [channel.join(), new Locks()];
  const here = tab({ options: { channel: end, locks } });
  let kept = 0;
  const listen = end.addEventListener.bind(end);
  end.addEventListener = (...given) => (kept++, listen(...given));
  here.server.rule = ({ path, body }) => {
    if (path.endsWith("/token")) return answer(pair(body.username === "ada" ? ADA : BOB));
    if (path === REFRESH) return answer(pair(ADA));
    if (path === LOGOUT) return answer(null);
    // The others never get one.
    return path === "/api/v1/me" ? answer({ text: "x".repeat(10_000) }) : undefined;
  };
  const turn = async (number) => {
    const user = number % 2 ? ADA : BOB;
    await here.client.login({ username: user.username, password: "x" });
    here.client.connect();
    const hanging = [here.client.fetch("/api/v1/hangs"), here.client.get("/api/v1/hangs")];
    await here.client.get("/api/v1/me", { maxAge: 60_000 });
    here.opened.at(-1)?.accept();
    if (number % 3 === 0) here.opened.at(-1)?.drop(1006);
    await here.client.logout();
    for (const call of hanging) await assert.rejects(call, { name: "GapuraSignedOut" });
    assert.equal(here.live().length, 0);
    here.server.requests.length = here.opened.length = here.told.length = 0;
  };
  for (let number = 0; number < 1000; number += 1) await turn(number);
  const before = await heapUsed();
  for (let number = 0; number < 1000; number += 1) await turn(number);
  const grown = (await heapUsed()) - before;
  assert.equal(timers.size, 0);
  assert.equal(kept, 0);
  assert.deepEqual([locks.held, locks.queue], [null, []]);
  assert.ok(made.alive() < 10, `${made.alive()} of ${made.count()}`);
  assert.ok(grown < 1_000_000, `${grown} bytes more`);
});

test("what one sign-in does leaves nothing behind either", async (t) => {
  const made = watch(t);
  const timers = countTimers(t, made);
  const channel = new Tabs().join();
  const here = tab({ options: { channel, locks: new Locks() } });
  await signIn(here, ADA);
  here.server.rule = ({ path }) => {
    if (path === "/api/v1/none") return made(problem(404, "not_found"));
    const response = made(answer(path === REFRESH ? pair(ADA) : 1));
    if (path.includes("?")) response.json = async () => ({ data: made({}) });
    return response;
  };
  for (let number = 0; number < 100; number += 1) {
    here.clock.at += 1_790_000;
    await here.client.fetch("/api/v1/me");
    await (await here.client.fetch("/api/v1/me")).json();
    await here.client.get(`/api/v1/me?${number}`, { maxAge: 1 });
    await here.client.get("/api/v1/none").catch(made);
    here.server.requests.length = here.told.length = 0;
  }
  await heapUsed();
  assert.equal(timers.size, 1, "the expiry's");
  assert.ok(made.alive() < 10, `${made.alive()} of ${made.count()}`);
});

test("nothing of an account is in memory after its logout, though the page still holds an answer of it", async () => {
  const secret = ["very", "secret"].join("-");
  const held = await (async () => {
    const here = tab({ options: { refreshToken: "memory" } });
    const coming = here.client.login({ username: "ada", password: "x" });
    const data = { ...pair(ADA, { refreshToken: `${secret}-refresh` }), access_token: `${secret}-access` };
    (await here.server.next(TOKEN)).answer(answer(data));
    await coming;
    const got = here.client.get("/api/v1/me", { maxAge: 60_000 });
    (await here.server.next("/api/v1/me")).answer(answer({ text: `${secret}-answer` }));
    await got;
    const call = here.client.fetch("/api/v1/sessions");
    (await here.server.next("/api/v1/sessions")).answer(answer(1));
    const response = await call;
    const leaving = here.client.logout();
    (await here.server.next(LOGOUT)).answer(answer(null));
    await leaving;
    here.server.requests.length = 0;
    return [here.client, response];
  })();
  await settle();
  globalThis.gc();
  let snapshot = "";
  for await (const part of getHeapSnapshot().setEncoding("utf8")) snapshot += part;
  assert.equal(held.length, 2);
  for (const what of ["access", "refresh", "answer"]) assert.ok(!snapshot.includes([secret, what].join("-")), what);
});

test("a timer of the one before does not ring for the next", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  await signIn(here, BOB);
  here.clock.at += 1_499_000;
  t.mock.timers.tick(1_499_000);
  assert.equal(here.told.filter(([name]) => name === "expiring").length, 0);
  here.clock.at += 1000;
  t.mock.timers.tick(1000);
  assert.deepEqual(here.told.filter(([name]) => name === "expiring"), [["expiring", "bob"]]);
});

test("a socket that is refused for good leaves no timer to try again", async (t) => {
  const timers = countTimers(t);
  const here = tab();
  await signIn(here, ADA);
  here.client.connect();
  await settle();
  here.opened[0].accept();
  here.opened[0].drop(4401);
  (await here.server.next(REFRESH)).answer(problem(401, "refresh_reused"));
  await settle();
  assert.deepEqual([here.client.user, timers.size], [null, 0]);
});

test("close stops everything and signs nobody out", async (t) => {
  const timers = countTimers(t);
  const channel = new Tabs();
  const end = channel.join();
  const removed = t.mock.method(end, "removeEventListener").mock;
  const here = tab({ options: { channel: end } });
  const heard = [];
  channel.join().addEventListener("message", ({ data }) => heard.push(data.type));
  await signIn(here, ADA);
  here.client.connect();
  await settle();
  const call = here.client.get("/api/v1/me");
  (await here.server.next("/api/v1/me")).answer(problem(503, "unavailable"));
  await settle();
  assert.ok(timers.size > 0);
  here.client.close();
  await assert.rejects(call, { name: "GapuraSignedOut", reason: "closed" });
  assert.deepEqual([timers.size, here.live().length], [0, 0]);
  assert.equal(here.server.count(LOGOUT), 0);
  assert.ok(!heard.includes("signed-out"));
  assert.deepEqual([here.client.user, removed.callCount()], [null, 1]);
  for (const again of [() => here.client.fetch("/x"), () => here.client.resume(), () => here.client.login({ username: "ada", password: "x" })]) {
    await assert.rejects(again(), { name: "GapuraSignedOut" });
  }
  assert.equal(await here.client.logout(), true);
});

/** What a script prints that has signed in as `client`, and then ends. */
function print(script, options = "") {
  const module = fileURLToPath(new URL("../../static/js/gapura-client.js", import.meta.url));
  const begin = `
    const { createClient } = await import(${JSON.stringify(module)});
    const fetch = async () => new Response(JSON.stringify({ data: ${JSON.stringify(pair(ADA))} }));
    const client = createClient({ baseUrl: "https://gapura.test", fetch, ${options} });
    await client.login({ username: "ada", password: "x" });`;
  return new Promise((resolve, reject) => {
    execFile(process.execPath, ["--input-type=module", "--eval", begin + script], { timeout: 10_000 }, (error, stdout) =>
      error ? reject(error) : resolve(stdout.trim()),
    );
  });
}

test("a script ends by itself, whatever it still listens to", async () => {
  assert.equal(await print("console.log(client.user.username);"), "ada");
});

test("a script that has lost its socket waits for the next one", async () => {
  const socket = `WebSocket: class {
    constructor() {
      if (globalThis.lost) return console.log("again"), client.close();
      globalThis.lost = true;
      setTimeout(() => this.onclose({ code: 1006 }), 0);
    }
    close() {}
  }`;
  assert.equal(await print("client.connect();", socket), "again");
});

test("a channel that a client has opened for itself is closed with it", (t) => {
  let open = 0;
  const { BroadcastChannel } = globalThis;
  t.after(() => Object.assign(globalThis, { BroadcastChannel }));
  globalThis.BroadcastChannel = class extends EventTarget {
    constructor() {
      super();
      open += 1;
    }
    postMessage() {}
    close() {
      open -= 1;
    }
  };
  tab({ options: { channel: undefined, credential: { personalToken: "1|gpr_x" } } });
  assert.equal(open, 0, "a script has no tabs");
  const here = tab({ options: { channel: undefined } });
  assert.equal(open, 1);
  here.client.close();
  assert.equal(open, 0);
});
