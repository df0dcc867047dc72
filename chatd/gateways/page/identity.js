// @ts-check
/**
 * The user's identity: by token, else the guest of the stored secret, else a new guest.
 *
 * A token is kept for this tab. New tabs of the browser learn it from the tabs that are signed in;
 * only if the user asks for it, the browser keeps it when all of them are closed.
 */

import { Refused } from "./connection.js";
import { own, shared } from "./storage.js";

/** The close code for a missing, invalid or expired token. */
const UNAUTHORIZED = 4502;

// How long a new tab waits for a tab that is signed in. Tabs in the background answer more slowly.
const ANSWER_MS = 1_000;

export class Identity {
  /** Whether the server takes no guests. */
  tokenRequired = false;
  /** Why the last token was refused, or "". */
  error = "";
  /** Called when another tab of the browser has signed in, or a name was chosen there. */
  changedElsewhere = () => {};
  /** Called when the user has signed out in another tab. */
  forgottenElsewhere = () => {};

  #tabs = new BroadcastChannel("chatd");

  constructor() {
    this.#tabs.addEventListener("message", ({ data }) => {
      if (data === "who?" && this.#token) this.#tabs.postMessage({ token: this.#token });
      else if (data.forgotten && data.forgotten === own.get("token", null)) {
        this.#drop("");
        this.forgottenElsewhere();
      }
    });
    // `named` is shared once the question for a name is answered, `signed-in` at each sign-in.
    addEventListener("storage", ({ key }) => {
      if (key === "chatd.named" || key === "chatd.signed-in")
        void this.askOtherTabs().then(() => this.changedElsewhere());
    });
  }

  get #token() {
    return own.get("token", null) ?? shared.get("token", null);
  }

  /** Whether the user signed in on this page, and can sign out here. */
  get signedIn() {
    return Boolean(this.#token);
  }

  /** Learns the token from another tab, if one is signed in. */
  async askOtherTabs() {
    if (this.#token || !shared.get("signed-in", 0)) return;
    const token = await new Promise((resolve) => {
      const answered = (/** @type {MessageEvent} */ { data }) => data.token && resolve(data.token);
      this.#tabs.addEventListener("message", answered);
      setTimeout(() => {
        this.#tabs.removeEventListener("message", answered);
        resolve(null);
      }, ANSWER_MS);
      this.#tabs.postMessage("who?");
    });
    if (token) own.set("token", token);
    else shared.set("signed-in", null);
  }

  /** For Socket.IO's `auth`. */
  get credentials() {
    const token = this.#token;
    return token ? { token } : { session: shared.get("session", null) };
  }

  /**
   * Keeps a token for this tab and new ones.
   * @param {string} token
   * @param {boolean} always whether also when all tabs are closed
   */
  keep(token, always) {
    own.set("token", token);
    if (always) shared.set("token", token);
    shared.set("signed-in", Date.now());
  }

  /** Signs out in all tabs. Who the user is then is asked for again. */
  forget() {
    const forgotten = this.#token;
    this.#drop("");
    shared.set("named", null);
    this.#tabs.postMessage({ forgotten });
  }

  /**
   * Returns whether to connect again without the token.
   * @param {import("./connection.js").State} state
   */
  connectionChanged(state) {
    if (state.name !== "closed" || state.code !== UNAUTHORIZED) return false;
    if (this.#token) {
      this.#drop(state.reason);
      return true;
    }
    this.tokenRequired = true;
    return false;
  }

  /**
   * Returns the identity on this connection; null if a token is needed.
   * @param {any} hello
   * @param {import("./chat.js").Ask} ask
   */
  async authenticate(hello, ask) {
    // Not a guest: the token came with the request.
    if (hello.user && !hello.session) return hello;
    const token = this.#token;
    if (token) {
      try {
        return await ask({ do: "auth", token });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.#drop(error.message);
      }
    }
    this.tokenRequired = !hello.user;
    return this.tokenRequired ? null : await this.#guest(hello, ask);
  }

  /**
   * All tabs are one guest: the stored secret wins over this connection's new one.
   * @param {any} hello
   * @param {import("./chat.js").Ask} ask
   */
  async #guest(hello, ask) {
    let refused = null;
    for (;;) {
      const session = shared.get("session", null);
      // Another tab may have stored a newer one.
      if (!session || session === refused) return hello;
      try {
        return await ask({ do: "auth", session });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        refused = session;
      }
    }
  }

  /** @param {string} error */
  #drop(error) {
    const token = this.#token;
    this.error = error;
    own.set("token", null);
    if (shared.get("token", null) === token) shared.set("token", null);
  }
}
