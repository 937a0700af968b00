/** Tabs agree: one refresh between them, one user, and none waits for a tab that is gone. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ADA, BOB, LOGOUT, Locks, REFRESH, Server, Store, TOKEN, Tabs, answer, page, pair, problem, settle, signIn, soFar, tab } from "./platform.mjs";

const PATH = "/api/v1/me";

/** As many tabs of one browser; `options` for each. */
function browser(count, options = {}) {
  const shared = { channel: new Tabs(), locks: new Locks(), server: new Server(), clock: { at: 1000 }, storage: new Store() };
  const open = (more) =>
    tab({ ...shared, options: { channel: shared.channel.join(), locks: shared.locks, ...options, ...more } });
  return { ...shared, open, tabs: Array.from({ length: count }, () => open()) };
}

test("signing in and out in one tab is signing in and out in all", async () => {
  const { server, tabs, channel } = browser(3);
  await signIn(tabs[0], ADA);
  await settle();
  const heard = [];
  channel.join().addEventListener("message", ({ data }) => heard.push(data.type));
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
  server.open(LOGOUT)[0].answer(answer(null));
  await settle();
  assert.deepEqual(heard, ["signed-out"]);
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
  const coming = [tabs[0].client.resume(), tabs[0].client.resume()];
  (await server.next(REFRESH)).answer(answer(pair(ADA)));
  assert.deepEqual(await Promise.all(coming), [ADA, ADA]);
  assert.deepEqual(tabs[0].told, [["signed-in", "ada"]]);
  assert.equal(server.requests.length, 1);
  // Once is not for ever.
  tabs[0].client.logout();
  (await server.next(LOGOUT)).answer(answer(null));
  const again = tabs[0].client.resume();
  (await server.next(REFRESH)).answer(problem(401, "refresh_missing"));
  assert.equal(await again, null);
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
  assert.equal(storage.length, 1);
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

test("tabs agree however they spell where Gapura is", async () => {
  const { server, tabs, open, storage } = browser(1);
  await signIn(tabs[0], ADA);
  const other = open({ baseUrl: "https://GAPURA.test:443/" });
  other.client.resume();
  await settle();
  tabs[0].client.logout();
  (await server.next(LOGOUT)).fail();
  await settle();
  // What is left for the next page is found by either.
  const next = open({ baseUrl: "https://GAPURA.test:443/", channel: null });
  next.client.resume();
  (await server.next(LOGOUT)).answer(answer(null));
  await settle();
  assert.equal(storage.length, 0);
  assert.equal(server.count(REFRESH), 0);
  const names = new Set();
  for (const baseUrl of ["https://gapura.test", "https://gapura.test/", "https://GAPURA.test:443"]) {
    const request = (name) => (names.add(name), new Promise(() => {}));
    const here = tab({ options: { baseUrl, locks: { request } } });
    here.client.login({ username: "ada", password: "x" });
    await settle();
  }
  assert.deepEqual([...names], ["gapura:https://gapura.test"]);
});

test("what is stored for a Gapura at an address that begins alike is left alone", async () => {
  const { server, open, storage } = browser(0, { refreshToken: "localStorage" });
  const theirs = "gapura:https://gapura.test:8080:2:refresh-token";
  storage.setItem(theirs, "secret");
  assert.equal(await soFar(open({ channel: null }).client.resume()), null);
  assert.deepEqual([server.requests.length, storage.keys()], [0, [theirs]]);
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
  page(t, { userId: "1" });
  const { server, tabs, channel } = browser(1, { credential: "session" });
  const call = tabs[0].client.fetch("/api/v1/sessions");
  await server.next("/api/v1/sessions");
  const other = channel.join();
  other.postMessage({ kind: "session", type: "signed-in", user: ADA });
  other.postMessage({ kind: "session", type: "signed-out", userId: "2", reason: "logged_out" });
  assert.equal(await soFar(call), "pending");
  other.postMessage({ kind: "session", type: "signed-in", user: BOB });
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.deepEqual(tabs[0].told, [["signed-out", null, "other_user"]]);
});

test("a page with a session tells the others who is there, and who has left", async (t) => {
  page(t, { userId: "1" });
  const { server, tabs, channel } = browser(3, { credential: "session" });
  const heard = [];
  channel.join().addEventListener("message", ({ data }) => heard.push(data.type));
  const coming = tabs[0].client.resume();
  (await server.next(PATH)).answer(answer(ADA));
  assert.deepEqual(await coming, ADA);
  assert.deepEqual(heard, ["signed-in"]);
  // Nobody had to ask whose this page is.
  tabs[1].client.logout();
  const request = await server.next("/logout");
  await settle();
  assert.deepEqual(tabs[1].told, [["signed-out", null, "logged_out"]]);
  assert.deepEqual(tabs[2].told, [], "the login page would send it back");
  request.answer(answer(null));
  await settle();
  assert.deepEqual(tabs[0].told, [["signed-in", "ada"], ["signed-out", "ada", "logged_out"]]);
  assert.deepEqual(tabs[2].told, [["signed-out", null, "logged_out"]]);
});

test("pages with a session hear once of a logout that the server does not answer, in time", async (t) => {
  page(t, { userId: "1" });
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { server, tabs, channel } = browser(2, { credential: "session" });
  const heard = [];
  channel.join().addEventListener("message", ({ data }) => heard.push(data.type));
  tabs[0].client.logout();
  t.mock.timers.tick(0);
  await settle();
  t.mock.timers.tick(500);
  await settle();
  assert.deepEqual(tabs[1].told, [["signed-out", null, "logged_out"]]);
  server.open("/logout")[0].fail();
  t.mock.timers.tick(60_000);
  await settle();
  assert.deepEqual(heard, ["signed-out"]);
});

test("a page that was made for one user is over when the session is another's", async (t) => {
  page(t, { userId: "1" });
  const { server, tabs } = browser(1, { credential: "session" });
  const coming = tabs[0].client.resume();
  (await server.next(PATH)).answer(answer(BOB));
  assert.equal(await coming, null);
  assert.deepEqual(tabs[0].told, [["signed-out", null, "other_user"]]);
});

test("a logout of somebody else that is heard late concerns nobody here", async () => {
  const { tabs, channel } = browser(1);
  await signIn(tabs[0], BOB);
  channel.join().postMessage({ kind: "token/cookie", type: "signed-out", userId: "1", reason: "logged_out" });
  await settle();
  assert.equal(tabs[0].client.user.username, "bob");
});

test("tabs that keep the refresh token elsewhere do not concern each other", async () => {
  const { channel, tabs } = browser(1);
  await signIn(tabs[0], ADA);
  channel.join().postMessage({ kind: "token/memory", type: "signed-out", userId: "1", reason: "logged_out" });
  await settle();
  assert.deepEqual(tabs[0].client.user, ADA);
});

test("a page that is being loaded while another tab logs out brings nobody back, in neither", async () => {
  const { server, tabs, open, channel } = browser(1);
  const login = { login: "one" };
  await signIn(tabs[0], ADA, login);
  // It hears nothing of what the other has, and asks the server.
  const ends = [...channel.ends];
  for (const end of ends) channel.ends.delete(end);
  const next = open();
  const coming = next.client.resume();
  const refresh = await server.next(REFRESH);
  for (const end of ends) channel.ends.add(end);
  tabs[0].client.logout();
  await settle();
  refresh.answer(answer(pair(ADA, login)));
  assert.equal(await coming, null);
  (await server.next(LOGOUT)).answer(answer(null));
  await settle();
  for (const { client } of [next, ...tabs]) assert.equal(client.user, null);
});

test("what another tab says before it has heard of the logout comes too late; the next login does not", async () => {
  const { channel, tabs } = browser(1);
  const { access_token: token } = pair(ADA, { login: "one" });
  await signIn(tabs[0], ADA, { login: "one" });
  tabs[0].client.logout();
  const other = channel.join();
  const told = { kind: "token/cookie", type: "signed-in", user: ADA, left: 1e6, lifetime: 1e6 };
  other.postMessage({ ...told, token });
  await settle();
  assert.equal(tabs[0].client.user, null);
  other.postMessage({ ...told, token: pair(ADA, { login: "two" }).access_token });
  await settle();
  assert.deepEqual(tabs[0].client.user, ADA);
});

test("a sign-in under way here is not undone by one in another tab: it comes later, and counts", async () => {
  const { server, tabs, channel } = browser(1);
  const coming = tabs[0].client.login({ username: "ada", password: "x" });
  const request = await server.next(TOKEN);
  channel.join().postMessage({ kind: "token/cookie", type: "signed-in", user: BOB, token: "bob-x", left: 1e6, lifetime: 1e6 });
  await settle();
  assert.equal(tabs[0].client.user, null);
  request.answer(answer(pair(ADA)));
  assert.deepEqual(await coming, ADA);
  assert.deepEqual(tabs[0].told, [["signed-in", "ada"]]);
});

test("a logout whose turn comes after the next login leaves that one's cookie, also if the news is not here yet", async () => {
  const { server, tabs, locks, storage } = browser(1);
  await signIn(tabs[0], ADA);
  let release;
  locks.request("x", {}, () => new Promise((resolve) => (release = resolve)));
  await settle();
  tabs[0].client.logout();
  await settle();
  // As the login in another tab does.
  for (const key of storage.keys()) storage.removeItem(key);
  release();
  const logout = await server.next(LOGOUT);
  assert.match(logout.token, /^ada-/);
  assert.equal(logout.init.credentials, "omit");
});

test("a tab answers for its own user alone", async () => {
  const { channel, tabs } = browser(1);
  await signIn(tabs[0], ADA);
  const other = channel.join();
  const heard = [];
  other.addEventListener("message", ({ data }) => heard.push([data.type, data.user?.id]));
  other.postMessage({ kind: "token/cookie", type: "ask", userId: "2", token: "", left: 0 });
  await settle();
  assert.deepEqual(heard, []);
  other.postMessage({ kind: "token/cookie", type: "ask", userId: "1", token: "", left: 1e9 });
  await settle();
  assert.deepEqual(heard, [], "what the other has is better");
  other.postMessage({ kind: "token/cookie", type: "ask", userId: "1", token: "", left: 0 });
  await settle();
  assert.deepEqual(heard, [["here", "1"]]);
});

test("a page that comes back from the browser's own cache looks who is there by now", async (t) => {
  const { show, listening } = page(t);
  for (const refreshToken of ["cookie", "memory", "localStorage"]) {
    const here = tab({ options: { refreshToken } });
    await signIn(here, ADA, { refreshToken: "first" });
    show(false);
    await settle();
    assert.equal(here.server.requests.length, 1, "loaded and not brought back");
    show();
    if (refreshToken === "cookie") {
      (await here.server.next(REFRESH)).answer(answer(pair(BOB)));
      await settle();
      assert.equal(here.client.user.username, "bob");
    } else {
      // A refresh token may have been used by others: the access token tells first.
      (await here.server.next(PATH)).answer(problem(401, "token_revoked"));
      await settle();
      assert.equal(here.client.user, null);
    }
    here.client.close();
    show();
    await settle();
    assert.equal(here.server.requests.every(({ done }) => done), true, "closed");
    assert.equal(listening(), 0);
  }
});

test("a page of ours that comes back from the browser's own cache is over when the session is another's", async (t) => {
  const { show } = page(t, { userId: "1" });
  const here = tab({ options: { credential: "session" } });
  here.client.resume();
  for (const user of [ADA, ADA, BOB]) {
    (await here.server.next(PATH)).answer(answer(user));
    await settle();
    show();
  }
  assert.deepEqual(here.told, [["signed-in", "ada"], ["signed-out", "ada", "other_user"]]);
});

test("what was closed while it waited asks for nothing", async () => {
  const { server, tabs } = browser(1);
  await signIn(tabs[0], ADA);
  tabs[0].client.logout();
  await server.next(LOGOUT);
  const coming = tabs[0].client.resume();
  await settle();
  tabs[0].client.close();
  assert.equal(await soFar(coming), "GapuraSignedOut");
  await settle();
  assert.deepEqual(server.requests.map(({ path }) => path), [TOKEN, LOGOUT]);
});

test("who signs in in another tab while this one waits is who is here", async () => {
  const { server, tabs, channel } = browser(1);
  await signIn(tabs[0], ADA);
  tabs[0].client.logout();
  const logout = await server.next(LOGOUT);
  const coming = tabs[0].client.resume();
  channel.join().postMessage({ kind: "token/cookie", type: "signed-in", user: BOB, token: "bob-x", left: 1e6, lifetime: 1e6 });
  await settle();
  logout.answer(answer(null));
  assert.equal((await coming).username, "bob");
  assert.equal(server.count(REFRESH), 0);
});

test("a client that is closed at the news of another user takes that one in no more", async () => {
  const { tabs, channel } = browser(1);
  await signIn(tabs[0], ADA);
  tabs[0].client.on("signed-out", () => tabs[0].client.close());
  channel.join().postMessage({ kind: "token/cookie", type: "signed-in", user: BOB, token: "bob-x", left: 1e6, lifetime: 1e6 });
  await settle();
  assert.equal(tabs[0].client.user, null);
});

test("a page that waits to ask again who is here gives up when somebody signs in", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  const coming = here.client.resume();
  (await here.server.next(REFRESH)).answer(problem(503, "unavailable"));
  await settle();
  here.server.rule = ({ path }) => (path === LOGOUT ? answer(null) : answer(pair(BOB)));
  await here.client.login({ username: "bob", password: "x" });
  assert.equal(await soFar(coming), "GapuraSignedOut");
});

test("a logout that the server refuses or never answers is told again; one that it knows of is not", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const [outcome, known] of [["refused", false], ["nothing", false], ["over", true]]) {
    const { server, tabs, open, storage } = browser(1, { locks: null, channel: null });
    await signIn(tabs[0], ADA);
    const leaving = tabs[0].client.logout();
    const logout = await server.next(LOGOUT);
    if (outcome === "refused") logout.answer(problem(503, "unavailable"));
    if (outcome === "over") logout.answer(problem(401, "token_revoked"));
    if (outcome === "nothing") t.mock.timers.tick(10_000);
    assert.equal(await soFar(leaving), known, outcome);
    assert.equal(storage.length, known ? 0 : 1);
    // A client that has no cookie has nothing to do with it.
    const other = open({ refreshToken: "memory" });
    assert.equal(await soFar(other.client.resume()), null);
    const next = open();
    next.client.resume();
    await settle();
    assert.deepEqual([server.count(LOGOUT), server.count(REFRESH)], known ? [1, 1] : [2, 0], outcome);
  }
});

