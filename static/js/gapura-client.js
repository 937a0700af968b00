// @ts-check
/**
 * Signs a page or a script in at Gapura, and keeps one account's data from ever reaching the next.
 *
 * Everything belongs to a generation: one sign-in of one user, as this client has seen it. When it
 * ends, its requests are aborted, its timers stopped, its answers dropped and its callers told with
 * a {@link GapuraSignedOut}; nothing of it is kept anywhere else, so nothing of it can come back.
 *
 * Times are told by a clock that does not jump (`performance.now`), never by the device's own.
 */

/** @typedef {{id: string, username: string, email: string, name: string, role: string}} User */
/** @typedef {"signed-in" | "signed-out" | "refreshed" | "expiring" | "event"} EventName */
/**
 * What listeners are told.
 * @typedef {object} Events
 * @property {{user: User}} signed-in
 * @property {{user: User | null, reason: string}} signed-out `reason`: "logged_out", "other_user",
 *   why the server has ended it, or the code with which it refused to go on
 * @property {{user: User}} refreshed
 * @property {{user: User, in: number}} expiring the access token, in so many milliseconds
 * @property {{type: string, [more: string]: unknown}} event what the server says over the WebSocket; a second
 *   "authenticated" means that something may have been missed
 */
/**
 * @typedef {object} Channel what is used of a BroadcastChannel
 * @property {(message: any) => void} postMessage
 * @property {(type: "message", listener: (event: any) => void) => void} addEventListener
 * @property {(type: "message", listener: (event: any) => void) => void} removeEventListener
 */
/**
 * @typedef {object} Locks what is used of a LockManager
 * @property {(name: string, options: {signal?: AbortSignal, steal?: boolean}, work: () => Promise<unknown>) => Promise<unknown>} request
 */
/**
 * @typedef {object} Options
 * @property {string} [baseUrl] where Gapura is; by default where the page is
 * @property {string} [socketUrl] where its WebSocket is, if elsewhere
 * @property {"token" | "session" | {personalToken: string}} [credential] access tokens (the default),
 *   the session cookie of our own pages, or a script's personal token; a client that holds one and
 *   signs in all the same sends it beside the access token, as what to fall back on
 * @property {string[]} [legacyKeys] storage keys of an older client, removed at login and logout
 * @property {"cookie" | "memory" | "localStorage"} [refreshToken] where the refresh token is kept
 * @property {typeof globalThis.fetch} [fetch]
 * @property {typeof globalThis.WebSocket} [WebSocket]
 * @property {Locks | null} [locks]
 * @property {Channel | null} [channel] to the other tabs
 * @property {Storage | null} [storage]
 * @property {() => number} [now] milliseconds of a clock that does not jump
 */
/** @typedef {{token: string, left: number, lifetime: number, refreshToken?: string}} Pair in milliseconds */
/**
 * What tabs tell each other.
 * @typedef {{kind: string} & (
 *     {type: "ask", userId: string | null, token: string, left: number}
 *   | ({type: "signed-in" | "refreshed" | "here", user: User} & Pair)
 *   | {type: "signed-out", userId: string, login: string | undefined, reason: string})} Message
 */

/** How long to wait for the lock before taking it over from a tab that is gone. */
const LOCK_PATIENCE = 10_000;
/** How long a request of this module's own may take. */
const REQUEST_PATIENCE = 10_000;
/** How long other tabs have to say what they know. */
const PEER_PATIENCE = 50;
/** How long our other pages are not told of a logout that is under way. */
const PARTING_PATIENCE = 500;
/** How often what failed for no reason of its own is tried in one go. */
const TRIES = 5;
/** The longest an access token is renewed ahead of its expiry. */
const LEAD = 300_000;

/** An answer that is an error, or none at all (`status` 0, `code` "network"). */
export class GapuraError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   * @param {{errors?: Record<string, string[]>, reason?: string, retryAfter?: number, cause?: unknown}} [more]
   */
  constructor(status, code, message, more = {}) {
    super(message, { cause: more.cause });
    this.name = "GapuraError";
    this.status = status;
    this.code = code;
    /** What is wrong with which field. */
    this.errors = more.errors ?? {};
    /** Why a session is over. */
    this.reason = more.reason;
    /** Milliseconds after which it makes sense to come back. */
    this.retryAfter = more.retryAfter;
  }

  /** Whether it says nothing about the account: the same may succeed later. */
  get isTransient() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** The user of this call has left before it was done, or nobody is signed in. */
export class GapuraSignedOut extends Error {
  /** @param {string} reason */
  constructor(reason) {
    super(`Signed out (${reason}).`);
    this.name = "GapuraSignedOut";
    this.code = "signed_out";
    this.reason = reason;
  }
}

/** One sign-in, and all that belongs to it. */
class Generation {
  /** @type {User | null} */
  user = null;
  token = "";
  expiresAt = Infinity;
  refreshAt = Infinity;
  lifetime = 0;
  /** @type {string | undefined} */
  refreshToken;
  /** @type {Promise<void> | undefined} */
  refreshing;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  expiry;
  /** @type {{renew: () => void, close: () => void} | undefined} */
  socket;
  /** Answers of `get`. @type {Map<string, {data: unknown, at: number, until: number}>} */
  kept = new Map();
  /** Calls of `get` under way. @type {Map<string, {answer: Promise<unknown>, stale: boolean}>} */
  shared = new Map();
  /** @type {GapuraSignedOut | undefined} */
  over;
  #abort = new AbortController();
  /** @type {Set<ReturnType<typeof setTimeout>>} */
  #timers = new Set();
  /** @type {Set<(reason: GapuraSignedOut) => void>} */
  #atEnd = new Set();

