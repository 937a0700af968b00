/** The socket speaks for who is signed in now, and for nobody afterwards. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ADA, BOB, LOGOUT, REFRESH, answer, page, pair, problem, settle, signIn, tab } from "./platform.mjs";

const hello = (token) => ({ type: "authenticate", token });

/** A client with a socket that the server has let in. */
async function connected(t, more) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab(more);
  const token = await signIn(here, ADA);
  here.client.connect();
  here.client.connect();
  await settle();
  const [socket] = here.opened;
  socket.accept();
  socket.say({ type: "authenticated", user_id: "1", expires_at: "2026-01-01T00:00:00Z" });
  return { ...here, socket, token };
}

test("it says who it is first, and delivers what it is told", async (t) => {
  const { socket, token, told, opened } = await connected(t);
  assert.equal(opened.length, 1);
  assert.equal(socket.url, "wss://gapura.test/api/v1/ws");
  assert.deepEqual(socket.sent, [hello(token)]);
  socket.say({ type: "sessions.changed" });
  assert.deepEqual(told.slice(-2), [["event", "authenticated"], ["event", "sessions.changed"]]);
});

test("it may be somewhere else", async (t) => {
  const { socket } = await connected(t, { options: { socketUrl: "wss://sockets.test/ws" } });
  assert.equal(socket.url, "wss://sockets.test/ws");
});

test("nothing is delivered before the server has said whose it is, nor as somebody else's", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab();
  await signIn(here, ADA);
  here.client.connect();
  await settle();
  const [socket] = here.opened;
  socket.accept();
  const { onmessage } = socket;
  socket.say({ type: "sessions.changed" });
  socket.say({ type: "authenticated", user_id: "2" });
  onmessage({ data: JSON.stringify({ type: "sessions.changed" }) });
  assert.deepEqual(here.told.filter(([name]) => name === "event"), []);
  assert.deepEqual(here.live(), []);
  // It would be the same again.
  socket.drop(1000);
  t.mock.timers.tick(600_000);
  await settle();
  assert.equal(here.opened.length, 1);
});

test("it closes at logout, delivers nothing after it and does not come back", async (t) => {
  const { client, socket, opened, told, live, server } = await connected(t);
  const { onmessage, onclose } = socket;
  client.logout();
  assert.deepEqual(live(), []);
  onmessage({ data: JSON.stringify({ type: "sessions.changed" }) });
  onclose({ code: 1006 });
  (await server.next(LOGOUT)).answer(answer(null));
  t.mock.timers.tick(3_600_000);
  await settle();
  assert.equal(opened.length, 1);
  assert.deepEqual(told.at(-1), ["signed-out", "ada", "logged_out"]);
});

test("it reconnects with the token of now, with growing pauses, and as nobody else", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const { client, socket, opened, server, clock } = await connected(t);
  socket.drop(1006);
  clock.at += 1_790_000;
  t.mock.timers.tick(500);
  const next = pair(ADA);
  (await server.next(REFRESH)).answer(answer(next));
  await settle();
  opened[1].accept();
  assert.deepEqual(opened[1].sent, [hello(next.access_token)]);
  opened[1].drop(1006);
  t.mock.timers.tick(999);
  await settle();
  assert.equal(opened.length, 2);
  t.mock.timers.tick(1);
  await settle();
  assert.equal(opened.length, 3);
  opened[2].drop(1006);
  client.logout();
  (await server.next(LOGOUT)).answer(answer(null));
  const his = await signIn({ client, server }, BOB);
  t.mock.timers.tick(60_000);
  await settle();
  assert.equal(opened.length, 3, "his page has not asked for one");
  client.connect();
  await settle();
  opened[3].accept();
  assert.deepEqual(opened[3].sent, [hello(his)]);
});

test("a token that was renewed is shown on the open socket", async (t) => {
  const { socket, server, clock, token } = await connected(t);
  clock.at += 1_500_000;
  t.mock.timers.tick(1_500_000);
  const next = pair(ADA);
  (await server.next(REFRESH)).answer(answer(next));
  await settle();
  assert.deepEqual(socket.sent, [hello(token), hello(next.access_token)]);
  socket.say({ type: "token.expiring" });
  const third = pair(ADA);
  (await server.next(REFRESH)).answer(answer(third));
  await settle();
  assert.deepEqual(socket.sent.at(-1), hello(third.access_token));
});

test("what may have been missed is told once for each socket, and not at each renewal", async (t) => {
  const { socket, opened, told, server } = await connected(t);
  const let_in = { type: "authenticated", user_id: "1", expires_at: "2026-01-01T00:30:00Z" };
  const count = () => told.filter(([, what]) => what === "authenticated").length;
  assert.equal(count(), 1);
  socket.say(let_in);
  assert.equal(count(), 1);
  socket.say({ type: "sessions.changed" });
  assert.deepEqual(told.at(-1), ["event", "sessions.changed"]);
  socket.drop(1006);
  t.mock.timers.tick(1000);
  await settle();
  opened[1].accept();
  opened[1].say(let_in);
  opened[1].say(let_in);
  assert.equal(count(), 2);
  assert.equal(server.count(REFRESH), 0);
});

