// @ts-check
/** What a newcomer is asked, once: a name; a token, where the server takes nobody without one. */

import { why } from "./connection.js";
import { shared } from "./storage.js";
import { find } from "./text.js";

export class Welcome {
  #chat;
  #done;
  #dialog = find("welcome", HTMLDialogElement);
  #nameForm = find("welcome-name", HTMLFormElement);
  #name = find("welcome-nick", HTMLInputElement);
  #nameFault = find("welcome-name-error", HTMLParagraphElement);
  #tokenForm = find("welcome-token", HTMLFormElement);
  #token = find("token-input", HTMLInputElement);
  #tokenFault = find("token-error", HTMLParagraphElement);
  #byToken = find("by-token", HTMLDetailsElement);
  #signIn = find("sign-in", HTMLButtonElement);
  #tokens;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {boolean} tokens whether the server takes any
   * @param {() => void} done
   */
  constructor(chat, tokens, done) {
    this.#tokens = tokens;
    this.#chat = chat;
    this.#done = done;
    this.#nameForm.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#called();
    });
    this.#name.addEventListener("input", () => (this.#nameFault.textContent = ""));
    this.#tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = this.#token.value.trim();
      if (token) chat.identity.become(token);
    });
    find("welcome-later", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("cancel", (event) => {
      // Without a token there is nothing behind it.
      if (chat.identity.wanted) event.preventDefault();
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
    if (identity.wanted || identity.fault) this.#show(true);
    else if (ready && guest && !shared.get("named", false)) this.#show(false);
  }

  /** @param {boolean} token whether it is a token that is asked for */
  #show(token) {
    const { identity } = this.#chat;
    this.#nameForm.hidden = token;
    this.#byToken.open = token;
    this.#tokenFault.textContent = identity.fault;
    identity.fault = "";
    find("welcome-later", HTMLButtonElement).hidden = identity.wanted;
    this.#dialog.showModal();
    (token ? this.#token : this.#name).focus();
  }

  async #called() {
    const nick = this.#name.value.trim();
    if (!nick) {
      this.#dialog.close();
      return;
    }
    try {
      await this.#chat.rename(nick);
      this.#dialog.close();
    } catch (error) {
      this.#nameFault.textContent = why(error);
    }
  }
}
