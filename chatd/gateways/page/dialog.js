// @ts-check
/** The question before what cannot be undone, with what has to be said for it. */

import { why } from "./connection.js";
import { find } from "./text.js";

/**
 * @typedef {object} Question
 * @property {string} title
 * @property {string} text
 * @property {string} action what the button says
 * @property {HTMLElement[]} [fields]
 * @property {() => Promise<unknown>} act throws Refused or Lost
 */

/**
 * Asks, and does it; what was refused is told, and can be tried again or left.
 * @param {Question} question
 * @returns {Promise<void>} once the question is gone
 */
export function confirmed({ title, text, action, fields = [], act }) {
  const dialog = find("question", HTMLDialogElement);
  const form = /** @type {HTMLFormElement} */ (dialog.firstElementChild);
  const yes = find("question-yes", HTMLButtonElement);
  const fault = find("question-error", HTMLParagraphElement);
  find("question-title", HTMLHeadingElement).textContent = title;
  find("question-text", HTMLParagraphElement).textContent = text;
  find("question-fields", HTMLDivElement).replaceChildren(...fields);
  find("question-no", HTMLButtonElement).onclick = () => dialog.close();
  yes.textContent = action;
  yes.disabled = false;
  fault.textContent = "";
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    yes.disabled = true;
    let said = "";
    try {
      await act();
    } catch (error) {
      said = why(error);
    }
    // Who did not wait for the answer may be at another question.
    if (form.onsubmit !== submit) return;
    yes.disabled = false;
    fault.textContent = said;
    if (!said) dialog.close();
  };
  form.onsubmit = submit;
  dialog.showModal();
  if (!fields.length) yes.focus();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      // What was taken away stands nowhere any more.
      find("question-text", HTMLParagraphElement).textContent = "";
      resolve();
    };
  });
}