test("who signs in while a page is about to tell of an old logout is left alone", async () => {
  const { server, tabs, locks, storage } = browser(1);
  storage.setItem("gapura:https://gapura.test:1:signed-out", "1");
  let release;
  locks.request("x", {}, () => new Promise((resolve) => (release = resolve)));
  const coming = tabs[0].client.resume();
  await settle();
  // As the login in another tab does.
  storage.removeItem("gapura:https://gapura.test:1:signed-out");
  release();
  await coming;
  assert.equal(server.count(LOGOUT), 0);
});

test("a tab from which the lock was taken does not begin again", async () => {
  const { server, tabs, locks } = browser(1, { channel: null });
  await signIn(tabs[0], ADA);
  tabs[0].clock.at += 1_800_000;
  const call = tabs[0].client.fetch(PATH);
  const refresh = await server.next(REFRESH);
  locks.request("x", { steal: true }, async () => {});
  await settle();
  assert.equal(server.count(REFRESH), 1);
  refresh.answer(answer(pair(ADA)));
  (await server.next(PATH)).answer(answer(1));
  assert.equal((await call).status, 200);
});

test("where locks are denied it goes without", async () => {
  const locks = { request: () => Promise.reject(new DOMException("denied", "SecurityError")) };
  const here = tab({ options: { locks } });
  await signIn(here, ADA);
  assert.deepEqual(here.client.user, ADA);
});

