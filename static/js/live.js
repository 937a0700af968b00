// @ts-check
/**
 * Lets a signed-in page follow what happens elsewhere, over a WebSocket: once its login has ended the
 * page is left at once, and where logins begin or end the lists of them are shown anew. Without a
 * WebSocket the page is what it was when it was opened, until the next one.
 *
 * What is shown anew is every element with an id and data-live: it is taken from the same page,
 * fetched again. That is no activity: the browser says that a script asks, and so does this module,
 * for browsers that do not.
 *
 * The document gets "gapura:over" ({reason}) when the login has ended, and "gapura:shown" ({region})
 * for each element that is new. That the session ends soon the page tells by its own clocks (activity.js).
 */

import { createClient } from "/static/js/gapura-client.js";

/** Ends come in bunches, and pages are on their way then. */
const GATHER = 250;
/** When to try again where the person is busy with what would be replaced. */
const COME_BACK = 2000;

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let stale = false;

/** @param {string} name @param {unknown} detail */
const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

const regions = () => [...document.querySelectorAll("[data-live][id]")];

/** Somebody types in it, or marks something to copy it. @param {Element} region */
function isInUse(region) {
  const active = document.activeElement;
  const types = active !== null && region.contains(active) && active.matches("input, select, textarea");
  const marked = document.getSelection();
  return types || (marked !== null && !marked.isCollapsed && marked.containsNode(region, true));
}

/** What finds a control again in a newer version of the page. @param {Element} element */
const nameOf = (element) =>
  [element.tagName, element.getAttribute("href"), element.closest("form")?.getAttribute("action")].join(" ");

/** @param {Element} old @param {Element} fresh */
function replace(old, fresh) {
  const active = document.activeElement;
  const focused = active !== null && old.contains(active) ? nameOf(active) : undefined;
  const open = [...old.querySelectorAll("details")].map((details) => details.open);
  old.replaceWith(fresh);
  fresh.querySelectorAll("details").forEach((details, index) => {
    details.open = open[index] ?? false;
  });
  tell("gapura:shown", { region: fresh });
  if (focused === undefined) return;
  const again = [...fresh.querySelectorAll("a, button, summary")].find((element) => nameOf(element) === focused);
  const next = again ?? document.getElementById("main");
  if (next instanceof HTMLElement) next.focus({ preventScroll: true });
}

async function show() {
  timer = undefined;
  if (regions().length === 0) return;
  if (document.visibilityState === "hidden") {
    stale = true;
    return;
  }
  stale = false;
  if (regions().some(isInUse)) return later(COME_BACK);
  try {
    const answer = await fetch(location.href, {
      cache: "no-store",
      credentials: "same-origin",
      headers: { Accept: "text/html", Purpose: "prefetch" },
      // To the login page: it is not asked in a script's name, since a remember cookie would open it.
      redirect: "manual",
    });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    // Somebody else has signed in meanwhile.
    if (page.body.dataset.userId !== document.body.dataset.userId) return location.reload();
    // It may have come into use while the page was fetched.
    if (regions().some(isInUse)) return later(COME_BACK);
    for (const region of regions()) {
      const fresh = page.getElementById(region.id);
      if (fresh) replace(region, document.importNode(fresh, true));
    }
  } catch {
    // Out of reach: the next news will bring it.
  }
}

/** @param {number} wait */
function later(wait) {
  timer ??= setTimeout(() => void show(), wait);
}

document.addEventListener("visibilitychange", () => {
  if (stale) later(0);
});

if ("WebSocket" in window && document.body.dataset.userId) {
  const gapura = createClient({ credential: "session" });
  let wasLetIn = false;
  gapura.on("event", ({ type, reason }) => {
    if (type === "session.revoked") tell("gapura:over", { reason });
    // What happened between two sockets was told to neither.
    else if (type === "sessions.changed" || (type === "authenticated" && wasLetIn)) later(GATHER);
    wasLetIn ||= type === "authenticated";
  });
  // A reason that begins like this is the code of an answer, and none for a person.
  gapura.on("signed-out", ({ reason }) => tell("gapura:over", { reason: /^(session|token)_/.test(reason) ? "" : reason }));
  gapura.connect();
}
