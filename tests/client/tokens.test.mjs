/** Access tokens are renewed on time, once, and an outage signs nobody out. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ADA, LOGOUT, REFRESH, TOKEN, answer, page, pair, problem, settle, signIn, soFar, tab } from "./platform.mjs";

const PATH = "/api/v1/me";

test("a login hands over what was given and who it is", async () => {
  const here = tab();
  const coming = here.client.login({ username: "ada", password: "a password", deviceName: "a laptop" });
  const request = await here.server.next(TOKEN);
  assert.deepEqual(request.body, { username: "ada", password: "a password", device_name: "a laptop", refresh_token_delivery: "cookie" });
  request.answer(answer(pair(ADA)));
  assert.deepEqual(await coming, ADA);
  assert.deepEqual(here.client.user, ADA);
  assert.ok(Object.isFrozen(here.client.user), "no caller makes it somebody else");
  assert.deepEqual(here.told, [["signed-in", "ada"]]);
});

test("a refused login says why and changes nothing", async () => {
  const here = tab();
  const coming = here.client.register({ username: "a", email: "", name: "", password: "x" });
  (await here.server.next("/api/v1/auth/register")).answer(problem(422, "validation_failed", { errors: { username: ["Too short."] } }));
  await assert.rejects(coming, { name: "GapuraError", status: 422, code: "validation_failed", errors: { username: ["Too short."] } });
  const other = here.client.login({ username: "ada", password: "x" });
  (await here.server.next(TOKEN)).fail();
  await assert.rejects(other, { name: "GapuraError", status: 0, code: "network" });
  assert.equal(here.client.user, null);
});

test("fifty calls at expiry are one refresh", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_800_000;
  const calls = Array.from({ length: 50 }, () => here.client.fetch(PATH));
  const refresh = await here.server.next(REFRESH);
  assert.equal(refresh.method, "POST");
  assert.equal(refresh.init.credentials, "same-origin");
  const next = pair(ADA);
  refresh.answer(answer(next));
  await settle();
  assert.equal(here.server.count(REFRESH), 1);
  const open = here.server.open(PATH);
  assert.equal(open.length, 50);
  for (const request of open) {
    assert.equal(request.token, next.access_token);
    request.answer(answer(1));
  }
  await Promise.all(calls);
});

test("fifty refusals of one token are one refresh, and each call is repeated once", async () => {
  const here = tab();
  await signIn(here, ADA);
  const calls = Array.from({ length: 50 }, () => here.client.fetch(PATH, { method: "POST", body: "x" }));
  await settle();
  const [late, ...others] = here.server.open(PATH);
  for (const request of [late, ...others]) request.done = true;
  for (const request of others) request.answer(problem(401, "token_expired"));
  (await here.server.next(REFRESH)).answer(answer(pair(ADA)));
  await settle();
  // Refused only now, with the old token: there is a new one already.
  late.answer(problem(401, "token_expired"));
  await settle();
  const again = here.server.open(PATH);
  assert.equal(again.length, 50);
  for (const request of again) request.answer(problem(401, "token_expired"));
  const answers = await Promise.all(calls);
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [401]);
  assert.deepEqual([here.server.count(REFRESH), here.server.count(PATH)], [1, 100]);
  assert.equal((await answers[0].json()).code, "token_expired");
});

test("a login that was ended elsewhere is left without showing its refresh token", async () => {
  const here = tab();
  await signIn(here, ADA);
  const calls = [here.client.fetch(PATH), here.client.get(PATH)];
  const [first, second] = [await here.server.next(PATH), await here.server.next(PATH)];
  first.answer(problem(401, "token_revoked"));
  second.answer(problem(401, "token_revoked"));
  assert.deepEqual(await Promise.all(calls.map(soFar)), ["GapuraSignedOut", "GapuraSignedOut"]);
  assert.deepEqual(here.told, [["signed-in", "ada"], ["signed-out", "ada", "token_revoked"]]);
  assert.equal(here.server.requests.length, 3);
});

test("a call that was refused with a token that has been replaced since is repeated with the new one", async () => {
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.fetch(PATH);
  const late = await here.server.next(PATH);
  here.client.fetch(PATH);
  (await here.server.next(PATH)).answer(problem(401, "token_expired"));
  (await here.server.next(REFRESH)).answer(answer(pair(ADA)));
  await here.server.next(PATH);
  late.answer(problem(401, "token_revoked"));
  (await here.server.next(PATH)).answer(answer(1));
  assert.equal((await call).status, 200);
});

test("a device two hours off refreshes when it is time, by no clock of its own", async (t) => {
  for (const off of [-7_200_000, 7_200_000]) {
    const at = Date.now();
    const wall = t.mock.method(Date, "now", () => at + off);
    const here = tab();
    await signIn(here, ADA);
    const ask = async (expected) => {
      const call = here.client.fetch(PATH);
      await settle();
      assert.equal(here.server.count(REFRESH), expected);
      for (const refresh of here.server.open(REFRESH)) {
        refresh.done = true;
        refresh.answer(answer(pair(ADA)));
      }
      (await here.server.next(PATH)).answer(answer(1));
      await call;
    };
    await ask(0);
    here.clock.at += 1_499_000;
    await ask(0);
    here.clock.at += 2_000;
    await ask(1);
    await ask(1);
    here.clock.at += 1_501_000;
    await ask(2);
    wall.mock.restore();
  }
});

test("a token that is said to be over at once starts no storm", async () => {
  const here = tab();
  await signIn(here, ADA, { expiresIn: 0 });
  here.server.rule = ({ path }) => answer(path === REFRESH ? pair(ADA, { expiresIn: 0 }) : 1);
  for (let turn = 0; turn < 50; turn += 1) await here.client.fetch(PATH);
  assert.equal(here.server.count(REFRESH), 0);
  here.clock.at += 1000;
  for (let turn = 0; turn < 50; turn += 1) await here.client.fetch(PATH);
  assert.equal(here.server.count(REFRESH), 1);
});

test("a refused refresh signs out once, and says why", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_800_000;
  const calls = Array.from({ length: 9 }, () => here.client.fetch(PATH));
  (await here.server.next(REFRESH)).answer(problem(401, "refresh_reused"));
  for (const call of calls) await assert.rejects(call, { name: "GapuraSignedOut", reason: "refresh_reused" });
  assert.deepEqual(here.told, [["signed-in", "ada"], ["signed-out", "ada", "refresh_reused"]]);
  assert.equal(here.client.user, null);
  assert.deepEqual([here.server.count(REFRESH), here.server.count(PATH)], [1, 0]);
});

test("an outage signs nobody out: the refresh is tried again with growing pauses", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(Math, "random", () => 0.5);
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_800_000;
  const call = here.client.fetch(PATH);
  (await here.server.next(REFRESH)).fail();
  await settle();
  t.mock.timers.tick(499);
  await settle();
  assert.equal(here.server.count(REFRESH), 1);
  t.mock.timers.tick(1);
  (await here.server.next(REFRESH)).answer(problem(503, "unavailable", {}, { "Retry-After": "2" }));
  await settle();
  t.mock.timers.tick(2000);
  await settle();
  assert.equal(here.server.count(REFRESH), 2);
  t.mock.timers.tick(500);
  (await here.server.next(REFRESH)).answer(problem(503, "unavailable"));
  await settle();
  t.mock.timers.tick(2000);
  (await here.server.next(REFRESH)).answer(answer(pair(ADA)));
  (await here.server.next(PATH)).answer(answer(1));
  assert.equal((await call).status, 200);
  assert.deepEqual(here.told, [["signed-in", "ada"], ["refreshed", "ada"]]);
});

test("the pauses are not the same in every tab", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const waits = new Set();
  for (const random of [0, 0.5, 0.99]) {
    t.mock.method(Math, "random", () => random);
    const here = tab();
    await signIn(here, ADA);
    here.clock.at += 1_800_000;
    here.client.fetch(PATH).catch(() => {});
    (await here.server.next(REFRESH)).fail();
    await settle();
    let waited = 0;
    while (here.server.count(REFRESH) === 1) {
      t.mock.timers.tick(10);
      waited += 10;
      await settle();
    }
    waits.add(waited);
    here.client.close();
  }
  assert.equal(waits.size, 3);
});

test("an outage that lasts is told as what it is, and the next call tries again", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_800_000;
  const call = here.client.fetch(PATH);
  call.catch(() => {});
  for (let turn = 0; turn < 5; turn += 1) {
    (await here.server.next(REFRESH)).fail();
    await settle();
    t.mock.timers.tick(20_000);
  }
  await assert.rejects(call, { name: "GapuraError", code: "network", status: 0 });
  assert.equal(here.client.user.username, "ada");
  here.clock.at += 60_000;
  const later = here.client.fetch(PATH);
  (await here.server.next(REFRESH)).answer(answer(pair(ADA)));
  (await here.server.next(PATH)).answer(answer(1));
  assert.equal((await later).status, 200);
});

test("a server that never answers a refresh is an outage too", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_790_000;
  const call = here.client.fetch(PATH);
  const hanging = await here.server.next(REFRESH);
  t.mock.timers.tick(10_000);
  await settle();
  assert.equal(hanging.signal.aborted, true);
  // The token in hand is good for ten seconds more.
  (await here.server.next(PATH)).answer(answer(1));
  assert.equal((await call).status, 200);
});

test("while the token is good an outage of the refresh holds no call up, and is not asked at each", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_600_000;
  const call = here.client.fetch(PATH);
  (await here.server.next(REFRESH)).answer(problem(503, "unavailable"));
  (await here.server.next(PATH)).answer(answer(1));
  await call;
  here.server.rule = ({ path }) => (path === PATH ? answer(1) : undefined);
  for (let turn = 0; turn < 20; turn += 1) await here.client.fetch(PATH);
  assert.equal(here.server.count(REFRESH), 1);
});

test("a pair in the headers of an answer is taken over", async () => {
  const here = tab();
  await signIn(here, ADA);
  const claims = Buffer.from(JSON.stringify({ iat: 5000, exp: 5600 })).toString("base64url");
  const token = `x.${claims}.x`;
  const call = here.client.fetch(PATH);
  (await here.server.next(PATH)).answer(answer(1, { headers: { "X-Token-Refreshed": "true", "X-New-Access-Token": token } }));
  await call;
  assert.deepEqual(here.told.at(-1), ["refreshed", "ada"]);
  here.clock.at += 490_000;
  here.server.rule = ({ path }) => (path === PATH ? answer(1) : undefined);
  await here.client.fetch(PATH);
  assert.equal(here.server.requests.at(-1).token, token);
  here.clock.at += 20_000;
  here.client.fetch(PATH).catch(() => {});
  await here.server.next(REFRESH);
});

test("a slow answer does not bring an older token back", async () => {
  const here = tab();
  await signIn(here, ADA);
  const slow = here.client.fetch(PATH);
  const request = await here.server.next(PATH);
  here.clock.at += 1_790_000;
  const call = here.client.fetch(PATH);
  const next = pair(ADA);
  (await here.server.next(REFRESH)).answer(answer(next));
  await here.server.next(PATH);
  request.answer(answer(1, { headers: { "X-Token-Refreshed": "true", "X-New-Access-Token": "older" } }));
  await slow;
  here.client.fetch(PATH).catch(() => {});
  assert.equal((await here.server.next(PATH)).token, next.access_token);
  call.catch(() => {});
});

test("listeners hear of an expiry ahead", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_500_000;
  t.mock.timers.tick(1_500_000);
  await settle();
  assert.deepEqual(here.told.at(-1), ["expiring", "ada"]);
  assert.equal(here.server.count(REFRESH), 0, "a forgotten tab renews nothing");
});

test("a caller may still abort for itself, and a stream is not sent twice", async () => {
  const here = tab();
  await signIn(here, ADA);
  const mine = new AbortController();
  here.client.fetch(PATH, { signal: mine.signal }).catch(() => {});
  const request = await here.server.next(PATH);
  mine.abort();
  assert.equal(request.signal.aborted, true);
  const call = here.client.fetch(PATH, { method: "POST", body: new ReadableStream() });
  (await here.server.next(PATH)).answer(problem(401, "token_expired"));
  assert.equal((await call).status, 401);
  assert.equal(here.server.count(REFRESH), 0);
});

test("a Request will do as well", async () => {
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.fetch(new Request("https://gapura.test/api/v1/me", { method: "PATCH", body: "text" }));
  const request = await here.server.next(PATH);
  assert.equal(request.method, "PATCH");
  assert.equal(Buffer.from(request.body).toString(), "text");
  assert.match(request.token, /^ada-/);
  request.answer(answer(1));
  assert.equal((await call).status, 200);
});

test("a Request keeps what it says of how it is sent", async () => {
  const here = tab();
  await signIn(here, ADA);
  const sent = async (more, init) => {
    here.client.fetch(new Request("https://gapura.test/api/v1/me", more), init);
    const { redirect, cache, keepalive, credentials } = (await here.server.next(PATH)).init;
    return [redirect, cache, keepalive, credentials];
  };
  const how = { redirect: "manual", cache: "no-store", keepalive: true, credentials: "omit" };
  assert.deepEqual(await sent(how), ["manual", "no-store", true, "omit"]);
  assert.deepEqual(await sent(how, { redirect: "error" }), ["error", "no-store", true, "omit"]);
  assert.deepEqual(await sent({}), ["follow", "default", false, "same-origin"]);
  const memory = tab({ options: { refreshToken: "memory" } });
  await signIn(memory, ADA, { refreshToken: "first" });
  memory.client.fetch(new Request("https://gapura.test/api/v1/me"));
  assert.equal((await memory.server.next(PATH)).init.credentials, "omit");
});

test("get shares one request, keeps its answer as long as asked, and forgets it when told", async () => {
  const here = tab();
  await signIn(here, ADA);
  const [one, two] = [here.client.get(PATH, { maxAge: 5000 }), here.client.get(PATH)];
  (await here.server.next(PATH)).answer(answer({ name: "Ada" }));
  (await one).name = "changed by its caller";
  assert.deepEqual(await two, { name: "Ada" });
  here.clock.at += 4999;
  assert.deepEqual(await here.client.get(PATH, { maxAge: 5000 }), { name: "Ada" });
  assert.equal(here.server.count(PATH), 1);
  here.clock.at += 1;
  const later = here.client.get(PATH, { maxAge: 5000 });
  const under_way = await here.server.next(PATH);
  here.client.invalidate("/api/v1/");
  under_way.answer(answer("old"));
  assert.equal(await later, "old");
  const fresh = here.client.get(PATH, { maxAge: 5000 });
  (await here.server.next(PATH)).answer(answer("new"));
  assert.equal(await fresh, "new");
  here.client.invalidate();
  const anew = here.client.get(PATH, { maxAge: 5000 });
  (await here.server.next(PATH)).answer(answer({ name: "Ada" }));
  await anew;
  (await here.client.get(PATH, { maxAge: 5000 })).name = "changed by its caller";
  assert.deepEqual(await here.client.get(PATH, { maxAge: 5000 }), { name: "Ada" });
  const apart = here.client.get("/api/v1/y", { maxAge: 5000 });
  const waiting = await here.server.next("/api/v1/y");
  here.client.invalidate("/api/v1/me");
  waiting.answer(answer("kept"));
  assert.deepEqual([await apart, await here.client.get("/api/v1/y", { maxAge: 5000 })], ["kept", "kept"]);
  const older = here.client.get("/api/v1/x");
  const first = await here.server.next("/api/v1/x");
  here.client.invalidate();
  const newer = here.client.get("/api/v1/x");
  const second = await here.server.next("/api/v1/x");
  first.answer(answer("older"));
  assert.equal(await older, "older");
  const shared = here.client.get("/api/v1/x");
  second.answer(answer("newer"));
  assert.deepEqual(await Promise.all([newer, shared]), ["newer", "newer"]);
  const more = here.client.get(PATH, { maxAge: 5000 });
  (await here.server.next(PATH)).answer(answer("new"));
  await more;
  here.client.invalidate("/api/v1/sessions");
  assert.equal(await here.client.get(PATH, { maxAge: 5000 }), "new");
});

test("get tells what is wrong", async () => {
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.get(PATH);
  (await here.server.next(PATH)).answer(problem(403, "forbidden"));
  await assert.rejects(call, { name: "GapuraError", status: 403, code: "forbidden", message: "forbidden." });
});

test("with the token in memory it is sent in the body, and no cookie with it", async () => {
  const here = tab({ options: { refreshToken: "memory" } });
  await signIn(here, ADA, { refreshToken: "first" });
  assert.equal(here.server.requests[0].body.refresh_token_delivery, "body");
  assert.equal(here.server.requests[0].init.credentials, "omit");
  for (const [held, next] of [["first", "second"], ["second", "third"]]) {
    here.clock.at += 1_790_000;
    here.client.fetch(PATH).catch(() => {});
    const refresh = await here.server.next(REFRESH);
    assert.deepEqual(refresh.body, { refresh_token: held });
    refresh.answer(answer(pair(ADA, { refreshToken: next })));
    await here.server.next(PATH);
  }
  here.client.logout();
  const logout = await here.server.next(LOGOUT);
  assert.equal(logout.headers.get("X-Refresh-Token"), "third");
  assert.equal(here.storage.length, 0);
});

test("a session is known by its cookie, and changes carry the form token", async (t) => {
  page(t, { token: "form token" });
  const here = tab({ options: { credential: "session" } });
  const coming = here.client.resume();
  (await here.server.next(PATH)).answer(answer({ ...ADA, locale: "en" }));
  assert.deepEqual(await coming, ADA);
  here.client.fetch(PATH, { method: "PATCH", body: "{}" }).catch(() => {});
  const patch = await here.server.next(PATH);
  assert.equal(patch.headers.get("X-CSRF-Token"), "form token");
  assert.equal(patch.headers.get("Authorization"), null);
  assert.equal(patch.init.credentials, "same-origin");
  const call = here.client.fetch(PATH);
  const get = await here.server.next(PATH);
  assert.equal(get.headers.get("X-CSRF-Token"), null);
  get.answer(problem(419, "session_expired", { reason: "idle" }));
  assert.equal(await soFar(call), "GapuraSignedOut");
  assert.deepEqual(here.told, [["signed-in", "ada"], ["signed-out", "ada", "idle"]]);
  await assert.rejects(here.client.fetch(PATH), { name: "GapuraSignedOut" });
  await assert.rejects(here.client.login({ username: "ada", password: "x" }), TypeError);
  here.client.close();
});

test("a session is logged out of by the page's own form", async (t) => {
  page(t, { token: "form token" });
  const locks = { request: () => new Promise(() => {}) };
  const here = tab({ options: { credential: "session", locks } });
  const leaving = here.client.logout();
  // The page may be gone in a moment.
  await null;
  await null;
  assert.equal(here.server.count("/logout"), 1);
  const request = await here.server.next("/logout");
  assert.equal(request.headers.get("X-CSRF-Token"), "form token");
  request.answer(answer(null));
  assert.equal(await leaving, true);
  here.client.close();
});

test("a script shows its personal token, and beside an access token keeps it as what to fall back on", async () => {
  const here = tab({ options: { credential: { personalToken: "1|gpr_x" } } });
  const coming = here.client.resume();
  const request = await here.server.next(PATH);
  assert.equal(request.token, "1|gpr_x");
  request.answer(answer(ADA));
  assert.equal((await coming).username, "ada");
  const refused = here.client.fetch(PATH);
  (await here.server.next(PATH)).answer(problem(401, "token_expired"));
  assert.equal((await refused).status, 401);
  assert.equal(here.server.count(REFRESH), 0);
  const other = tab({ options: { credential: { personalToken: "1|gpr_x" } } });
  const token = await signIn(other, ADA);
  other.client.fetch(PATH).catch(() => {});
  const both = await other.server.next(PATH);
  assert.deepEqual([both.token, both.headers.get("X-Personal-Token")], [token, "1|gpr_x"]);
  other.client.logout();
  assert.deepEqual(other.told, [["signed-in", "ada"], ["signed-out", "ada", "logged_out"]]);
  await assert.rejects(other.client.fetch(PATH), { name: "GapuraSignedOut" }, "nor as the script");
  const nobody = tab({ options: { credential: { personalToken: "1|gpr_x" } } });
  assert.equal(await nobody.client.logout(), true);
  assert.deepEqual([nobody.told, nobody.server.requests], [[], []]);
});

test("a token that lives for a minute is renewed ten seconds ahead", async () => {
  const here = tab();
  await signIn(here, ADA, { expiresIn: 60 });
  here.server.rule = ({ path }) => (path === PATH ? answer(1) : undefined);
  here.clock.at += 49_000;
  await here.client.fetch(PATH);
  assert.equal(here.server.count(REFRESH), 0);
  here.clock.at += 2_000;
  here.client.fetch(PATH);
  await here.server.next(REFRESH);
});

test("a token in the headers that nobody can read is taken to live as long as the one before", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.server.rule = ({ token, path }) =>
    path === PATH ? answer(1, token === "opaque" ? {} : { headers: { "X-New-Access-Token": "opaque" } }) : undefined;
  await here.client.fetch(PATH);
  here.clock.at += 1_499_000;
  await here.client.fetch(PATH);
  assert.deepEqual([here.server.requests.at(-1).token, here.server.count(REFRESH)], ["opaque", 0]);
  here.clock.at += 2_000;
  here.client.fetch(PATH);
  await here.server.next(REFRESH);
});

test("too many requests is no answer yet", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  for (const status of [429, 408, 500]) {
    const call = here.client.get(PATH);
    (await here.server.next(PATH)).answer(problem(status, "whatever"));
    await settle();
    t.mock.timers.tick(1000);
    (await here.server.next(PATH)).answer(answer(status));
    assert.equal(await call, status);
  }
});

test("who the user is is learnt again at each refresh", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.clock.at += 1_790_000;
  here.client.fetch(PATH);
  (await here.server.next(REFRESH)).answer(answer(pair({ ...ADA, role: "admin" })));
  await here.server.next(PATH);
  assert.equal(here.client.user.role, "admin");
});

test("a token that lives for months sets no timer that rings at once", async (t) => {
  const waits = [];
  t.mock.method(globalThis, "setTimeout", (work, wait) => void waits.push([work, wait]));
  const here = tab();
  await signIn(here, ADA, { expiresIn: 90 * 86_400 });
  const [[ring, wait]] = waits.slice(-1);
  assert.ok(wait < 2 ** 31, `${wait}`);
  here.clock.at += wait;
  ring();
  assert.deepEqual(here.told, [["signed-in", "ada"]], "it is not about to expire");
  assert.equal(waits.at(-1)[1], 2 ** 31 - 1);
});

test("a pause is half a minute at most, and a minute where the server asks for a day", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(Math, "random", () => 0.5);
  const here = tab();
  const { opened } = here;
  await signIn(here, ADA);
  here.client.connect();
  await settle();
  for (let count = 1; count <= 12; count += 1) {
    opened.at(-1).drop(1006);
    t.mock.timers.tick(30_000);
    await settle();
    assert.equal(opened.length, count + 1);
  }
  const call = here.client.get(PATH);
  (await here.server.next(PATH)).answer(problem(503, "unavailable", {}, { "Retry-After": "86400" }));
  await settle();
  t.mock.timers.tick(59_999);
  await settle();
  assert.equal(here.server.open(PATH).length, 0);
  t.mock.timers.tick(10_000);
  (await here.server.next(PATH)).answer(answer(1));
  assert.equal(await call, 1);
});

test("an error that is no JSON is an error all the same", async () => {
  const here = tab();
  await signIn(here, ADA);
  const call = here.client.get(PATH);
  (await here.server.next(PATH)).answer(new Response("<h1>No such page</h1>", { status: 404 }));
  await assert.rejects(call, { name: "GapuraError", status: 404, code: "unknown", message: "HTTP 404" });
});

test("a browser that denies its storage denies nobody a login", async () => {
  const denied = new Proxy({}, { get: () => { throw new DOMException("denied", "SecurityError"); } });
  for (const refreshToken of ["cookie", "localStorage"]) {
    const here = tab({ storage: denied, options: { refreshToken, legacyKeys: ["token"] } });
    await signIn(here, ADA, { refreshToken: "first" });
    const leaving = here.client.logout();
    (await here.server.next(LOGOUT)).answer(answer(null));
    assert.equal(await leaving, true);
    assert.equal(here.client.user, null);
  }
});

test("what is refused for another reason is the caller's to know", async (t) => {
  page(t);
  for (const [options, status, code] of [
    [{}, 401, "invalid_credentials"],
    [{ credential: "session" }, 401, "invalid_credentials"],
    // Said of a session that lives, too, where only a bearer will do.
    [{ credential: "session" }, 401, "token_missing"],
    [{ credential: "session" }, 419, "something_new"],
  ]) {
    const here = tab({ options });
    if (!options.credential) await signIn(here, ADA);
    const call = here.client.fetch(PATH);
    (await here.server.next(PATH)).answer(problem(status, code));
    assert.equal((await call).status, status);
    assert.equal((await (await call).json()).code, code);
    assert.deepEqual([here.server.count(REFRESH), here.told.filter(([name]) => name === "signed-out")], [0, []]);
  }
  const script = tab({ options: { credential: { personalToken: "1|gpr_x" } } });
  const coming = script.client.resume();
  (await script.server.next(PATH)).answer(problem(401, "token_revoked"));
  await assert.rejects(coming, { name: "GapuraError", code: "token_revoked" });
});

test("get gives up after five tries", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  here.server.rule = () => problem(503, "unavailable");
  const call = here.client.get(PATH);
  for (let turn = 0; turn < 9; turn += 1) {
    await settle();
    t.mock.timers.tick(60_000);
  }
  await assert.rejects(call, { name: "GapuraError", status: 503 });
  assert.equal(here.server.count(PATH), 5);
});
