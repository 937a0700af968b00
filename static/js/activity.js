// @ts-check
/**
 * Keeps a signed-in page in step with its session: tells the server when the person was last
 * there, warns before the session ends, and goes to the login page once the server says it has.
 *
 * Settings are attributes of <body>; every length is in milliseconds:
 *
 *   data-user-id               whose page this is; without it this module does nothing
 *   data-ping-interval-ms      how often a ping is sent while the person is active
 *   data-idle-remaining-ms     from the rendering of the page to the idle end
 *   data-session-remaining-ms  from the rendering of the page to the hard end
 *   data-idle-lifetime-ms      the whole idle timeout (optional, decides how early to warn)
 *   data-session-lifetime-ms   the whole hard lifetime (optional, likewise)
 *   data-ping-url              default /api/update-activity
 *   data-login-url             default /login
 *
 * The form token is read from <meta name="csrf-token">. The words of the warnings are in
 * <template id="idle-warning"> and <template id="end-warning">: [data-remaining] takes the time
 * left, [data-stay] and [data-dismiss] are the buttons, [data-trouble] is shown while the server
 * cannot be reached. #notices is a status region for screen readers. A form or field with
 * data-no-draft is never kept.
 *
 * Whoever hears of the end elsewhere (live.js) tells the document with "gapura:over" and {reason}.
 *
 * After every answer of the server, in every tab, the document gets a "gapura:ends" event with
 * {idleEnd, sessionEnd} (RFC 3339) as its detail.
 *
 * Ends are kept on the monotonic clock. The wall clock of the device serves one purpose: it goes
 * on while the device sleeps, so it can make the person's last input older, never younger.
 */

const MINUTE = 60_000;
const WARN_BEFORE = 10 * MINUTE;
const DRAFT = "gapura:draft:";

/** @typedef {{idleIn: number, sessionIn: number, idleEnd?: string, sessionEnd?: string}} Ends */
/**
 * What tabs of one person tell each other.
 * @typedef {{type: "input", ago: number}
 *   | ({type: "ends", pinged: boolean} & Ends)
 *   | {type: "trying"}
 *   | {type: "over", reason: string}} Message
 */

const data = document.body.dataset;
const user = data.userId ?? "";

/** @param {string | undefined} text @param {number} otherwise */
const positive = (text, otherwise) => {
  const value = Number(text);
  return text !== undefined && Number.isFinite(value) && value >= 0 ? value : otherwise;
};

const interval = Math.max(1000, positive(data.pingIntervalMs, 10 * MINUTE));
const pingUrl = data.pingUrl ?? "/api/update-activity";
const loginUrl = data.loginUrl ?? "/login";
const language = document.documentElement.lang || "en";
const here = () => location.pathname + location.search;
const now = () => performance.now();

/* What was typed, over a login */

/** @param {Element} field */
function keepable(field) {
  if (field.closest("[data-no-draft]")) return false;
  const name = field.getAttribute("name") ?? "";
  const purpose = field.getAttribute("autocomplete") ?? "";
  if (name === "" || name === "csrf_token" || /pass(word|code|phrase)|secret/i.test(name)) return false;
  // A password that is being shown has type "text"; its purpose still tells.
  if (/password|one-time-code|cc-/i.test(purpose)) return false;
  if (field instanceof HTMLInputElement) {
    return !["password", "hidden", "file", "submit", "button", "image", "reset"].includes(field.type);
  }
  return field instanceof HTMLTextAreaElement || field instanceof HTMLSelectElement;
}

/** @param {Element} field @returns {string | boolean | string[] | undefined} its value, if the person changed it */
function changedValue(field) {
  if (field instanceof HTMLSelectElement) {
    const options = [...field.options];
    if (options.every((option) => option.selected === option.defaultSelected)) return undefined;
    return options.filter((option) => option.selected).map((option) => option.value);
  }
  if (field instanceof HTMLInputElement && ["checkbox", "radio"].includes(field.type)) {
    return field.checked === field.defaultChecked ? undefined : field.checked;
  }
  if (field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) {
    return field.value === field.defaultValue ? undefined : field.value;
  }
  return undefined;
}

/** @param {Element} field @param {unknown} value */
function putValue(field, value) {
  if (field instanceof HTMLSelectElement && Array.isArray(value)) {
    for (const option of field.options) option.selected = value.includes(option.value);
  } else if (field instanceof HTMLInputElement && typeof value === "boolean") {
    field.checked = value;
  } else if ((field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) && typeof value === "string") {
    field.value = value;
  } else {
    return;
  }
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new Event("change", { bubbles: true }));
}

