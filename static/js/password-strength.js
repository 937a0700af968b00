// @ts-check
/**
 * Says how strong a new password is while it is typed. The server judges, since it is the server
 * that refuses; here only the missing characters are counted, and nothing is sent before they are
 * there. Where the server cannot be asked nothing is said: the form itself will tell.
 *
 *   <div data-strength="id of the field" data-least="12" data-missing="… %{count}">
 *     <div role="meter" hidden><span></span>…</div> <p aria-live="polite"></p>
 *   </div>
 */

/** Long enough that a word is typed to its end. */
const PAUSE = 350;

/** @typedef {{ score: number, accepted: boolean, sentence: string }} Judgement */

/**
 * @param {string} password
 * @param {string[]} names
 * @param {AbortSignal} signal
 * @returns {Promise<Judgement | null>}
 */
async function judge(password, names, signal) {
  const token = document.querySelector("meta[name='csrf-token']")?.getAttribute("content") ?? "";
  const answer = await fetch("/api/password-strength", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": token },
    body: JSON.stringify({ password, names }),
    signal,
  });
  return answer.ok ? (await answer.json()).data : null;
}

/**
 * @param {HTMLElement} place
 * @param {HTMLInputElement} field
 */
function attach(place, field) {
  const meter = place.querySelector("[role=meter]");
  const text = place.querySelector("[aria-live]");
  if (!(meter instanceof HTMLElement) || !(text instanceof HTMLElement)) return;
  const least = Number(place.dataset.least);
  let asked = new AbortController();
  let timer = 0;

  /** @param {number | null} score @param {string} sentence @param {string} verdict */
  const show = (score, sentence, verdict) => {
    meter.hidden = score === null;
    meter.setAttribute("aria-valuenow", String(score ?? 0));
    meter.setAttribute("aria-valuetext", sentence);
    place.dataset.verdict = verdict;
    text.textContent = sentence;
  };

  const names = () => {
    const fields = ["username", "email", "name"].map((name) => field.form?.elements.namedItem(name));
    return fields.flatMap((other) => (other instanceof HTMLInputElement && other.value ? [other.value] : []));
  };

  const ask = async () => {
    asked = new AbortController();
    try {
      const judged = await judge(field.value, names(), asked.signal);
      if (judged) show(judged.score, judged.sentence, judged.accepted ? "good" : "bad");
      else show(null, "", "");
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) show(null, "", "");
    }
  };

  field.addEventListener("input", () => {
    clearTimeout(timer);
    asked.abort();
    // As the server counts: characters, and after normalisation.
    const missing = least - [...field.value.normalize("NFC")].length;
    if (field.value === "") show(null, "", "");
    else if (missing > 0) show(0, (place.dataset.missing ?? "").replace("%{count}", String(missing)), "bad");
    else {
      // What was said of a shorter password is not true of this one.
      if (place.dataset.verdict === "good") place.dataset.verdict = "";
      timer = setTimeout(ask, PAUSE);
    }
  });
}

for (const place of document.querySelectorAll("[data-strength]")) {
  const field = document.getElementById(place.getAttribute("data-strength") ?? "");
  if (place instanceof HTMLElement && field instanceof HTMLInputElement) attach(place, field);
}

export {};
