// @ts-check
/** What the page stores about direct messages: nicks and closed conversations. */

import { shared } from "./storage.js";

export class Directs {
  /** Conversations that are hidden until a new message arrives. */
  closed = new Set(shared.get("closed", /** @type {string[]} */ ([])));

  /** The name of two users' room. @param {string} one @param {string} other */
  roomOf(one, other) {
    return `@${[one, other].sort().join(",")}`;
  }

  /** Whether a room is not this user's. @param {string} name @param {string} user */
  isForeign(name, user) {
    return name.includes(",") && !name.slice(1).split(",").includes(user);
  }

  /** The other user's last known nick. @param {string} name */
  nickOf(name) {
    return this.#nicks[name] ?? "";
  }

  /** @param {string} name @param {string} nick */
  setNick(name, nick) {
    const nicks = this.#nicks;
    if (nicks[name] !== nick) shared.set("peers", { ...nicks, [name]: nick });
  }

  /** @param {string} name */
  close(name) {
    this.closed.add(name);
    shared.set("closed", [...this.closed]);
  }

  /** @param {Iterable<string>} names */
  reopen(names) {
    for (const name of names) this.closed.delete(name);
    shared.set("closed", [...this.closed]);
  }

  get #nicks() {
    return shared.get("peers", /** @type {Record<string, string>} */ ({}));
  }
}