/**
 * What finds a form again, whatever stands beside it by then. (By its attributes: a field named "id"
 * stands before `form.id`.)
 * @param {HTMLFormElement} form
 */
const formKey = (form) => form.getAttribute("id") ?? form.getAttribute("action") ?? "";

/** Every field of the page's forms that may be kept, with a name that finds it again. */
function* keepableFields() {
  for (const form of document.forms) {
    /** @type {Map<string, number>} */
    const count = new Map();
    for (const field of form.elements) {
      if (!keepable(field)) continue;
      const which = field instanceof HTMLInputElement && ["checkbox", "radio"].includes(field.type) ? field.value : "";
      const name = `${formKey(form)} ${field.getAttribute("name")} ${which}`;
      const number = count.get(name) ?? 0;
      count.set(name, number + 1);
      yield { key: `${name} ${number}`, form: formKey(form), field };
    }
  }
}

/** @typedef {{sent: string | undefined, values: Record<string, string | boolean | string[]>}} Draft */

const draftKey = () => `${DRAFT}${user}:${here()}`;

/** @param {string} [sent] the form that is on its way to the server */
function saveDraft(sent) {
  try {
    /** @type {Draft} */
    const draft = { sent, values: {} };
    for (const { key, field } of keepableFields()) {
      const value = changedValue(field);
      if (value !== undefined) draft.values[key] = value;
    }
    if (Object.keys(draft.values).length > 0) sessionStorage.setItem(draftKey(), JSON.stringify(draft));
  } catch {
    // No storage, or it is full: then it cannot be kept.
  }
}

/** Whether the person has just logged in. */
function cameFromLogin() {
  try {
    return new URL(document.referrer).pathname === loginUrl;
  } catch {
    return false;
  }
}

function restoreDraft() {
  // The page that asks for the password in between goes on with what was sent.
  if (document.querySelector("[data-sent-again]") !== null) return;
  try {
    for (const key of Object.keys(sessionStorage)) {
      if (key.startsWith(DRAFT) && !key.startsWith(`${DRAFT}${user}:`)) sessionStorage.removeItem(key);
    }
    const stored = sessionStorage.getItem(draftKey());
    if (stored === null) return;
    sessionStorage.removeItem(draftKey());
    /** @type {Draft} */
    const draft = JSON.parse(stored);
    const values = new Map(Object.entries(draft.values));
    for (const { key, form, field } of keepableFields()) {
      // What was sent has arrived, unless the login page came instead of its answer.
      if (values.has(key) && (form !== draft.sent || cameFromLogin())) putValue(field, values.get(key));
    }
  } catch {
    // As above.
  }
}

document.addEventListener("submit", ({ target }) => {
  if (target instanceof HTMLFormElement && target.getAttribute("method") === "post") saveDraft(formKey(target));
});

