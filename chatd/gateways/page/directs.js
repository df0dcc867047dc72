// @ts-check
/** What the page keeps of direct messages: what the others are called, and what was closed. */

import { shared } from "./storage.js";

export class Directs {
  /** Conversations that were closed here: they are not shown until somebody writes there. */
  closed = new Set(shared.get("closed", /** @type {string[]} */ ([])));

  /** The name of the room of two. @param {string} one @param {string} other */
  between(one, other) {
    return `@${[one, other].sort().join(",")}`;
  }

  /** Whether it is a conversation of others. @param {string} name @param {string} user */
  foreign(name, user) {
    return name.includes(",") && !name.slice(1).split(",").includes(user);
  }

  /** What the other one is called, as last heard. @param {string} name */
  peer(name) {
    return this.#peers[name] ?? "";
  }

  /** @param {string} name @param {string} nick */
  met(name, nick) {
    const peers = this.#peers;
    if (peers[name] !== nick) shared.set("peers", { ...peers, [name]: nick });
  }

  /** @param {string} name */
  close(name) {
    this.closed.add(name);
    shared.set("closed", [...this.closed]);
  }

  /** Those are open again. @param {Iterable<string>} names */
  open(names) {
    for (const name of names) this.closed.delete(name);
    shared.set("closed", [...this.closed]);
  }

  get #peers() {
    return shared.get("peers", /** @type {Record<string, string>} */ ({}));
  }
}
