/** Tabs agree: one refresh between them, one user, and none waits for a tab that is gone. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ADA, BOB, LOGOUT, Locks, REFRESH, Server, Store, TOKEN, Tabs, answer, pair, problem, settle, signIn, soFar, tab } from "./platform.mjs";

const PATH = "/api/v1/me";

/** As many tabs of one browser; `options` for each. */
function browser(count, options = {}) {
  const shared = { channel: new Tabs(), locks: new Locks(), server: new Server(), clock: { at: 1000 }, storage: new Store() };
  const open = () =>
    tab({ ...shared, options: { channel: shared.channel.join(), locks: shared.locks, ...options } });
  return { ...shared, open, tabs: Array.from({ length: count }, open) };
}

test("signing in and out in one tab is signing in and out in all", async () => {
  const { server, tabs } = browser(3);
  await signIn(tabs[0], ADA);
  await settle();
  for (const { client } of tabs) assert.deepEqual(client.user, ADA);
  assert.equal(server.requests.length, 1);
  const call = tabs[1].client.fetch(PATH);
  const request = await server.next(PATH);
  assert.match(request.token, /^ada-/);
  tabs[2].client.logout();
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.equal(request.signal.aborted, true);
  for (const { client, told } of tabs) {
    assert.equal(client.user, null);
    assert.deepEqual(told, [["signed-in", "ada"], ["signed-out", "ada", "logged_out"]]);
  }
  assert.equal(server.count(LOGOUT), 1, "one tab tells the server");
});

test("signing in as somebody else resets every tab", async () => {
  const { server, tabs } = browser(2);
  await signIn(tabs[0], ADA);
  await settle();
  const kept = tabs[1].client.get(PATH, { maxAge: 60_000 });
  (await server.next(PATH)).answer(answer("ada's"));
  await kept;
  const call = tabs[1].client.get("/api/v1/sessions");
  const late = await server.next("/api/v1/sessions");
  const coming = tabs[0].client.login({ username: "bob", password: "x" });
  (await server.next(LOGOUT)).answer(answer(null));
  (await server.next(TOKEN)).answer(answer(pair(BOB)));
  await coming;
  late.answer(answer("ada's"));
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.equal(tabs[1].client.user.username, "bob");
  const his = tabs[1].client.get(PATH, { maxAge: 60_000 });
  const request = await server.next(PATH);
  assert.match(request.token, /^bob-/);
  request.answer(answer("bob's"));
  assert.equal(await his, "bob's");
});

test("a sign-in as somebody else is enough to reset a tab that missed the logout", async () => {
  const { channel, tabs } = browser(1);
  await signIn(tabs[0], ADA);
  const call = tabs[0].client.fetch(PATH);
  const other = channel.join();
  other.postMessage({ kind: "token/cookie", type: "signed-in", user: BOB, token: "bob-x", left: 1000, lifetime: 1000 });
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.deepEqual(tabs[0].told, [["signed-in", "ada"], ["signed-out", "ada", "other_user"], ["signed-in", "bob"]]);
});

test("one refresh serves every tab", async () => {
  const { server, tabs, clock } = browser(5);
  await signIn(tabs[0], ADA);
  await settle();
  clock.at += 1_790_000;
  const calls = tabs.flatMap(({ client }) => [client.fetch(PATH), client.fetch(PATH)]);
  const refresh = await server.next(REFRESH);
  const next = pair(ADA);
  refresh.answer(answer(next));
  for (let count = 0; count < 10; count += 1) {
    const request = await server.next(PATH);
    assert.equal(request.token, next.access_token);
    request.answer(answer(1));
  }
  await Promise.all(calls);
  assert.equal(server.count(REFRESH), 1);
});

test("a tab that was not told of the refresh asks before it does its own", async () => {
  const { server, tabs, clock, channel } = browser(2);
  await signIn(tabs[0], ADA);
  await settle();
  const [, second] = channel.ends;
  const heard = second.dispatchEvent.bind(second);
  second.dispatchEvent = () => true;
  clock.at += 1_790_000;
  tabs[0].client.fetch(PATH);
  const next = pair(ADA);
  (await server.next(REFRESH)).answer(answer(next));
  await server.next(PATH);
  second.dispatchEvent = heard;
  tabs[1].client.fetch(PATH);
  assert.equal((await server.next(PATH)).token, next.access_token);
  assert.equal(server.count(REFRESH), 1);
});

test("a tab that hangs with the lock is waited for ten seconds, not longer", async (t) => {
  const { server, tabs, clock, locks } = browser(2);
  await signIn(tabs[0], ADA);
  await settle();
  locks.request("gapura:https://gapura.test", {}, () => new Promise(() => {})).catch(() => {});
  await settle();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  clock.at += 1_800_000;
  const call = tabs[1].client.fetch(PATH);
  await settle();
  t.mock.timers.tick(9_999);
  await settle();
  assert.equal(server.count(REFRESH), 0);
  t.mock.timers.tick(1);
  for (let turn = 0; turn < 20; turn += 1) {
    await settle();
    t.mock.timers.tick(5);
  }
  (await server.next(REFRESH)).answer(answer(pair(ADA)));
  (await server.next(PATH)).answer(answer(1));
  assert.equal((await call).status, 200);
});

