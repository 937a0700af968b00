// @ts-check
/**
 * Shows the button that copies a field's text. It is `hidden` in the page, so that without JavaScript
 * there is none and the text is selected by hand; `data-copy` holds the id of the field, and
 * `data-copied` what the button says once that is done.
 */

for (const button of document.querySelectorAll("button[data-copy]")) {
  const field = document.getElementById(button.getAttribute("data-copy") ?? "");
  if (!(button instanceof HTMLButtonElement) || !(field instanceof HTMLInputElement)) continue;

  const copy = async () => {
    // There is no clipboard on a page by plain http, and leave to use it may be refused: then the old
    // way, and where that fails too the text is at least selected, one key away.
    const copied = await navigator.clipboard?.writeText(field.value).then(
      () => true,
      () => false,
    );
    field.select();
    if (copied || document.execCommand("copy")) {
      button.textContent = button.dataset.copied ?? button.textContent;
    }
  };

  button.addEventListener("click", copy);
  field.addEventListener("focus", () => field.select());
  button.setAttribute("aria-live", "polite");
  button.hidden = false;
}

export {};
