// @ts-check
/** What the page stores about direct messages: nicks and closed conversations. */

import { shared } from "./storage.js";

/** A user's id in a room's name. @param {string} user */
const encoded = (user) => user.replace(/%/g, "%25").replace(/,/g, "%2C");
/** @param {string} name */
const decoded = (name) => name.replace(/%2C/g, ",").replace(/%25/g, "%");

export class Directs {
  /** Conversations that are hidden until a new message arrives. */
  closed = new Set(shared.get("closed", /** @type {string[]} */ ([])));

  /** The name of two users' room. @param {string} one @param {string} other */
  roomOf(one, other) {
    return `@${[one, other].sort().map(encoded).join(",")}`;
  }

  /** The two users of a room. @param {string} name */
  usersOf(name) {
    return name.slice(1).split(",").map(decoded);
  }

  /** Whether a room is not this user's. @param {string} name @param {string} user */
  isForeign(name, user) {
    return name.includes(",") && !this.usersOf(name).includes(user);
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