function start() {
  /* The two ends, on the monotonic clock */

  const [navigation] = performance.getEntriesByType("navigation");
  const rendered = navigation instanceof PerformanceNavigationTiming ? navigation.responseStart : 0;
  let idleEnd = rendered + positive(data.idleRemainingMs, Infinity);
  let sessionEnd = rendered + positive(data.sessionRemainingMs, Infinity);

  /** @param {string | undefined} lifetime @param {number} remaining */
  const warnBefore = (lifetime, remaining) => {
    const whole = positive(lifetime, remaining);
    return whole < 30 * MINUTE ? whole / 3 : WARN_BEFORE;
  };
  const idleLead = warnBefore(data.idleLifetimeMs, idleEnd - rendered);
  const sessionLead = warnBefore(data.sessionLifetimeMs, sessionEnd - rendered);

  /* The person's last input, in this tab or another. Opening the page was one, if the server took it for one. */

  let lastInput = rendered - Math.max(0, positive(data.idleLifetimeMs, 0) - positive(data.idleRemainingMs, Infinity));
  let lastInputWall = Date.now() - (now() - lastInput);
  /** Something happened that the server has not been told. */
  let unreported = false;
  /** It happened here and not in another tab. */
  let inputWasHere = false;

  /** How long ago it was. Time asleep counts, so the later of two clocks. */
  const inputAge = () => Math.max(0, now() - lastInput, Date.now() - lastInputWall);

  let over = false;
  let waited = false;
  /** When the person last set out for another page. */
  let leftAt = -Infinity;
  let busy = false;
  let leading = false;
  let heardLeader = now();
  let due = rendered + interval;
  let failures = 0;
  let notBefore = 0;
  let earlyPing = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;

  /* Tabs of one person */

  const channel = "BroadcastChannel" in window ? new BroadcastChannel(`gapura:activity:${user}`) : undefined;

  /** @param {Message} message */
  const tell = (message) => {
    if (!over || message.type === "over") channel?.postMessage(message);
  };

  /** Where there are no locks, the tab that was used last sends the ping; without a channel each speaks for itself. */
  const canLead = channel !== undefined && "locks" in navigator;
  const maySend = () => (canLead ? leading : inputWasHere || !channel);

  /** @param {boolean} steal */
  function lead(steal) {
    if (!canLead || leading || over) return;
    navigator.locks
      .request(`gapura:activity:${user}`, steal ? { steal: true } : {}, () => {
        leading = true;
        wake();
        // Held until the tab is gone or another one takes it.
        return new Promise(() => {});
      })
      .catch(() => {
        // Taken by another tab: stand in line again.
        leading = false;
        heardLeader = now();
        if (!over) setTimeout(() => lead(false), 1000);
      });
  }

  /** @param {Ends} ends @param {boolean} pinged */
  function takeEnds(ends, pinged) {
    const at = now();
    if (pinged) {
      idleEnd = at + ends.idleIn;
      sessionEnd = at + ends.sessionIn;
      due = at + interval;
      earlyPing = Infinity;
    } else {
      // Another tab has just been opened: its page knows of later activity than this one.
      idleEnd = Math.max(idleEnd, at + ends.idleIn);
      sessionEnd = Math.max(sessionEnd, at + ends.sessionIn);
    }
    if (ends.idleEnd !== undefined && ends.sessionEnd !== undefined) {
      document.dispatchEvent(
        new CustomEvent("gapura:ends", { detail: { idleEnd: ends.idleEnd, sessionEnd: ends.sessionEnd } }),
      );
    }
  }

  channel?.addEventListener("message", (/** @type {MessageEvent<Message>} */ event) => {
    if (over) return;
    const message = event.data;
    if (message.type === "input") {
      if (message.ago < inputAge()) {
        lastInput = now() - message.ago;
        lastInputWall = Date.now() - message.ago;
        inputWasHere = false;
      }
      unreported = true;
    } else if (message.type === "ends") {
      heardLeader = now();
      if (message.pinged) {
        unreported = false;
        failures = 0;
        notBefore = 0;
      }
      takeEnds(message, message.pinged);
    } else if (message.type === "trying") {
      heardLeader = now();
    } else if (message.type === "over") {
      leave(message.reason);
    }
    wake();
  });

  /* Input */

  const tellEvery = Math.min(5000, interval / 10);
  let toldAt = -Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let telling;
  let pointerAt = "";

  function tellInput() {
    telling = undefined;
    toldAt = now();
    tell({ type: "input", ago: inputAge() });
  }

  function noteInput() {
    lastInput = now();
    lastInputWall = Date.now();
    const first = !unreported;
    unreported = true;
    inputWasHere = true;
    if (channel && telling === undefined) {
      const wait = toldAt + tellEvery - now();
      if (wait <= 0) tellInput();
      else telling = setTimeout(tellInput, wait);
    }
    if (first) wake();
  }

  /** @param {Event} event */
  function onInput(event) {
    if (over || !event.isTrusted || document.visibilityState === "hidden") return;
    if (event instanceof MouseEvent && event.type === "pointermove") {
      // Browsers send a move when the page changes under a pointer that rests.
      const place = `${event.screenX},${event.screenY}`;
      if (place === pointerAt) return;
      pointerAt = place;
    }
    noteInput();
  }

  for (const type of ["pointermove", "pointerdown", "click", "keydown", "input", "wheel", "touchstart", "touchmove", "scroll"]) {
    document.addEventListener(type, onInput, { capture: true, passive: true });
  }

  /* Talking to the server */

  /** @param {number} atLeast */
  function backOff(atLeast) {
    failures += 1;
    const step = Math.min(5000, interval / 4) * 2 ** Math.min(failures - 1, 6);
    notBefore = now() + Math.max(atLeast, Math.min(step, 5 * MINUTE) * (0.5 + Math.random()));
    tell({ type: "trying" });
  }

  /**
   * One ping, or one question: with nothing new to report, `idle_seconds` says no more than what the
   * server knows already, so asking does not count as activity and keeps no forgotten tab alive.
   */
  async function send() {
    if (busy || over) return;
    busy = true;
    const reporting = lastInput;
    const age = inputAge();
    const abort = new AbortController();
    const timeout = setTimeout(() => abort.abort(), 15_000);
    try {
      const answer = await fetch(pingUrl, {
        method: "POST",
        credentials: "same-origin",
        cache: "no-store",
        signal: abort.signal,
        headers: {
          Accept: "application/json",
          "Content-Type": "application/json",
          "X-CSRF-Token": document.querySelector('meta[name="csrf-token"]')?.getAttribute("content") ?? "",
        },
        body: JSON.stringify({ idle_seconds: Math.ceil(age / 1000) }),
      });
      const received = now();
      if (answer.status === 419) {
        const problem = await answer.json().catch(() => ({}));
        leave(typeof problem.reason === "string" ? problem.reason : "");
      } else if (answer.status === 401) {
        leave("");
      } else if (answer.ok) {
        const ends = readEnds((await answer.json()).data, answer.headers.get("Date"), age);
        const spent = now() - received;
        ends.idleIn -= spent;
        ends.sessionIn -= spent;
        failures = 0;
        notBefore = 0;
        unreported = lastInput !== reporting;
        takeEnds(ends, true);
        tell({ type: "ends", pinged: true, ...ends });
        // The server says there is time left and our clock says there is none: do not ask in a loop.
        if (ended()) backOff(0);
      } else {
        backOff(1000 * positive(answer.headers.get("Retry-After") ?? undefined, 0));
      }
    } catch {
      backOff(0);
    } finally {
      clearTimeout(timeout);
      busy = false;
      wake();
    }
  }

  /**
   * What is left, by the server's own clock.
   * @param {{last_activity: string, idle_expires_at: string, session_expires_at: string}} times
   * @param {string | null} date the answer's Date header
   * @param {number} age what the ping said
   * @returns {Ends}
   */
  function readEnds(times, date, age) {
    const idleAt = Date.parse(times.idle_expires_at);
    const sessionAt = Date.parse(times.session_expires_at);
    let serverNow = Date.parse(date ?? "");
    if (Number.isNaN(serverNow)) serverNow = Date.parse(times.last_activity) + age;
    if ([idleAt, sessionAt, serverNow].some(Number.isNaN)) throw new Error("times that cannot be read");
    return {
      idleIn: idleAt - serverNow,
      sessionIn: sessionAt - serverNow,
      idleEnd: times.idle_expires_at,
      sessionEnd: times.session_expires_at,
    };
  }

  /** @param {string} reason */
  function leave(reason) {
    if (over) return;
    // Their way leads somewhere already, say from the button that ended the session; unless nothing comes of it.
    const patience = leftAt + 5000 - now();
    if (patience > 0) {
      setTimeout(() => leave(reason), patience);
      return;
    }
    // Another tab, whose question the server has answered, may be about to say why.
    if (reason === "" && !waited) {
      waited = true;
      setTimeout(() => leave(""), 1500);
      return;
    }
    over = true;
    clearTimeout(timer);
    clearTimeout(telling);
    tell({ type: "over", reason });
    channel?.close();
    saveDraft();
    // Also an empty reason: it tells the login page that nobody has asked for it.
    location.replace(`${loginUrl}?${new URLSearchParams({ reason, next: here() })}`);
  }

  /* Warnings */

  /** @type {{kind: "idle" | "end", box: HTMLElement, said: string, before: Element | null} | undefined} */
  let warning;
  let dismissed = false;

  /** @param {number} left */
  function inWords(left) {
    const [unit, value] = left > 90_000 ? ["minute", Math.round(left / MINUTE)] : ["second", Math.max(0, Math.round(left / 1000))];
    return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" }).format(value);
  }

  /** @param {string} text */
  function announce(text) {
    const region = document.getElementById("notices");
    if (region) region.textContent = text;
  }

  function hideWarning() {
    if (!warning) return;
    const { box, before } = warning;
    const hadFocus = box.contains(document.activeElement);
    warning = undefined;
    box.remove();
    announce("");
    if (hadFocus && before instanceof HTMLElement && before.isConnected) before.focus({ preventScroll: true });
  }

  /** @param {"idle" | "end"} kind */
  function openWarning(kind) {
    const template = document.getElementById(`${kind}-warning`);
    const content = template instanceof HTMLTemplateElement ? template.content.firstElementChild?.cloneNode(true) : undefined;
    if (!(content instanceof HTMLElement)) return;
    const before = document.activeElement;
    warning = { kind, box: content, said: "", before };
    content.querySelector("[data-stay]")?.addEventListener("click", () => {
      noteInput();
      notBefore = 0;
      void send();
    });
    content.querySelector("[data-dismiss]")?.addEventListener("click", () => {
      dismissed = true;
      hideWarning();
    });
    document.body.append(content);
    // Whoever is typing is not interrupted; the status region speaks instead.
    const typing = before instanceof HTMLInputElement || before instanceof HTMLTextAreaElement || before instanceof HTMLSelectElement;
    if (kind === "idle" && !typing) {
      const stay = content.querySelector("[data-stay]");
      if (stay instanceof HTMLElement) stay.focus({ preventScroll: true });
    }
  }

  function showWarnings() {
    const at = now();
    const endsFirst = sessionEnd <= idleEnd + 1000;
    /** @type {"idle" | "end" | undefined} */
    let kind;
    if (!endsFirst && idleEnd - at <= idleLead) kind = "idle";
    else if (!dismissed && sessionEnd - at <= sessionLead) kind = "end";

    if (warning && warning.kind !== kind) hideWarning();
    if (kind === undefined) return;
    const opened = !warning;
    if (opened) openWarning(kind);
    if (!warning) return;
    const { box } = warning;
    const words = inWords((kind === "idle" ? idleEnd : sessionEnd) - at);
    if (warning.said !== words) {
      warning.said = words;
      for (const slot of box.querySelectorAll("[data-remaining]")) slot.textContent = words;
    }
    const trouble = box.querySelector("[data-trouble]");
    if (trouble instanceof HTMLElement) trouble.hidden = failures === 0;
    if (opened && !box.contains(document.activeElement)) {
      announce([...box.querySelectorAll("h2, p:not([hidden]):not(.warning-actions)")].map((part) => part.textContent?.trim()).join(" "));
    }
  }

  /* One timer */

  const end = () => Math.min(idleEnd, sessionEnd);
  // The Date header is in whole seconds, so the server is asked a little later than computed.
  const ended = () => now() >= end() + 1000;

  let lastMono = now();
  let lastWall = Date.now();

  function turn() {
    clearTimeout(timer);
    if (over) return;
    const at = now();

    // The wall clock ran ahead of the monotonic one: the device slept, and the ends may be nearer than they seem.
    const wall = Date.now();
    const slept = wall - lastWall - (at - lastMono) > 30_000;
    lastMono = at;
    lastWall = wall;

    showWarnings();

    if (!busy && at >= notBefore) {
      // A tab whose leader does not answer looks for itself.
      const alone = at - heardLeader > 10_000;
      if (ended() && (maySend() || (alone && at >= end() + 10_000))) {
        void send();
      } else if (slept && maySend()) {
        void send();
      } else if (unreported && maySend() && at >= Math.min(due, earlyPing)) {
        void send();
      } else if (unreported && canLead && !leading && inputWasHere) {
        // The tab that leads is frozen: take its place.
        const patience = interval + Math.min(30_000, interval);
        if (at - heardLeader > patience && at > due + Math.min(30_000, interval)) {
          heardLeader = at;
          lead(true);
        }
      }
    }
    if (at >= due && !unreported) due = at + interval;

    // Somebody is there while the warning shows: do not wait for the end of the interval. Not at once either, since
    // the warning should not vanish from under their pointer.
    if (warning?.kind === "idle" && unreported) {
      if (earlyPing === Infinity) earlyPing = at + Math.min(5000, Math.max(0, idleEnd - at) / 4);
    } else {
      earlyPing = Infinity;
    }

    let next = Math.min(due, earlyPing, idleEnd - idleLead, sessionEnd - sessionLead, end() + 1000);
    if (next <= at) next = at + 1000;
    if (warning) next = Math.min(next, at + 1000);
    timer = setTimeout(turn, Math.min(Math.max(next, notBefore) - at, warning ? 1000 : 30_000));
  }

  function wake() {
    clearTimeout(timer);
    if (!over) timer = setTimeout(turn, 0);
  }

  document.addEventListener("gapura:over", (event) => {
    if (event instanceof CustomEvent) leave(typeof event.detail?.reason === "string" ? event.detail.reason : "");
  });
  document.addEventListener("visibilitychange", wake);
  window.addEventListener("beforeunload", () => {
    leftAt = now();
  });
  window.addEventListener("pageshow", () => {
    leftAt = -Infinity;
    wake();
  });
  window.addEventListener("online", () => {
    notBefore = 0;
    wake();
  });

  restoreDraft();
  lead(false);
  // Opening this page was activity: tabs that are open already need not warn.
  tell({ type: "ends", pinged: false, idleIn: idleEnd - now(), sessionIn: sessionEnd - now() });
  turn();
}

if (user !== "") start();

export {};
