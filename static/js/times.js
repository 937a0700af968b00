// @ts-check
/**
 * Keeps times in words fresh and shows the exact time in the reader's own time zone on hover.
 *
 *   <body data-now="2026-11-21T08:12:00Z">               the server's time at rendering
 *   <time datetime="…" title="…" data-relative>5 hours ago</time>
 *   <time … data-clock="idle | session">                 follows that end of the session (see activity.js)
 */

const language = document.documentElement.lang || "en";
const [navigation] = performance.getEntriesByType("navigation");
const rendered = navigation instanceof PerformanceNavigationTiming ? navigation.responseStart : 0;
const renderedAt = Date.parse(document.body.dataset.now ?? "");

const exact = new Intl.DateTimeFormat(language, {
  weekday: "long",
  day: "numeric",
  month: "long",
  year: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  timeZoneName: "short",
});
const relative = new Intl.RelativeTimeFormat(language, { numeric: "always" });

/**
 * Rounded to the nearest whole of the largest unit that fits, with the limits the server has.
 * @param {number} seconds
 * @returns {[number, Intl.RelativeTimeFormatUnit]}
 */
function largestUnit(seconds) {
  const size = Math.abs(seconds);
  if (size < 90) return [Math.round(seconds), "second"];
  if (size < 5400) return [Math.round(seconds / 60), "minute"];
  if (size < 129_600) return [Math.round(seconds / 3600), "hour"];
  return [Math.round(seconds / 86_400), "day"];
}

/** @param {HTMLTimeElement} time */
function showExact(time) {
  const at = Date.parse(time.dateTime);
  if (time.title !== "" && !Number.isNaN(at)) time.title = exact.format(at);
}

/** @param {HTMLTimeElement} time */
function refresh(time) {
  const seconds = (Date.parse(time.dateTime) - (renderedAt + performance.now() - rendered)) / 1000;
  // Closer than that, the server's words ("just now") stay.
  if (Math.abs(seconds) >= 5) time.textContent = relative.format(...largestUnit(seconds));
}

/** @param {ParentNode} root @param {string} selector */
const timesIn = (root, selector) => [...root.querySelectorAll(selector)].filter((time) => time instanceof HTMLTimeElement);

/** @param {ParentNode} root */
const showAll = (root) => timesIn(root, "time[datetime][title]").forEach(showExact);

showAll(document);
document.addEventListener("gapura:shown", (event) => {
  if (event instanceof CustomEvent) showAll(event.detail.region);
});

if (!Number.isNaN(renderedAt)) {
  const refreshAll = () => timesIn(document, "time[data-relative]").forEach(refresh);
  setInterval(refreshAll, 60_000);
  document.addEventListener("visibilitychange", refreshAll);
  document.addEventListener("gapura:ends", (event) => {
    if (!(event instanceof CustomEvent)) return;
    for (const [clock, end] of [["idle", event.detail.idleEnd], ["session", event.detail.sessionEnd]]) {
      for (const time of timesIn(document, `time[data-clock="${clock}"]`)) {
        time.dateTime = end;
        showExact(time);
        refresh(time);
      }
    }
  });
}

export {};
