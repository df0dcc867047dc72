// @ts-check
/** The dialog that confirms an action and asks for its details. */

import { explain } from "./connection.js";
import { find } from "./text.js";

/**
 * @typedef {object} Question
 * @property {string} title
 * @property {string} text
 * @property {string} action the button's label
 * @property {boolean} [danger] whether the button warns
 * @property {HTMLElement[]} [fields]
 * @property {() => Promise<unknown>} act throws Refused or Lost
 */

/**
 * Asks and performs the action. After an error the user can try again or cancel.
 * @param {Question} question
 * @returns {Promise<void>} once the dialog is closed
 */
export function confirmAction({ title, text, action, danger = false, fields = [], act }) {
  const dialog = find("question", HTMLDialogElement);
  const form = /** @type {HTMLFormElement} */ (dialog.firstElementChild);
  const yes = find("question-yes", HTMLButtonElement);
  const errorText = find("question-error", HTMLParagraphElement);
  find("question-title", HTMLHeadingElement).textContent = title;
  find("question-text", HTMLParagraphElement).textContent = text;
  find("question-fields", HTMLDivElement).replaceChildren(...fields);
  find("question-no", HTMLButtonElement).onclick = () => dialog.close();
  yes.textContent = action;
  yes.classList.toggle("danger", danger);
  yes.disabled = false;
  errorText.textContent = "";
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    yes.disabled = true;
    let message = "";
    try {
      await act();
    } catch (error) {
      message = explain(error);
    }
    // The dialog may have been opened for another action meanwhile.
    if (form.onsubmit !== submit) return;
    yes.disabled = false;
    errorText.textContent = message;
    if (!message) dialog.close();
  };
  form.onsubmit = submit;
  dialog.showModal();
  if (!fields.length) yes.focus();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      // No trace of a deleted message stays in the document.
      find("question-text", HTMLParagraphElement).textContent = "";
      resolve();
    };
  });
}