test("of another tab's tokens only a better one is taken, with who the user is by now; and nobody comes by an answer alone", async () => {
  const { server, tabs, channel } = browser(1);
  const other = channel.join();
  const told = { kind: "token/cookie", user: { ...ADA, role: "admin" }, lifetime: 1_800_000 };
  other.postMessage({ ...told, type: "here", token: "other", left: 1_800_000 });
  await settle();
  assert.equal(tabs[0].client.user, null);
  const token = await signIn(tabs[0], ADA);
  other.postMessage({ ...told, type: "refreshed", token: "older", left: 1_700_000 });
  await settle();
  assert.equal(tabs[0].client.user.role, "user");
  tabs[0].client.fetch(PATH);
  assert.equal((await server.next(PATH)).token, token);
  other.postMessage({ ...told, type: "refreshed", token: "newer", left: 1_900_000 });
  await settle();
  assert.equal(tabs[0].client.user.role, "admin");
  tabs[0].client.fetch(PATH);
  assert.equal((await server.next(PATH)).token, "newer");
});

test("who signs in takes the place of whoever the server could not be told of", async () => {
  const { server, tabs, storage } = browser(1);
  await signIn(tabs[0], ADA);
  tabs[0].client.logout();
  (await server.next(LOGOUT)).fail();
  const coming = tabs[0].client.login({ username: "bob", password: "x" });
  (await server.next(LOGOUT)).fail();
  (await server.next(TOKEN)).answer(answer(pair(BOB)));
  await coming;
  assert.equal(storage.length, 0);
});

test("signing in and coming back take their turn, as a refresh does: answers with a cookie do not cross", async () => {
  for (const [enter, path] of [["login", TOKEN], ["resume", REFRESH]]) {
    const { server, tabs, locks } = browser(1, { channel: null });
    let release;
    locks.request("x", {}, () => new Promise((resolve) => (release = resolve)));
    tabs[0].client[enter]({ username: "ada", password: "x" });
    await settle();
    assert.equal(server.count(path), 0, enter);
    release();
    await server.next(path);
  }
});

test("what is stored is forgotten once the server refuses it, and where it is two people's", async () => {
  const key = (id) => `gapura:https://gapura.test:${id}:refresh-token`;
  const { server, open, storage } = browser(0, { refreshToken: "localStorage" });
  storage.setItem(key(1), "first");
  const coming = open().client.resume();
  (await server.next(REFRESH)).answer(problem(401, "refresh_expired"));
  assert.equal(await coming, null);
  assert.equal(storage.length, 0);
  storage.setItem(key(1), "first");
  storage.setItem(key(2), "his");
  assert.equal(await open().client.resume(), null);
  assert.deepEqual([storage.length, server.count(REFRESH)], [0, 1]);
});
