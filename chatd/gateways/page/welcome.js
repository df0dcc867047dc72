// @ts-check
/**
 * The first dialog: a name or, if the server takes no guests, a token. Until it is answered the
 * user is in no room.
 */

import { explain } from "./connection.js";
import { confirmAction } from "./dialog.js";
import { find } from "./text.js";

export class Welcome {
  #chat;
  #dialog = find("welcome", HTMLDialogElement);
  #nameForm = find("welcome-name", HTMLFormElement);
  #name = find("welcome-nick", HTMLInputElement);
  #nameError = find("welcome-name-error", HTMLParagraphElement);
  #tokenForm = find("welcome-token", HTMLFormElement);
  #token = find("token-input", HTMLInputElement);
  #keep = find("token-keep", HTMLInputElement);
  #tokenError = find("token-error", HTMLParagraphElement);
  #byToken = find("by-token", HTMLDetailsElement);
  #later = find("welcome-later", HTMLButtonElement);
  #signIn = find("sign-in", HTMLButtonElement);
  #signOut = find("sign-out", HTMLButtonElement);
  #tokens;
  #words;
  /** Whether the dialog is the question that comes before entering. */
  #isQuestion = false;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {boolean} tokens whether the server takes tokens
   * @param {string} greeting the operator's words of welcome, or ""
   */
  constructor(chat, tokens, greeting) {
    this.#tokens = tokens;
    this.#words = greeting;
    this.#chat = chat;
    this.#nameForm.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submitName();
    });
    this.#name.addEventListener("input", () => (this.#nameError.textContent = ""));
    this.#tokenForm.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submitToken();
    });
    this.#later.addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("cancel", (event) => {
      // Without a token there is no chat behind it.
      if (chat.identity.tokenRequired) event.preventDefault();
    });
    this.#dialog.addEventListener("close", () => {
      this.#isQuestion = false;
      chat.enter();
    });
    find("welcome-title", HTMLHeadingElement).textContent = `Welcome to ${location.host}`;
    this.#byToken.hidden = !tokens;
    this.#signIn.addEventListener("click", () => this.#show(true));
    this.#signOut.addEventListener("click", () => {
      void confirmAction({
        title: "Sign out?",
        text: "This browser forgets your token. You need it to sign in again.",
        action: "Sign out",
        act: () => chat.signOut(),
      });
    });
  }

  render() {
    const { asking, guest, identity, nick, ready } = this.#chat;
    this.#signIn.hidden = !this.#tokens || !ready || !guest;
    this.#signOut.hidden = !ready || !identity.signedIn;
    this.#later.textContent = `Continue as ${nick}`;
    this.#later.hidden = identity.tokenRequired;
    const asked = asking || identity.tokenRequired;
    if (asked && !this.#dialog.open) {
      this.#show(identity.tokenRequired || Boolean(identity.error));
      this.#isQuestion = true;
    } else if (ready && this.#isQuestion) this.#dialog.close(); // Answered in another tab.
  }

  /** @param {boolean} token whether to ask for a token */
  #show(token) {
    const { identity } = this.#chat;
    this.#nameForm.hidden = token;
    this.#byToken.open = token;
    const names = { nick: this.#chat.nick, room: this.#chat.current?.name ?? "" };
    const greeting = find("welcome-greeting", HTMLParagraphElement);
    greeting.textContent = this.#words.replace(
      /\{(nick|room)\}/g,
      (_, name) => names[/** @type {"nick" | "room"} */ (name)],
    );
    greeting.hidden = !this.#words;
    this.#tokenError.textContent = identity.error;
    identity.error = "";
    this.#dialog.showModal();
    (token ? this.#token : this.#name).focus();
  }

  async #submitName() {
    const nick = this.#name.value.trim();
    if (!nick) {
      this.#nameError.textContent = `Type a name first, or continue as ${this.#chat.nick}.`;
      return;
    }
    try {
      await this.#chat.rename(nick);
      this.#dialog.close();
    } catch (error) {
      this.#nameError.textContent = explain(error);
      this.#name.select();
    }
  }

  async #submitToken() {
    const token = this.#token.value.trim();
    if (!token) return;
    this.#tokenError.textContent = "";
    try {
      await this.#chat.signIn(token, this.#keep.checked);
      this.#token.value = "";
      this.#dialog.close();
    } catch (error) {
      this.#tokenError.textContent = explain(error);
      this.#token.select();
    }
  }
}
