// @ts-check
/** Who one is: by a token where there is one, else the guest of the stored secret, else a new one. */

import { Refused } from "./connection.js";
import { own, shared } from "./storage.js";

/** The close code for a token that is missing, no good or over. */
const UNAUTHORIZED = 4502;

export class Identity {
  /** Whether the daemon takes nobody without a token. */
  wanted = false;
  /** Why the last token was not taken; "" where none was refused. */
  fault = "";

  /** What is given with the first words of a connection by polling. */
  get offer() {
    const token = own.get("token", null);
    return token ? { token } : { session: shared.get("session", null) };
  }

  /** Takes a token for this tab; with it all begins anew. @param {string} token */
  become(token) {
    own.set("token", token);
    location.reload();
  }

  /** @param {import("./connection.js").State} state */
  watch(state) {
    if (state.name !== "closed" || state.code !== UNAUTHORIZED) return;
    this.#drop(state.reason);
    this.wanted = true;
  }

  /**
   * Gives who we are on this connection; null where that takes a token which is not there.
   * @param {any} hello
   * @param {import("./chat.js").Ask} ask
   */
  async settle(hello, ask) {
    const token = own.get("token", null);
    // Without a secret it is no guest's greeting: the token came with the request.
    if (hello.user && !hello.session) return hello;
    if (token) {
      try {
        return await ask({ do: "auth", token });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        this.#drop(error.message);
      }
    }
    this.wanted = !hello.user;
    return this.wanted ? null : await this.#guest(hello, ask);
  }

  /**
   * All tabs are one guest: the stored secret wins over the one this connection was greeted with.
   * @param {any} hello
   * @param {import("./chat.js").Ask} ask
   */
  async #guest(hello, ask) {
    let refused = null;
    for (;;) {
      const session = shared.get("session", null);
      // Another tab may have stored a new one meanwhile.
      if (!session || session === refused) return hello;
      try {
        return await ask({ do: "auth", session });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        refused = session;
      }
    }
  }

  /** @param {string} fault */
  #drop(fault) {
    if (own.get("token", null)) this.fault = fault;
    own.set("token", null);
  }
}
