// @ts-check
/**
 * Shows the button beside a password field that makes what was typed readable.
 * The button is `hidden` in the page, so without JavaScript there is none;
 * `data-reveal` holds the id of the field.
 */

for (const button of document.querySelectorAll("button[data-reveal]")) {
  const field = document.getElementById(button.getAttribute("data-reveal") ?? "");
  if (!(button instanceof HTMLButtonElement) || !(field instanceof HTMLInputElement)) continue;

  /** @param {boolean} shown */
  const show = (shown) => {
    field.type = shown ? "text" : "password";
    button.setAttribute("aria-pressed", String(shown));
  };

  button.addEventListener("click", () => show(field.type === "password"));
  // A readable password must not reach the browser's list of remembered form entries.
  field.form?.addEventListener("submit", () => show(false));
  button.hidden = false;
}

export {};
