/** Nothing of one account reaches the next: every interleaving that has ever leaked one. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ADA, BOB, LOGOUT, Locks, REFRESH, TOKEN, answer, pair, problem, settle, signIn, soFar, tab } from "./platform.mjs";

const PATH = "/api/v1/sessions";

test("logout aborts a request in flight and its caller is told at once", async () => {
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.fetch(PATH);
  const sent = await here.server.next(PATH);
  const leaving = here.client.logout();
  assert.equal(here.client.user, null);
  assert.equal(sent.signal.aborted, true);
  await assert.rejects(call, { name: "GapuraSignedOut", reason: "logged_out" });
  (await here.server.next(LOGOUT)).answer(answer(null));
  assert.equal(await leaving, true);
});

test("an answer after logout is not delivered, not kept, not repeated", async () => {
  const here = tab();
  await signIn(here, ADA);
  const [read, got] = [here.client.fetch(PATH), here.client.get(PATH, { maxAge: 60_000 })];
  const [first, second] = [await here.server.next(PATH), await here.server.next(PATH)];
  here.client.logout();
  // The order matters: what has arrived but was not delivered yet is dropped as well.
  first.answer(problem(401, "token_expired"));
  second.answer(answer("ada's"));
  assert.deepEqual([await soFar(read), await soFar(got)], ["GapuraSignedOut", "GapuraSignedOut"]);
  (await here.server.next(LOGOUT)).answer(answer(null));
  await signIn(here, BOB);
  assert.deepEqual(here.server.open(REFRESH), []);
  const his = here.client.get(PATH, { maxAge: 60_000 });
  (await here.server.next(PATH)).answer(answer("bob's"));
  assert.equal(await his, "bob's");
});

test("an answer that arrives with the logout is not delivered, whichever step of its way it has come to", async () => {
  for (const read of [(client) => client.fetch(PATH), (client) => client.get(PATH, { maxAge: 1000 })]) {
    let [delivered, late] = [false, 0];
    for (let steps = 0; !delivered; steps += 1) {
      const here = tab();
      await signIn(here, ADA);
      const call = read(here.client).then(() => (delivered = true));
      call.catch(() => {});
      (await here.server.next(PATH)).answer(answer("ada's"));
      for (let step = 0; step < steps; step += 1) await null;
      if (delivered) break;
      here.client.logout();
      if ((await soFar(call)) !== "GapuraSignedOut") late += 1;
      delivered = false;
    }
    // Where the call is settled already, its caller is the next to run.
    assert.ok(late <= 1, `at ${late} steps`);
  }
});

test("an answer whose body has not been read by the logout cannot be read after it", async () => {
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.fetch(PATH);
  (await here.server.next(PATH)).answer(answer("ada's"));
  const response = await call;
  const copy = response.clone();
  const reading = response.json();
  here.client.logout();
  await assert.rejects(reading, { name: "GapuraSignedOut" });
  await assert.rejects(copy.text(), { name: "GapuraSignedOut" });
});

test("tokens in the headers of a late answer are dropped", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.client.fetch(PATH).catch(() => {});
  const late = await here.server.next(PATH);
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  const token = await signIn(here, BOB);
  late.answer(answer(1, { headers: { "X-Token-Refreshed": "true", "X-New-Access-Token": "ada-late" } }));
  await settle();
  here.client.fetch(PATH).catch(() => {});
  assert.equal((await here.server.next(PATH)).token, token);
});

test("a refresh that ends after another user signed in is thrown away", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_790_000;
  const call = here.client.fetch(PATH);
  const refresh = await here.server.next(REFRESH);
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  const token = await signIn(here, BOB);
  refresh.answer(answer(pair(ADA)));
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.equal(here.client.user.username, "bob");
  here.client.fetch(PATH).catch(() => {});
  assert.equal((await here.server.next(PATH)).token, token);
  assert.deepEqual(here.told.filter(([name]) => name === "refreshed"), []);
});

test("a refused refresh of the one before does not sign the next one out", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_790_000;
  here.client.fetch(PATH).catch(() => {});
  const refresh = await here.server.next(REFRESH);
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  await signIn(here, BOB);
  refresh.answer(problem(401, "refresh_reused"));
  await settle();
  assert.equal(here.client.user.username, "bob");
});

test("calls of two users are never one request", async () => {
  const here = tab();
  await signIn(here, ADA);
  const hers = here.client.get(PATH);
  const first = await here.server.next(PATH);
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  await signIn(here, BOB);
  const his = here.client.get(PATH);
  const second = await here.server.next(PATH);
  first.answer(answer("ada's"));
  assert.deepEqual([await soFar(hers), await soFar(his)], ["GapuraSignedOut", "pending"]);
  second.answer(answer("bob's"));
  assert.equal(await his, "bob's");
});

test("kept answers go with their user, also when somebody else signs in without a logout", async () => {
  const here = tab();
  await signIn(here, ADA);
  const hers = here.client.get(PATH, { maxAge: 60_000 });
  (await here.server.next(PATH)).answer(answer("ada's"));
  await hers;
  assert.equal(await here.client.get(PATH, { maxAge: 60_000 }), "ada's");
  const coming = here.client.login({ username: "bob", password: "x" });
  assert.equal(here.client.user, null, "she leaves before he comes");
  (await here.server.next(LOGOUT)).answer(answer(null));
  (await here.server.next(TOKEN)).answer(answer(pair(BOB)));
  await coming;
  const his = here.client.get(PATH, { maxAge: 60_000 });
  (await here.server.next(PATH)).answer(answer("bob's"));
  assert.equal(await his, "bob's");
});

test("what waits to be tried again is not tried after logout", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.get(PATH);
  (await here.server.next(PATH)).answer(problem(503, "unavailable"));
  await settle();
  here.clock.at += 1_900_000;
  const other = here.client.fetch(PATH);
  (await here.server.next(REFRESH)).fail();
  await settle();
  here.client.logout();
  (await here.server.next(LOGOUT)).answer(answer(null));
  const before = here.server.requests.length;
  t.mock.timers.tick(600_000);
  assert.deepEqual([await soFar(call), await soFar(other)], ["GapuraSignedOut", "GapuraSignedOut"]);
  assert.equal(here.server.requests.length, before);
});

test("of two sign-ins under way only the later counts", async () => {
  const here = tab();
  const hers = here.client.login({ username: "ada", password: "x" });
  const first = await here.server.next(TOKEN);
  const his = here.client.login({ username: "bob", password: "x" });
  first.answer(answer(pair(ADA)));
  assert.equal(await soFar(hers), "GapuraSignedOut");
  (await here.server.next(LOGOUT)).answer(answer(null));
  (await here.server.next(TOKEN)).answer(answer(pair(BOB)));
  assert.equal((await his).username, "bob");
  assert.deepEqual(here.told, [["signed-in", "bob"]]);
});

test("a sign-in that is logged out of before its answer does not happen", async () => {
  const here = tab();
  const coming = here.client.login({ username: "ada", password: "x" });
  const request = await here.server.next(TOKEN);
  here.client.logout();
  request.answer(answer(pair(ADA)));
  assert.equal(await soFar(coming), "GapuraSignedOut");
  assert.equal(here.client.user, null);
  assert.deepEqual(here.told, []);
});

test("when the cookie turns out to be somebody else's, nothing of the first account goes on", async () => {
  const here = tab();
  await signIn(here, ADA);
  const open = here.client.fetch("/api/v1/me");
  await here.server.next("/api/v1/me");
  here.clock.at += 1_790_000;
  const call = here.client.fetch(PATH);
  (await here.server.next(REFRESH)).answer(answer(pair(BOB)));
  assert.deepEqual([await soFar(open), await soFar(call)], ["GapuraSignedOut", "GapuraSignedOut"]);
  assert.deepEqual(here.server.open(PATH), []);
  assert.deepEqual(here.told, [["signed-in", "ada"], ["signed-out", "ada", "other_user"], ["signed-in", "bob"]]);
});

test("nothing is sent for nobody", async () => {
  const here = tab();
  await assert.rejects(here.client.fetch(PATH), { name: "GapuraSignedOut" });
  await assert.rejects(here.client.get(PATH), { name: "GapuraSignedOut" });
  assert.throws(() => here.client.connect(), { name: "GapuraSignedOut" });
  assert.equal(here.server.requests.length, 0);
});

test("a token goes to no other place", async () => {
  const here = tab();
  await signIn(here, ADA);
  for (const place of ["https://elsewhere.test/", "//elsewhere.test/x", "http://gapura.test/"]) {
    await assert.rejects(here.client.fetch(place), TypeError, place);
    await assert.rejects(here.client.get(place), TypeError, place);
  }
  assert.equal(here.server.requests.length, 1);
});

test("a listener that logs out is the last to hear of the sign-in", async () => {
  const here = tab();
  const heard = [];
  here.client.on("signed-in", () => void here.client.logout());
  here.client.on("signed-in", () => heard.push("in"));
  here.client.on("signed-out", () => heard.push("out"));
  const coming = here.client.login({ username: "ada", password: "x" });
  (await here.server.next(TOKEN)).answer(answer(pair(ADA)));
  await assert.rejects(coming, { name: "GapuraSignedOut" });
  assert.deepEqual(heard, ["out"]);
});

test("a listener that fails keeps nothing from the others", async (t) => {
  t.mock.method(console, "error", () => {});
  const here = tab();
  const heard = [];
  const off = here.client.on("signed-in", () => heard.push("taken back"));
  here.client.on("signed-in", () => {
    throw new Error("not yours");
  });
  here.client.on("signed-in", ({ user }) => heard.push(user.username));
  off();
  await signIn(here, ADA);
  assert.deepEqual(heard, ["ada"]);
});

test("who signs in at the news of a logout comes after it", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.client.on("signed-out", () => here.client.login({ username: "bob", password: "x" }));
  here.client.logout();
  const logout = await here.server.next(LOGOUT);
  assert.equal(here.server.open(TOKEN).length, 0);
  logout.answer(answer(null));
  (await here.server.next(TOKEN)).answer(answer(pair(BOB)));
  await settle();
  assert.equal(here.client.user.username, "bob");
});

test("a sign-in that is superseded while it waits for its turn asks for nothing", async () => {
  for (const locks of [null, new Locks()]) {
    const here = tab({ options: { locks } });
    await signIn(here, ADA);
    // Another tab hangs with it.
    locks?.request("x", {}, () => new Promise(() => {}));
    here.client.logout();
    await settle();
    const coming = here.client.login({ username: "ada", password: "x" });
    here.client.close();
    assert.equal(await soFar(coming), "GapuraSignedOut");
    assert.equal(here.server.open(TOKEN).length, 0);
    if (locks) assert.deepEqual(locks.queue, []);
  }
});

test("a sign-in comes after every logout before it", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.client.logout();
  here.client.logout();
  const coming = here.client.login({ username: "bob", password: "x" });
  for (let count = 0; count < 2; count += 1) {
    const logout = await here.server.next(LOGOUT);
    await settle();
    assert.deepEqual([here.server.open(LOGOUT).length, here.server.open(TOKEN).length], [0, 0]);
    assert.equal(logout.init.keepalive, true, "it outlives the page");
    logout.answer(answer(null));
  }
  (await here.server.next(TOKEN)).answer(answer(pair(BOB)));
  assert.equal((await coming).username, "bob");
});

test("a sign-in that was given up is logged out of once", async () => {
  const here = tab();
  here.client.login({ username: "ada", password: "x" });
  here.client.logout();
  here.client.login({ username: "ada", password: "x" });
  here.server.rule = ({ path }) => (path === LOGOUT ? answer(null) : answer(pair(ADA)));
  await settle();
  assert.equal(here.client.user.username, "ada");
  assert.equal(here.server.count(LOGOUT), 1);
});