test("a tab that dies in its refresh leaves the next one to the others", async () => {
  const { server, tabs, clock } = browser(2);
  await signIn(tabs[0], ADA);
  await settle();
  clock.at += 1_800_000;
  const lost = tabs[0].client.fetch(PATH);
  await server.next(REFRESH);
  const call = tabs[1].client.fetch(PATH);
  tabs[0].client.close();
  assert.equal(await soFar(lost), "GapuraSignedOut");
  (await server.next(REFRESH)).answer(answer(pair(ADA)));
  (await server.next(PATH)).answer(answer(1));
  assert.equal((await call).status, 200);
});

test("who waits for the lock at logout never gets to refresh", async () => {
  const { server, tabs, clock, locks } = browser(1);
  await signIn(tabs[0], ADA);
  let release;
  locks.request("x", {}, () => new Promise((resolve) => (release = resolve)));
  await settle();
  clock.at += 1_800_000;
  const call = tabs[0].client.fetch(PATH);
  await settle();
  tabs[0].client.logout();
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.equal(locks.queue.length, 1, "the logout alone is waiting");
  release();
  await settle();
  assert.deepEqual([server.count(REFRESH), server.count(LOGOUT)], [0, 1]);
});

test("a refused refresh signs every tab out", async () => {
  const { server, tabs, clock } = browser(2);
  await signIn(tabs[0], ADA);
  await settle();
  clock.at += 1_800_000;
  tabs[0].client.fetch(PATH);
  (await server.next(REFRESH)).answer(problem(401, "refresh_expired"));
  await settle();
  assert.deepEqual(tabs[1].told.at(-1), ["signed-out", "ada", "refresh_expired"]);
});

test("a page that is loaded takes part in what the other tabs have", async () => {
  const { server, open, tabs } = browser(1);
  await signIn(tabs[0], ADA);
  const next = open();
  assert.equal(next.client.user, null);
  assert.deepEqual(await next.client.resume(), ADA);
  assert.equal(server.count(REFRESH), 0);
  assert.deepEqual(await next.client.resume(), ADA);
});

test("a page that is loaded alone asks the server", async () => {
  const { server, tabs } = browser(1);
  const coming = tabs[0].client.resume();
  tabs[0].client.resume();
  (await server.next(REFRESH)).answer(answer(pair(ADA)));
  assert.deepEqual(await coming, ADA);
  assert.deepEqual(tabs[0].told, [["signed-in", "ada"]]);
  assert.equal(server.requests.length, 1);
});

test("nobody comes back where nobody was, and nobody is told of it", async () => {
  const { server, tabs } = browser(1);
  const coming = tabs[0].client.resume();
  (await server.next(REFRESH)).answer(problem(401, "refresh_missing"));
  assert.equal(await coming, null);
  assert.deepEqual(tabs[0].told, []);
});

test("whether somebody is signed in is not known during an outage", async (t) => {
  const here = tab();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const coming = here.client.resume();
  for (let turn = 0; turn < 5; turn += 1) {
    (await here.server.next(REFRESH)).answer(problem(503, "unavailable"));
    await settle();
    t.mock.timers.tick(20_000);
  }
  await assert.rejects(coming, { name: "GapuraError", status: 503 });
});

test("coming back is dropped when somebody signs in meanwhile", async () => {
  const here = tab();
  const coming = here.client.resume();
  const refresh = await here.server.next(REFRESH);
  const login = here.client.login({ username: "bob", password: "x" });
  refresh.answer(answer(pair(ADA)));
  (await here.server.next(LOGOUT)).answer(answer(null));
  (await here.server.next(TOKEN)).answer(answer(pair(BOB)));
  await login;
  await coming.catch(() => {});
  assert.equal(here.client.user.username, "bob");
  assert.deepEqual(here.told, [["signed-in", "bob"]]);
});

test("who logs out without a network stays out, and the server is told when it can be", async () => {
  const { server, tabs, open, storage } = browser(1);
  await signIn(tabs[0], ADA);
  const leaving = tabs[0].client.logout();
  assert.equal(tabs[0].client.user, null);
  (await server.next(LOGOUT)).fail();
  assert.equal(await leaving, false);
  tabs[0].client.close();
  const next = open();
  const coming = next.client.resume();
  const told = await server.next(LOGOUT);
  assert.equal(told.init.credentials, "same-origin");
  told.answer(answer(null));
  assert.equal(await coming, null);
  assert.equal(server.count(REFRESH), 0);
  assert.deepEqual(storage.keys(), []);
});

