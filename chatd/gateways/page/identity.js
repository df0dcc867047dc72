// @ts-check
/** The user's identity: by token, else the guest of the stored secret, else a new guest. */

import { Refused } from "./connection.js";
import { own, shared } from "./storage.js";

/** The close code for a missing, invalid or expired token. */
const UNAUTHORIZED = 4502;

export class Identity {
  /** Whether the server takes no guests. */
  tokenRequired = false;
  /** Why the last token was refused, or "". */
  error = "";

  /** For Socket.IO's `auth`. */
  get credentials() {
    const token = own.get("token", null);
    return token ? { token } : { session: shared.get("session", null) };
  }

  /** Signs this tab in and reloads the page. @param {string} token */
  useToken(token) {
    own.set("token", token);
    location.reload();
  }

  /** @param {import("./connection.js").State} state */
  connectionChanged(state) {
    if (state.name !== "closed" || state.code !== UNAUTHORIZED) return;
    this.#drop(state.reason);
    this.tokenRequired = true;
  }

  /**
   * Returns the identity on this connection; null if a token is needed.
   * @param {any} hello
   * @param {import("./chat.js").Ask} ask
   */
  async authenticate(hello, ask) {
    const token = own.get("token", null);
    // Not a guest: the token came with the request.
    if (hello.user && !hello.session) return hello;
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
    if (own.get("token", null)) this.error = error;
    own.set("token", null);
  }
}
