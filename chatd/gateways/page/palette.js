// @ts-check
/** Spreads hues over the users of a room, so that their names are easy to tell apart. */

// More hues are hard to tell apart.
const HUES = 24;
const DEGREES = 360 / HUES;
// Users whose hues are this far apart are easy to tell apart.
const APART = 2;

// FNV-1a of the user id, not the nick: a hue stays with its user and cannot be copied.
/** @param {string} user */
function preferred(user) {
  let hash = 0x811c9dc5;
  for (let index = 0; index < user.length; index += 1) {
    hash = Math.imul(hash ^ user.charCodeAt(index), 0x01000193);
  }
  return (hash >>> 0) % HUES;
}

/** @param {number} one @param {number} other */
function distance(one, other) {
  const between = Math.abs(one - other);
  return Math.min(between, HUES - between);
}

export class Palette {
  /** @type {Map<string, number>} */
  #slots = new Map();
  /** How many users have each hue. */
  #users = new Array(HUES).fill(0);

  /** A user's hue in degrees; it stays the same. @param {string} user */
  hue(user) {
    let slot = this.#slots.get(user);
    if (slot === undefined) {
      slot = this.#choose(preferred(user));
      this.#slots.set(user, slot);
      this.#users[slot] += 1;
    }
    return slot * DEGREES;
  }

  /** The least used hue, apart from those in use, next to the wanted one. @param {number} wanted */
  #choose(wanted) {
    const used = this.#users.flatMap((users, slot) => (users ? [slot] : []));
    const cost = (/** @type {number} */ slot) => {
      const nearest = Math.min(APART, ...used.map((other) => distance(slot, other)));
      return (this.#users[slot] * HUES - nearest) * HUES + distance(slot, wanted);
    };
    const slots = this.#users.map((_, slot) => slot);
    return slots.reduce((best, slot) => (cost(slot) < cost(best) ? slot : best));
  }
}
