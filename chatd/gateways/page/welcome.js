// @ts-check
/** The first dialog: a name or, if the server takes no guests, a token. */

import { explain } from "./connection.js";
import { shared } from "./storage.js";
import { find } from "./text.js";

export class Welcome {
  #chat;
  #done;
  #dialog = find("welcome", HTMLDialogElement);
  #nameForm = find("welcome-name", HTMLFormElement);
  #name = find("welcome-nick", HTMLInputElement);
  #nameError = find("welcome-name-error", HTMLParagraphElement);
  #tokenForm = find("welcome-token", HTMLFormElement);
  #token = find("token-input", HTMLInputElement);
  #tokenError = find("token-error", HTMLParagraphElement);
  #byToken = find("by-token", HTMLDetailsElement);
  #signIn = find("sign-in", HTMLButtonElement);
  #tokens;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {boolean} tokens whether the server takes tokens
   * @param {() => void} done
   */
  constructor(chat, tokens, done) {
    this.#tokens = tokens;
    this.#chat = chat;
    this.#done = done;
    this.#nameForm.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submitName();
    });
    this.#name.addEventListener("input", () => (this.#nameError.textContent = ""));
    this.#tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = this.#token.value.trim();
      if (token) chat.identity.useToken(token);
    });
    find("welcome-later", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("cancel", (event) => {
      // Without a token there is no chat behind it.
      if (chat.identity.tokenRequired) event.preventDefault();
    });
    this.#dialog.addEventListener("close", () => {
      shared.set("named", true);
      this.#done();
    });
    this.#byToken.hidden = !tokens;
    this.#signIn.addEventListener("click", () => this.#show(true));
  }

  render() {
    const { guest, identity, ready } = this.#chat;
    this.#signIn.hidden = !this.#tokens || !ready || !guest;
    if (this.#dialog.open) return;
    if (identity.tokenRequired || identity.error) this.#show(true);
    else if (ready && guest && !shared.get("named", false)) this.#show(false);
  }

  /** @param {boolean} token whether to ask for a token */
  #show(token) {
    const { identity, nick } = this.#chat;
    this.#nameForm.hidden = token;
    this.#byToken.open = token;
    this.#tokenError.textContent = identity.error;
    identity.error = "";
    const later = find("welcome-later", HTMLButtonElement);
    later.textContent = `Continue as ${nick}`;
    later.hidden = identity.tokenRequired;
    this.#dialog.showModal();
    (token ? this.#token : this.#name).focus();
  }

  async #submitName() {
    const nick = this.#name.value.trim();
    if (!nick) {
      this.#dialog.close();
      return;
    }
    try {
      await this.#chat.rename(nick);
      this.#dialog.close();
    } catch (error) {
      this.#nameError.textContent = explain(error);
    }
  }
}