test("refused as expired it gets another token; refused for good it signs out", async (t) => {
  const { socket, server, opened, told } = await connected(t);
  socket.drop(4401);
  const next = pair(ADA);
  (await server.next(REFRESH)).answer(answer(next));
  await settle();
  t.mock.timers.tick(1000);
  await settle();
  // It may have been the session that this browser has beside.
  assert.equal(opened[1].url, "wss://gapura.test/api/v1/ws?by=token");
  opened[1].accept();
  assert.deepEqual(opened[1].sent, [hello(next.access_token)]);
  opened[1].drop(4401);
  (await server.next(REFRESH)).answer(problem(401, "refresh_reused"));
  await settle();
  t.mock.timers.tick(600_000);
  await settle();
  assert.equal(opened.length, 2);
  assert.deepEqual(told.at(-1), ["signed-out", "ada", "refresh_reused"]);
});

test("a login that was ended elsewhere is left with the reason, and its refresh token is not shown", async (t) => {
  for (const end of [
    (socket) => socket.say({ type: "session.revoked", reason: "revoked" }),
    (socket) => socket.drop(4401, "token_revoked"),
  ]) {
    const { socket, server, opened, told } = await connected(t);
    end(socket);
    socket.drop(4401, "token_revoked");
    await settle();
    t.mock.timers.tick(600_000);
    await settle();
    assert.deepEqual([opened.length, server.requests.length], [1, 1]);
    const [name, who, reason] = told.at(-1);
    assert.deepEqual([name, who], ["signed-out", "ada"]);
    assert.match(reason, /^(token_)?revoked$/);
    assert.equal(told.filter(([name]) => name === "signed-out").length, 1);
    t.mock.timers.reset();
  }
});

test("refused as another's it is not tried again", async (t) => {
  const { socket, opened } = await connected(t);
  socket.drop(4403);
  await settle();
  t.mock.timers.tick(600_000);
  await settle();
  assert.equal(opened.length, 1);
});

test("a page of ours is let in by its cookie", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab({ options: { credential: "session" } });
  here.client.connect();
  await settle();
  here.opened[0].accept();
  here.opened[0].say({ type: "sessions.changed" });
  here.opened[0].say({ type: "authenticated", user_id: "1" });
  here.opened[0].say({ type: "session.expiring" });
  assert.equal(here.opened[0].url, "wss://gapura.test/api/v1/ws");
  assert.deepEqual(here.opened[0].sent, []);
  assert.deepEqual(here.told, [["event", "authenticated"], ["event", "session.expiring"]]);
  here.opened[0].drop(4401);
  (await here.server.next("/api/v1/me")).answer(problem(419, "session_expired", { reason: "revoked" }));
  await settle();
  assert.deepEqual(here.told.at(-1), ["signed-out", null, "revoked"]);
  t.mock.timers.tick(600_000);
  await settle();
  assert.equal(here.opened.length, 1);
});

test("a page of ours whose cookie is gone asks who is there, and is over", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const here = tab({ options: { credential: "session" } });
  here.client.connect();
  await settle();
  here.opened[0].accept();
  here.opened[0].drop(4408);
  (await here.server.next("/api/v1/me")).answer(problem(401, "token_missing"));
  await settle();
  assert.deepEqual(here.told, [["signed-out", null, "token_missing"]]);
  t.mock.timers.tick(600_000);
  await settle();
  assert.equal(here.opened.length, 1);
});

test("a token that came too late to be read in time is not renewed for that", async (t) => {
  const { socket, server, opened } = await connected(t);
  socket.drop(4408);
  t.mock.timers.tick(1000);
  await settle();
  assert.equal(opened.length, 2);
  assert.equal(server.count(REFRESH), 0);
});

test("a page of ours is over when its socket turns out to be somebody else's", async (t) => {
  page(t, { userId: "1" });
  const here = tab({ options: { credential: "session" } });
  here.client.connect();
  await settle();
  const [socket] = here.opened;
  socket.accept();
  socket.say({ type: "authenticated", user_id: "1" });
  socket.say({ type: "sessions.changed" });
  const { onmessage } = socket;
  socket.say({ type: "authenticated", user_id: "2" });
  onmessage({ data: JSON.stringify({ type: "sessions.changed" }) });
  assert.deepEqual(here.told, [["event", "authenticated"], ["event", "sessions.changed"], ["signed-out", null, "other_user"]]);
  assert.deepEqual(here.live(), []);
});

test("each socket has to say whose it is, and once it has, pauses begin anew", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const { socket, opened, told } = await connected(t);
  const next = async (pause) => {
    t.mock.timers.tick(pause - 1);
    await settle();
    const before = opened.length;
    t.mock.timers.tick(1);
    await settle();
    assert.equal(opened.length, before + 1, `after ${pause}`);
    opened.at(-1).accept();
  };
  socket.drop(1006);
  await next(500);
  opened.at(-1).say({ type: "sessions.changed" });
  assert.deepEqual(told.at(-1), ["event", "authenticated"]);
  opened.at(-1).drop(1006);
  await next(1000);
  opened.at(-1).say({ type: "authenticated", user_id: "1" });
  opened.at(-1).drop(1006);
  await next(500);
});

test("a socket that was asked for in the moment of the logout is not opened", async () => {
  const here = tab();
  await signIn(here, ADA);
  here.client.connect();
  here.client.logout();
  await settle();
  assert.equal(here.opened.length, 0);
});