  get signal() {
    return this.#abort.signal;
  }

  check() {
    if (this.over) throw this.over;
  }

  /** @param {(reason: GapuraSignedOut) => void} work @returns {() => void} takes it back */
  atEnd(work) {
    this.#atEnd.add(work);
    return () => void this.#atEnd.delete(work);
  }

  /**
   * Settles as `work` does, unless this generation ends first.
   * @template T @param {Promise<T>} work @returns {Promise<T>}
   */
  within(work) {
    return new Promise((resolve, reject) => {
      // Settled already or not: what comes of it is for nobody any more.
      if (this.over) {
        work.catch(() => {});
        reject(this.over);
        return;
      }
      this.#atEnd.add(reject);
      work.then(
        (value) => void (this.#atEnd.delete(reject) && resolve(value)),
        (error) => void (this.#atEnd.delete(reject) && reject(error)),
      );
    });
  }

  /**
   * @param {number} wait @param {() => void} work
   * @param {boolean} [idle] nobody waits for it: a script may end before
   */
  later(wait, work, idle = false) {
    if (this.over) return undefined;
    /** @type {ReturnType<typeof setTimeout>} */
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, Math.min(Math.max(wait, 0), 2 ** 31 - 1));
    this.#timers.add(timer);
    if (idle && typeof timer === "object") /** @type {{unref?: () => void}} */ (timer).unref?.();
    return timer;
  }

  /** @param {ReturnType<typeof setTimeout> | undefined} timer */
  never(timer) {
    clearTimeout(timer);
    if (timer !== undefined) this.#timers.delete(timer);
  }

  /** @param {number} wait @returns {Promise<void>} */
  pause(wait) {
    return this.within(new Promise((resolve) => void this.later(wait, resolve)));
  }

  /** @param {GapuraSignedOut} reason */
  end(reason) {
    this.over = reason;
    for (const timer of this.#timers) clearTimeout(timer);
    this.socket?.close();
    this.kept.clear();
    this.token = "";
    this.refreshToken = undefined;
    for (const tell of this.#atEnd) tell(reason);
    this.#abort.abort(reason);
  }
}

/** @param {unknown} error */
const isTransient = (error) => error instanceof GapuraError && error.isTransient;

/** @param {number} failures so far @param {unknown} [error] the last of them */
function backOff(failures, error) {
  const step = Math.min(500 * 2 ** failures, 30_000) * (0.5 + Math.random());
  const asked = error instanceof GapuraError ? (error.retryAfter ?? 0) : 0;
  return Math.max(step, Math.min(asked, 60_000) * (1 + Math.random() / 4));
}

/** @param {Response} response @returns {Promise<GapuraError>} */
async function problemOf(response) {
  const told = await response.json().catch(() => undefined);
  const problem = typeof told === "object" && told !== null ? told : {};
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return new GapuraError(response.status, problem.code ?? "unknown", problem.message ?? `HTTP ${response.status}`, {
    errors: problem.errors,
    reason: problem.reason,
    retryAfter: seconds >= 0 ? seconds * 1000 : undefined,
  });
}

/** What a JWT says. @param {string} token @returns {{exp?: number, iat?: number, sid?: string}} */
function claimsOf(token) {
  const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
  return ifAllowed(() => JSON.parse(atob(payload))) ?? {};
}

/** How long a JWT lives in all: the difference of two of its times needs no clock. @param {string} token */
function lifetimeOf(token) {
  const { exp = NaN, iat = NaN } = claimsOf(token);
  return (exp - iat) * 1000;
}

/** @param {any} user @returns {User} */
const userOf = ({ id, username, email, name, role }) => Object.freeze({ id, username, email, name, role });

/** @param {any} data of an answer that hands tokens over @returns {Pair} */
const pairOf = (data) => ({
  token: data.access_token,
  left: data.expires_in * 1000,
  lifetime: data.expires_in * 1000,
  refreshToken: data.refresh_token,
});

/** @template T @param {() => T} look @returns {T | undefined} what a platform or its settings may deny */
function ifAllowed(look) {
  try {
    return look();
  } catch {
    return undefined;
  }
}

/** @param {Options} [options] */
export function createClient(options = {}) {
  const { baseUrl = "", credential = "token", refreshToken: keeping = "cookie", legacyKeys = [] } = options;
  const now = options.now ?? (() => performance.now());
  /** @type {typeof globalThis.fetch} */
  const send = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
  const bySession = credential === "session";
  const personalToken = typeof credential === "object" ? credential.personalToken : "";
  const byCookie = !bySession && keeping === "cookie";
  const credentials = bySession || byCookie ? "same-origin" : "omit";
  const base = new URL(baseUrl === "" ? "/" : `${baseUrl.replace(/\/$/, "")}/`, globalThis.location?.href);
  /** The same however an address is spelled. */
  const scope = `gapura:${baseUrl && base.href.replace(/\/$/, "")}`;
  /** Clients that keep other things do not concern each other. */
  const kind = bySession ? "session" : `token/${keeping}`;

  const locks =
    options.locks !== undefined ? options.locks : /** @type {Locks | undefined} */ (ifAllowed(() => globalThis.navigator?.locks));
  const ownChannel =
    options.channel === undefined && !personalToken ? ifAllowed(() => new BroadcastChannel(scope)) : undefined;
  /** @type {Channel | null | undefined} */
  const channel = options.channel === undefined ? ownChannel : options.channel;
  // A script that only listens should be able to end.
  /** @type {{unref?: () => void} | undefined} */ (ownChannel)?.unref?.();
  const storage = () => (options.storage !== undefined ? options.storage : ifAllowed(() => globalThis.localStorage));

  /** @type {Generation | null} */
  let current = resting();
  /** A sign-in under way. @type {Generation | null} */
  let pending = null;
  /** @type {Promise<User | null> | undefined} */
  let resuming;
  /** The server is being told of a logout. Never rejects. @type {Promise<boolean>} */
  let farewell = Promise.resolve(true);
  /** @type {Set<Generation>} */
  const partings = new Set();
  /** How often anybody has signed in here. */
  let signIns = 0;
  /** The login that was the last to end, here or in another tab: what is still told of it comes too late. @type {string | undefined} */
  let ended;
  let closed = false;
  /** @type {Map<EventName, Set<(detail: any) => void>>} */
  const listeners = new Map();

  /** What there is without a sign-in. */
  function resting() {
    return bySession || personalToken ? new Generation() : null;
  }

  /* Listeners */

  /**
   * @template {EventName} K @param {Generation} g whose it is @param {K} name @param {Events[K]} detail
   */
  function emit(g, name, detail) {
    for (const listener of [...(listeners.get(name) ?? [])]) {
      // One of them may have ended it.
      if (name !== "signed-out" && g !== current) return;
      try {
        listener(detail);
      } catch (error) {
        if (typeof reportError === "function") reportError(error);
        else console.error(error);
      }
    }
  }

  /* What outlives a page */

  /** @param {string} userId @param {string} what */
  const keyOf = (userId, what) => `${scope}:${userId}:${what}`;

  /** The ids of the users under whom that is stored. @param {string} what @returns {string[]} */
  function storedFor(what) {
    const store = storage();
    const [start, end] = [`${scope}:`, `:${what}`];
    const names = ifAllowed(() => Array.from({ length: store?.length ?? 0 }, (_, index) => store?.key(index) ?? ""));
    return (names ?? [])
      .filter((name) => name.startsWith(start) && name.endsWith(end) && name.length > start.length + end.length)
      .map((name) => name.slice(start.length, -end.length))
      // Of a Gapura at an address that begins like this one's.
      .filter((id) => !id.includes(":"));
  }

  function forgetLegacy() {
    if (legacyKeys.length === 0) return;
    for (const store of [storage(), ifAllowed(() => globalThis.sessionStorage)]) {
      for (const key of legacyKeys) ifAllowed(() => store?.removeItem(key));
    }
  }

  const REFRESH_TOKEN = "refresh-token";
  /** Left where somebody has logged out and the server does not know yet: their cookie is not used again. */
  const SIGNED_OUT = "signed-out";

  /* Other tabs */

  /** @param {any} message without its kind */
  function tell(message) {
    ifAllowed(() => channel?.postMessage({ kind, ...message }));
  }

  /** @param {Generation} g @param {"signed-in" | "refreshed" | "here"} type */
  function tellState(g, type) {
    const left = g.expiresAt - now();
    // A refresh token that is stored or in the cookie jar is theirs already.
    tell({ type, user: g.user, token: g.token, left, lifetime: g.lifetime, refreshToken: g.refreshToken });
  }

  /** Whose page this is, also before anybody has asked. @param {Generation} g */
  const idOf = (g) => g.user?.id ?? (bySession ? globalThis.document?.body?.dataset.userId : undefined);

  /** @param {string} token */
  function hasEnded(token) {
    const login = claimsOf(token).sid;
    return login !== undefined && login === ended;
  }

  /** @param {{data: Message}} event */
  function hear({ data: message }) {
    if (message?.kind !== kind) return;
    const g = current;
    if (message.type === "ask") {
      const meant = g?.user && (message.userId ?? g.user.id) === g.user.id;
      if (g && meant && g.expiresAt - now() > message.left) tellState(g, "here");
    } else if (message.type === "signed-out") {
      ended = message.login ?? ended;
      if (g && idOf(g) === message.userId) leave(g, message.reason, false);
    } else if (g && bySession) {
      if (idOf(g) !== message.user.id) leave(g, "other_user", false);
    } else if (hasEnded(message.token)) {
      // Said before that tab had heard of it.
    } else if (g?.user && g.user.id === message.user.id) {
      if (message.token !== g.token && now() + message.left > g.expiresAt) {
        g.user = userOf(message.user);
        take(g, message, false);
      }
    } else if (message.type === "signed-in" || (message.type === "here" && resuming && !g?.user)) {
      // Whoever is signing in here comes later, and settles it.
      if (pending && !resuming) return;
      pending?.end(new GapuraSignedOut("superseded"));
      begin(new Generation(), message.user, message, false);
    }
  }

  /** Asks other tabs for a better token, and gives them a moment. @param {Generation} g @param {string} stale */
  async function askPeers(g, stale) {
    if (!channel) return;
    const left = g.user ? g.expiresAt - now() : 0;
    tell({ type: "ask", userId: g.user?.id ?? null, token: stale, left });
    await g.pause(PEER_PATIENCE);
  }

  /**
   * Does `work` while no other tab does it. Waits for the lock so long, then takes it: a tab that
   * holds it longer is gone.
   * @template T @param {Generation} g @param {() => Promise<T>} work @returns {Promise<T>}
   */
  function locked(g, work) {
    // A session's logout has nothing to wait for, and its page may be gone in a moment.
    const manager = bySession ? null : locks;
    if (!manager) return work();
    return new Promise((resolve, reject) => {
      g.check();
      const waiting = new AbortController();
      let started = false;
      const stop = () => {
        g.never(timer);
        off();
      };
      const run = async () => {
        started = true;
        stop();
        try {
          resolve(await work());
        } catch (error) {
          reject(error);
        }
      };
      const refused = () => {
        // Taken over from us: what has begun goes on, and rotation bears it.
        if (started) return;
        stop();
        if (g.over) reject(g.over);
        else if (waiting.signal.aborted) manager.request(scope, { steal: true }, run).catch(() => started || void run());
        // No locks here after all.
        else void run();
      };
      const off = g.atEnd(() => waiting.abort());
      const timer = g.later(LOCK_PATIENCE, () => waiting.abort());
      manager.request(scope, { signal: waiting.signal }, run).catch(refused);
    });
  }

  /* Requests */

  /** @param {string} path */
  function urlOf(path) {
    const url = new URL(path.startsWith("/") && !path.startsWith("//") ? `.${path}` : path, base);
    // A token never goes anywhere else.
    if (url.origin !== base.origin) throw new TypeError(`${url.origin} is not where Gapura is`);
    return url.href;
  }

  /** @param {Generation} g @param {RequestInit} init @returns {Headers} */
  function headersOf(g, init) {
    const headers = new Headers(init.headers);
    if (bySession) {
      const token = globalThis.document?.querySelector('meta[name="csrf-token"]')?.getAttribute("content");
      if (token && !["GET", "HEAD"].includes((init.method ?? "GET").toUpperCase())) headers.set("X-CSRF-Token", token);
    } else if (g.token !== "") {
      headers.set("Authorization", `Bearer ${g.token}`);
      if (personalToken) headers.set("X-Personal-Token", personalToken);
    } else if (personalToken) {
      headers.set("Authorization", `Bearer ${personalToken}`);
    }
    return headers;
  }

  /** One request of a generation. @param {Generation} g @param {string} url @param {RequestInit} init */
  async function request(g, url, init) {
    g.check();
    const sent = g.token;
    const signal = init.signal ? AbortSignal.any([g.signal, init.signal]) : g.signal;
    const response = await send(url, { credentials, ...init, headers: headersOf(g, init), signal });
    const token = response.headers.get("X-New-Access-Token");
    // Only in place of the token it was sent with: a slow answer does not bring an older one back.
    if (token && sent === g.token) {
      const lifetime = lifetimeOf(token) || g.lifetime;
      const refreshToken = response.headers.get("X-New-Refresh-Token") ?? undefined;
      take(g, { token, left: lifetime, lifetime, refreshToken }, true);
    }
    return response;
  }

  /**
   * A request of this module's own; its `data`.
   * @param {Generation} g @param {string} path @param {RequestInit} [init] @returns {Promise<any>}
   */
  async function ask(g, path, init = {}) {
    const patience = new AbortController();
    const timer = g.later(REQUEST_PATIENCE, () => patience.abort(new GapuraError(0, "network", "No answer in time.")));
    try {
      const late = new Promise((_, reject) => {
        patience.signal.addEventListener("abort", () => reject(patience.signal.reason));
      });
      const asked = (async () => {
        const response = await request(g, urlOf(path), { ...init, signal: patience.signal });
        if (!response.ok) throw await g.within(problemOf(response));
        return (await g.within(response.json())).data;
      })();
      return await g.within(Promise.race([asked, late]));
    } catch (error) {
      if (error instanceof GapuraError || error instanceof GapuraSignedOut) throw error;
      throw new GapuraError(0, "network", "Gapura cannot be reached.", { cause: error });
    } finally {
      g.never(timer);
    }
  }

  /** @param {unknown} body @returns {RequestInit} */
  const posting = (body) => ({
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

  /* Tokens */

  /** The newest refresh token that this client itself holds. @param {Generation} g @param {string} userId */
  function heldRefreshToken(g, userId) {
    return keeping === "localStorage" ? ifAllowed(() => storage()?.getItem(keyOf(userId, REFRESH_TOKEN))) : g.refreshToken;
  }

  /** @param {Generation} g @param {Pair} pair @param {boolean} ours whether other tabs are to be told */
  function take(g, pair, ours) {
    const isRenewal = g.token !== "";
    g.token = pair.token;
    g.lifetime = pair.lifetime;
    g.expiresAt = now() + pair.left;
    // Never at once again, whatever the server says of it.
    g.refreshAt = Math.max(g.expiresAt - Math.min(LEAD, pair.lifetime / 6), now() + 1000);
    if (pair.refreshToken !== undefined && g.user) {
      const { id } = g.user;
      const token = pair.refreshToken;
      if (keeping === "localStorage") ifAllowed(() => storage()?.setItem(keyOf(id, REFRESH_TOKEN), token));
      else if (keeping === "memory") g.refreshToken = token;
    }
    expectExpiry(g);
    if (!isRenewal || !g.user) return;
    if (ours) tellState(g, "refreshed");
    g.socket?.renew();
    emit(g, "refreshed", { user: g.user });
  }

  /** @param {Generation} g */
  function expectExpiry(g) {
    g.never(g.expiry);
    const wait = g.refreshAt - now();
    g.expiry = g.later(
      wait,
      () => {
        if (now() < g.refreshAt) return expectExpiry(g);
        if (g.user) emit(g, "expiring", { user: g.user, in: Math.max(0, g.expiresAt - now()) });
        // Whoever only listens asks for nothing that would renew it.
        if (g.socket && !g.over) refresh(g).catch(() => {});
      },
      true,
    );
  }

  /** A new access token, whoever gets it: one refresh at a time. @param {Generation} g @returns {Promise<void>} */
  function refresh(g) {
    g.refreshing ??= renewed(g).finally(() => {
      g.refreshing = undefined;
    });
    return g.refreshing;
  }

  /** @param {Generation} g */
  async function renewed(g) {
    const stale = g.token;
    for (let failures = 0; g.token === stale; failures += 1) {
      try {
        return await g.within(locked(g, () => renew(g, stale)));
      } catch (error) {
        if (!isTransient(error)) throw error;
        const wait = backOff(failures, error);
        if (now() < g.expiresAt || failures + 1 >= TRIES) {
          // The token in hand may do until then.
          g.refreshAt = now() + wait;
          throw error;
        }
        await g.pause(wait);
      }
    }
  }

  /** @param {Generation} g @param {string} stale */
  async function renew(g, stale) {
    if (g.token === stale) await askPeers(g, stale);
    if (g.token !== stale || !g.user) return;
    try {
      const data = await ask(g, "api/v1/auth/refresh", refreshing(g, g.user.id));
      if (data.user.id === g.user.id) {
        g.user = userOf(data.user);
        take(g, pairOf(data), true);
      } else {
        // Somebody else has signed in with this browser: the cookie is theirs, and so is the page.
        begin(new Generation(), data.user, pairOf(data), true);
      }
    } catch (error) {
      if (error instanceof GapuraError && error.status === 401) leave(g, error.code, true);
      g.check();
      throw error;
    }
    g.check();
  }

  /** @param {Generation} g @param {string} userId @returns {RequestInit} */
  function refreshing(g, userId) {
    if (byCookie) return { method: "POST" };
    const token = heldRefreshToken(g, userId);
    if (!token) throw new GapuraError(401, "refresh_missing", "There is no refresh token.");
    return posting({ refresh_token: token });
  }

  /** Renews a token that is about to expire, where that can be done. @param {Generation} g */
  async function freshen(g) {
    if (g.token === "" || now() < g.refreshAt) return;
    const stillGood = now() < g.expiresAt;
    try {
      await refresh(g);
    } catch (error) {
      if (!(stillGood && isTransient(error))) throw error;
    }
  }

  /* Coming and going */

  /** @param {Generation} g @param {User} user @param {Pair} pair @param {boolean} ours whether it happened in this tab */
  function begin(g, user, pair, ours) {
    if (current) leave(current, "other_user", false);
    // Somebody who heard of that may have closed this client.
    if (closed) return;
    if (pending === g) pending = null;
    signIns += 1;
    g.user = userOf(user);
    current = g;
    take(g, pair, false);
    if (ours) tellState(g, "signed-in");
    emit(g, "signed-in", { user: g.user });
  }

  /** The local end of a generation; the first counts. @param {Generation} g @param {string} reason @param {boolean} ours */
  function leave(g, reason, ours) {
    if (g !== current) return;
    const { user, token } = g;
    const userId = idOf(g);
    const login = claimsOf(token).sid;
    ended = login ?? ended;
    // A refused login leaves a script what it had before; who logs out leaves nothing.
    current = reason === "logged_out" || bySession ? null : resting();
    g.end(new GapuraSignedOut(reason));
    if (ours) {
      // Another tab's end is that tab's to clean up after: by now the keys may be the next login's.
      if (user) ifAllowed(() => storage()?.removeItem(keyOf(user.id, REFRESH_TOKEN)));
      if (userId) tell({ type: "signed-out", userId, login, reason });
    }
    if (user || bySession) emit(g, "signed-out", { user, reason });
  }

  /**
   * Ends the login on the server, once nothing else of this browser is under way.
   * @param {string} token @param {string | undefined} refreshToken @param {string} userId @param {boolean} everywhere
   * @returns {Promise<boolean>} whether the server knows
   */
  async function part(token, refreshToken, userId, everywhere) {
    const mark = userId && byCookie ? keyOf(userId, SIGNED_OUT) : "";
    if (mark) ifAllowed(() => storage()?.setItem(mark, "1"));
    if (closed) return false;
    const g = new Generation();
    partings.add(g);
    if (bySession) {
      const tellOthers = () => tell({ type: "signed-out", userId, reason: "logged_out" });
      const off = g.atEnd(tellOthers);
      g.later(PARTING_PATIENCE, () => {
        off();
        tellOthers();
      });
    }
    const before = signIns;
    const isMarked = () => mark !== "" && ifAllowed(() => storage()?.getItem(mark)) === "1";
    const wasMarked = isMarked();
    try {
      await locked(g, async () => {
        const headers = headersOf(g, { method: "POST" });
        headers.delete("Authorization");
        if (token) headers.set("Authorization", `Bearer ${token}`);
        if (refreshToken) headers.set("X-Refresh-Token", refreshToken);
        let path = everywhere ? "api/v1/auth/logout-all" : "api/v1/auth/logout";
        /** @type {RequestInit} */
        const init = { method: "POST", headers, keepalive: true, signal: g.signal };
        if (bySession && !everywhere) {
          path = "logout";
          init.redirect = "manual";
          headers.set("Content-Type", "application/x-www-form-urlencoded");
        }
        // The cookie of whoever has signed in since, here or in a tab that we have yet to hear of, is not ours to clear.
        const isTaken = signIns !== before || (wasMarked && !isMarked());
        init.credentials = isTaken ? "omit" : credentials;
        if (isTaken && !token && !refreshToken) return;
        g.later(REQUEST_PATIENCE, () => g.end(new GapuraSignedOut("no answer in time")));
        const response = await g.within(send(urlOf(path), init));
        const isOver = response.ok || response.type === "opaqueredirect" || [401, 419].includes(response.status);
        if (!isOver) throw await problemOf(response);
      });
      if (mark) ifAllowed(() => storage()?.removeItem(mark));
      return true;
    } catch {
      return false;
    } finally {
      partings.delete(g);
      g.end(new GapuraSignedOut("done"));
    }
  }

  /** Whoever has logged out here while the server could not be told is logged out there. @returns {Promise<boolean>} whether there was somebody */
  async function catchUp() {
    await farewell;
    const left = byCookie ? storedFor(SIGNED_OUT) : [];
    for (const id of left) {
      farewell = part("", undefined, id, false);
      await farewell;
    }
    return left.length > 0;
  }

  /** @param {{everywhere?: boolean}} [how] @returns {Promise<boolean>} */
  function logout({ everywhere = false } = {}) {
    const g = current;
    const [token, user, userId] = [g?.token ?? "", g?.user ?? null, (g && idOf(g)) ?? ""];
    const refreshToken = byCookie || !g || !user ? undefined : (heldRefreshToken(g, user.id) ?? undefined);
    pending?.end(new GapuraSignedOut("logged_out"));
    pending = null;
    forgetLegacy();
    // A personal token belongs to no login that could end.
    const isKnown = (bySession || byCookie || token || refreshToken) && !(personalToken && !token);
    const told =
      closed || !isKnown
        ? Promise.resolve(true)
        : farewell.then(() => part(token, refreshToken, userId, everywhere));
    // Before anybody hears of it: who signs in at that comes after it.
    if (isKnown) farewell = told;
    // Pages of ours go to the login page at that, which sends back whom it still knows: they are told a little later.
    if (g) leave(g, "logged_out", !bySession);
    return told;
  }

  /** @param {string} path @param {Record<string, unknown>} body @returns {Promise<User>} */
  async function enter(path, body) {
    if (bySession) throw new TypeError("A session begins on the login page.");
    if (closed) throw new GapuraSignedOut("closed");
    // Whoever is here leaves first, whatever comes of it: the two never overlap.
    if (current?.user || pending) void logout();
    const g = new Generation();
    pending = g;
    forgetLegacy();
    const delivery = byCookie ? "cookie" : "body";
    const coming = (async () => {
      await catchUp();
      return locked(g, async () => {
        const data = await ask(g, path, posting({ ...body, refresh_token_delivery: delivery }));
        for (const id of storedFor(SIGNED_OUT)) ifAllowed(() => storage()?.removeItem(keyOf(id, SIGNED_OUT)));
        begin(g, data.user, pairOf(data), true);
        return userOf(data.user);
      });
    })();
    try {
      return await g.within(coming);
    } finally {
      if (pending === g) pending = null;
    }
  }

  /** @returns {Promise<User | null>} */
  async function comeBack() {
    const left = await catchUp();
    if (closed) throw new GapuraSignedOut("closed");
    if (bySession || personalToken) return introduce();
    if (left || pending || current?.user) return current?.user ?? null;
    const g = new Generation();
    pending = g;
    try {
      await askPeers(g, "");
      for (let failures = 0; ; failures += 1) {
        try {
          return await locked(g, () => restore(g));
        } catch (error) {
          if (!isTransient(error) || failures + 1 >= TRIES) throw error;
          await g.pause(backOff(failures, error));
        }
      }
    } catch (error) {
      // Another tab was faster.
      if (g.over && current?.user) return current.user;
      throw error;
    } finally {
      if (pending === g) pending = null;
    }
  }

  /** @param {Generation} g @returns {Promise<User | null>} */
  async function restore(g) {
    const [id = "", ...others] = keeping === "localStorage" ? storedFor(REFRESH_TOKEN) : [];
    const forget = () => [id, ...others].forEach((id) => ifAllowed(() => storage()?.removeItem(keyOf(id, REFRESH_TOKEN))));
    // Two people's: nobody can tell who was the last.
    if (others.length > 0) {
      forget();
      return null;
    }
    try {
      const data = await ask(g, "api/v1/auth/refresh", refreshing(g, id));
      // Logged out of in another tab, while this was under way.
      if (hasEnded(data.access_token)) return null;
      begin(g, data.user, pairOf(data), true);
      return g.user;
    } catch (error) {
      if (!(error instanceof GapuraError && error.status === 401)) throw error;
      forget();
      return null;
    }
  }

  /** Whose session or personal token this is. @returns {Promise<User | null>} */
  async function introduce() {
    const g = (current ??= new Generation());
    for (let failures = 0; ; failures += 1) {
      try {
        const user = userOf(await ask(g, "api/v1/me"));
        if ((idOf(g) ?? user.id) !== user.id) {
          leave(g, "other_user", false);
          return null;
        }
        const isNew = !g.user;
        g.user = user;
        if (bySession) tell({ type: "signed-in", user });
        if (isNew) emit(g, "signed-in", { user });
        return user;
      } catch (error) {
        const refused = error instanceof GapuraError && [401, 419].includes(error.status);
        if (bySession && refused) {
          leave(g, error.reason ?? error.code, true);
          return null;
        }
        if (!isTransient(error) || failures + 1 >= TRIES) throw error;
        await g.pause(backOff(failures, error));
      }
    }
  }

  /* Calls */

  const nobody = () => new GapuraSignedOut(closed ? "closed" : "signed_out");

  /** @returns {Generation} */
  function here() {
    if (!current) throw nobody();
    return current;
  }

  /** Reading an answer is part of the call. @param {Generation} g @param {Response} response @returns {Response} */
  function sealed(g, response) {
    const readers = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (response));
    for (const name of ["arrayBuffer", "blob", "bytes", "formData", "json", "text"]) {
      const read = readers[name];
      if (typeof read === "function") {
        Object.defineProperty(response, name, { value: () => g.within(Promise.resolve(read.call(response))) });
      }
    }
    const copy = response.clone;
    Object.defineProperty(response, "clone", { value: () => sealed(g, copy.call(response)) });
    return response;
  }

  /** @param {Generation} g @param {string | URL | Request} input @param {RequestInit} init */
  async function call(g, input, init) {
    if (input instanceof Request) {
      const { method, headers, signal, redirect, cache, keepalive } = input;
      const body = ["GET", "HEAD"].includes(method) ? undefined : await g.within(input.clone().arrayBuffer());
      const given = { method, headers, signal, redirect, cache, keepalive, ...(body?.byteLength ? { body } : {}) };
      // What every Request says that was not told otherwise.
      const chosen = input.credentials === "same-origin" ? {} : { credentials: input.credentials };
      return attempt(g, urlOf(input.url), { ...given, ...chosen, ...init });
    }
    return attempt(g, urlOf(String(input)), init);
  }

  /** @param {Generation} g @param {string} url @param {RequestInit} init */
  async function attempt(g, url, init) {
    await freshen(g);
    const sent = g.token;
    let response = await request(g, url, init);
    const repeatable = !(typeof ReadableStream === "function" && init.body instanceof ReadableStream);
    if (response.status === 401 && sent !== "" && repeatable) {
      const { code } = await g.within(problemOf(response.clone()));
      // Others may have been refused with the same token, and have got another by now.
      if (code.startsWith("token_")) {
        // A login that was ended elsewhere: its refresh token in use after that would look like a thief's.
        if (g.token === sent && code === "token_revoked") leave(g, code, true);
        else if (g.token === sent) await refresh(g);
        response = await request(g, url, init);
      }
    }
    if (response.status === 419 || (bySession && response.status === 401)) {
      const { reason, code } = await g.within(problemOf(response.clone()));
      if (code.startsWith("session_")) leave(g, reason ?? code, true);
    }
    return sealed(g, response);
  }

  /** @param {Generation} g @param {string} path */
  async function load(g, path) {
    const url = urlOf(path);
    for (let failures = 0; ; failures += 1) {
      try {
        const response = await attempt(g, url, { headers: { Accept: "application/json" } }).catch((error) => {
          if (error instanceof TypeError) throw new GapuraError(0, "network", "Gapura cannot be reached.", { cause: error });
          throw error;
        });
        if (!response.ok) throw await problemOf(response);
        return (await response.json()).data;
      } catch (error) {
        if (!isTransient(error) || failures + 1 >= TRIES) throw error;
        await g.pause(backOff(failures, error));
      }
    }
  }

  /* The socket */

  /** @param {Generation} g */
  function keepConnected(g) {
    const Socket = options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new TypeError("There is no WebSocket here.");
    const url = new URL(options.socketUrl ?? "api/v1/ws", base);
    url.protocol = url.protocol.replace("http", "ws");
    /** @type {WebSocket | null} */
    let socket = null;
    let failures = 0;
    let trusted = false;

    const renew = () => {
      if (bySession || socket?.readyState !== 1) return;
      socket.send(JSON.stringify({ type: "authenticate", token: g.token || personalToken }));
    };
    const again = () => {
      g.later(backOff(failures++), () => void open());
    };
    /** @param {any} message */
    const receive = (message) => {
      if (typeof message?.type !== "string") return;
      if (message.type === "authenticated") {
        const isRenewal = trusted;
        trusted = (idOf(g) ?? message.user_id) === message.user_id;
        if (trusted && isRenewal) return;
        if (!trusted) close();
        if (!trusted && bySession) leave(g, "other_user", false);
      }
      if (!trusted) return;
      failures = 0;
      if (message.type === "token.expiring" && g.user) refresh(g).catch(() => {});
      emit(g, "event", message);
      // A page of ours is told by what it asks next.
      if (message.type === "session.revoked" && !bySession && g.user) leave(g, message.reason ?? "token_revoked", true);
    };
    /** @param {number} code @param {string} [word] */
    const lost = async (code, word) => {
      // Another user's or another origin's: it would be the same again.
      if (code === 4403) return;
      // A page of ours says nothing in time where its cookie is gone.
      if (code === 4401 || (bySession && code === 4408)) {
        try {
          // Perhaps it was a session that this browser has beside, and that is over.
          if (!bySession) url.searchParams.set("by", "token");
          if (bySession) await introduce();
          else if (g.user && word === "token_revoked") leave(g, word, true);
          else if (g.user) await refresh(g);
        } catch {
          // Ended, and then there is nothing more to do, or out of reach.
        }
      }
      again();
    };
    const open = async () => {
      try {
        await freshen(g);
      } catch {
        return again();
      }
      if (g.over) return;
      const opened = new Socket(url.href);
      socket = opened;
      trusted = false;
      opened.onopen = renew;
      opened.onmessage = ({ data }) => receive(ifAllowed(() => JSON.parse(data)));
      opened.onclose = ({ code, reason }) => {
        socket = null;
        void lost(code, reason);
      };
    };
    const close = () => {
      if (!socket) return;
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    };
    g.socket = { renew, close };
    void open();
  }

  /** A page that was kept aside may have missed what happened. @param {{persisted?: boolean}} event */
  const onShow = ({ persisted }) => {
    const g = current;
    if (!persisted || !g) return;
    // The cookie tells whose browser it is by now; a token that is kept elsewhere was renewed by others meanwhile.
    const look = bySession ? introduce() : byCookie ? refresh(g) : attempt(g, urlOf("api/v1/me"), {});
    look.catch(() => {});
  };

  channel?.addEventListener("message", hear);
  if (globalThis.document) globalThis.addEventListener?.("pageshow", onShow);

  return {
    /** Who is signed in. @returns {User | null} */
    get user() {
      return current?.user ?? null;
    },

    /**
     * Signs in; whoever was signed in before leaves first.
     * @param {{username: string, password: string, deviceName?: string}} who
     */
    login: ({ username, password, deviceName }) =>
      enter("api/v1/auth/token", { username, password, device_name: deviceName }),

    /**
     * Makes an account and signs in, where registration is open.
     * @param {{username: string, email: string, name: string, password: string, deviceName?: string}} who
     */
    register: ({ username, email, name, password, deviceName }) =>
      enter("api/v1/auth/register", { username, email, name, password, device_name: deviceName }),

    /**
     * Who is signed in already, say after a page was loaded. Rejects while that cannot be known.
     * @returns {Promise<User | null>}
     */
    resume() {
      if (current?.user) return Promise.resolve(current.user);
      resuming ??= comeBack().finally(() => {
        resuming = undefined;
      });
      return resuming;
    },

    /**
     * As `window.fetch`, with the credential. To Gapura's own origin only.
     * @param {string | URL | Request} input @param {RequestInit} [init] @returns {Promise<Response>}
     */
    fetch(input, init = {}) {
      const g = current;
      // Nothing between this promise and its caller: there, a logout would come too late.
      return g ? g.within(call(g, input, init)) : Promise.reject(nobody());
    },

    /**
     * The `data` of a JSON answer. Calls at the same time share one request; an answer is good for `maxAge` milliseconds.
     * @param {string} path @param {{maxAge?: number}} [how] @returns {Promise<any>}
     */
    async get(path, { maxAge = 0 } = {}) {
      const g = here();
      const kept = g.kept.get(path);
      if (kept && now() < kept.at + maxAge) return structuredClone(kept.data);
      let entry = g.shared.get(path);
      if (!entry) {
        const started = { answer: load(g, path), stale: false };
        const done = () => {
          if (g.shared.get(path) === started) g.shared.delete(path);
        };
        started.answer.then(done, done);
        g.shared.set(path, (entry = started));
      }
      const data = await g.within(entry.answer);
      g.check();
      if (maxAge > 0 && !entry.stale) {
        const at = now();
        for (const [other, { until }] of g.kept) if (until <= at) g.kept.delete(other);
        g.kept.set(path, { data, at, until: at + maxAge });
      }
      return structuredClone(data);
    },

    /** Forgets kept answers, and does not keep those under way. @param {string} [prefix] of their paths */
    invalidate(prefix = "") {
      const { kept, shared } = current ?? new Generation();
      for (const path of kept.keys()) if (path.startsWith(prefix)) kept.delete(path);
      for (const [path, entry] of shared) {
        if (!path.startsWith(prefix)) continue;
        entry.stale = true;
        shared.delete(path);
      }
    },

    /**
     * @template {EventName} K @param {K} name @param {(detail: Events[K]) => void} listener
     * @returns {() => void} takes it back
     */
    on(name, listener) {
      const known = listeners.get(name) ?? new Set();
      listeners.set(name, known.add(listener));
      return () => void known.delete(listener);
    },

    /** Listens to the server until logout. */
    connect() {
      const g = here();
      if (!g.socket) keepConnected(g);
    },

    /**
     * Signs out here, at once and also without a network, and then on the server.
     * @type {(how?: {everywhere?: boolean}) => Promise<boolean>} whether the server could be told
     */
    logout,

    /** Stops everything that this client runs; signs nobody out. */
    close() {
      closed = true;
      const reason = new GapuraSignedOut("closed");
      for (const g of [current, pending, ...partings]) g?.end(reason);
      current = pending = null;
      channel?.removeEventListener("message", hear);
      ownChannel?.close();
      if (globalThis.document) globalThis.removeEventListener?.("pageshow", onShow);
    },
  };
}
