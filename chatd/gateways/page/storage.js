// @ts-check
/**
 * What outlives the page: the guest's secret, nick, rooms and read marks for all tabs
 * (localStorage); drafts and unsent messages for this tab (sessionStorage).
 */

const PREFIX = "chatd.";

// Reading `localStorage` itself throws where the browser blocks it: then nothing is kept.
/** @param {"localStorage" | "sessionStorage"} name */
function open(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

/** One browser store, with JSON values under names of ours. It never throws. */
export class Storage {
  #store;
  /** @type {Map<string, string>} */
  #fallback = new Map();

  /** @param {"localStorage" | "sessionStorage"} name */
  constructor(name) {
    this.#store = open(name);
  }

  /**
   * @template T
   * @param {string} name
   * @param {T} otherwise given where there is nothing, or nothing readable
   * @returns {T}
   */
  get(name, otherwise) {
    try {
      const text = this.#store ? this.#store.getItem(PREFIX + name) : this.#fallback.get(name);
      return text ? JSON.parse(text) : otherwise;
    } catch {
      return otherwise;
    }
  }

  /**
   * @param {string} name
   * @param {unknown} value null removes it
   */
  set(name, value) {
    const text = JSON.stringify(value);
    this.#fallback.set(name, text);
    try {
      if (value === null) this.#store?.removeItem(PREFIX + name);
      else this.#store?.setItem(PREFIX + name, text);
    } catch {
      // Full, or not ours to write: the page works on, and forgets when it is closed.
    }
  }
}

export const shared = new Storage("localStorage");
export const own = new Storage("sessionStorage");