test("a logout that is late does not take the cookie of whoever signed in since", async () => {
  const { server, tabs, locks, channel } = browser(1);
  await signIn(tabs[0], ADA);
  let release;
  locks.request("x", {}, () => new Promise((resolve) => (release = resolve)));
  await settle();
  tabs[0].client.logout();
  channel.join().postMessage({ kind: "token/cookie", type: "signed-in", user: BOB, token: "bob-x", left: 1e6, lifetime: 1e6 });
  await settle();
  release();
  const logout = await server.next(LOGOUT);
  assert.match(logout.token, /^ada-/);
  assert.equal(logout.init.credentials, "omit");
});

test("everywhere is everywhere", async () => {
  const here = tab();
  const token = await signIn(here, ADA);
  const leaving = here.client.logout({ everywhere: true });
  const request = await here.server.next("/api/v1/auth/logout-all");
  assert.equal(request.token, token);
  request.answer(answer(null));
  assert.equal(await leaving, true);
});

test("what is stored by choice carries the user's id and goes at logout", async () => {
  const { server, tabs, open, storage, clock } = browser(2, { refreshToken: "localStorage", legacyKeys: ["token", "user"] });
  storage.setItem("token", "of an older client");
  storage.setItem("theirs", "stays");
  const KEY = "gapura:https://gapura.test:1:refresh-token";
  await signIn(tabs[0], ADA, { refreshToken: "first" });
  assert.deepEqual(storage.keys(), ["theirs", KEY]);
  storage.setItem("user", "of an older client");
  // Another tab has renewed it in between: there is one copy.
  storage.setItem(KEY, "second");
  clock.at += 1_800_000;
  tabs[0].client.fetch(PATH);
  const refresh = await server.next(REFRESH);
  assert.deepEqual(refresh.body, { refresh_token: "second" });
  refresh.answer(answer(pair(ADA, { refreshToken: "third" })));
  await server.next(PATH);
  assert.equal(storage.getItem(KEY), "third");
  for (const { client } of tabs) client.close();
  const next = open();
  const coming = next.client.resume();
  const again = await server.next(REFRESH);
  assert.deepEqual(again.body, { refresh_token: "third" });
  again.answer(answer(pair(ADA, { refreshToken: "fourth" })));
  assert.deepEqual(await coming, ADA);
  next.client.logout();
  assert.deepEqual(storage.keys(), ["theirs"]);
  assert.equal((await server.next(LOGOUT)).headers.get("X-Refresh-Token"), "fourth");
});

test("a logout heard late leaves the keys of the next login alone", async () => {
  const { tabs, storage, channel } = browser(1, { refreshToken: "localStorage" });
  await signIn(tabs[0], ADA, { refreshToken: "first" });
  channel.join().postMessage({ kind: "token/localStorage", type: "signed-out", userId: "1", reason: "logged_out" });
  await settle();
  assert.equal(tabs[0].client.user, null);
  assert.equal(storage.length, 1);
});

test("by default nothing is stored", async () => {
  const here = tab();
  await signIn(here, ADA);
  assert.equal(here.storage.length, 0);
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  await settle();
  assert.equal(here.storage.length, 0);
});

test("tabs that keep the token in memory share the newest", async () => {
  const { server, tabs, clock } = browser(2, { refreshToken: "memory" });
  await signIn(tabs[0], ADA, { refreshToken: "first" });
  await settle();
  for (const [index, held, next] of [[1, "first", "second"], [0, "second", "third"]]) {
    clock.at += 1_790_000;
    tabs[index].client.fetch(PATH);
    const refresh = await server.next(REFRESH);
    assert.deepEqual(refresh.body, { refresh_token: held });
    refresh.answer(answer(pair(ADA, { refreshToken: next })));
    await server.next(PATH);
  }
});

test("tabs of another kind of client do not concern each other", async () => {
  const { channel, tabs } = browser(1);
  await signIn(tabs[0], ADA);
  const other = channel.join();
  other.postMessage({ kind: "session", type: "signed-out", userId: "1", reason: "logged_out" });
  other.postMessage("something else");
  await settle();
  assert.deepEqual(tabs[0].client.user, ADA);
});

test("a page with a session is over when somebody else's page is opened", async (t) => {
  globalThis.document = { querySelector: () => null, body: { dataset: { userId: "1" } } };
  t.after(() => delete globalThis.document);
  const { server, tabs, open } = browser(1, { credential: "session" });
  const call = tabs[0].client.fetch("/api/v1/sessions");
  await server.next("/api/v1/sessions");
  for (const [user, expected] of [[ADA, "pending"], [BOB, "GapuraSignedOut"]]) {
    const other = open();
    const coming = other.client.resume();
    (await server.next(PATH)).answer(answer(user));
    await coming;
    assert.equal(await soFar(call), expected, user.username);
    other.client.close();
  }
  tabs[0].client.close();
});
