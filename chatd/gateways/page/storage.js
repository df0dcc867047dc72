// @ts-check
/**
 * What survives a reload: the guest's secret, nick and rooms for all tabs (localStorage); token,
 * drafts and unsent messages for this tab (sessionStorage). identity.js says when a token is shared.
 */

const PREFIX = "chatd.";

// Where the browser blocks storage, reading `localStorage` throws: then nothing is stored.
/** @param {"localStorage" | "sessionStorage"} name */
function open(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

/** A browser store of JSON values. It never throws. */
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
   * @param {T} otherwise returned if nothing readable is there
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
      // Full or blocked: the value lives as long as the page.
    }
  }
}

export const shared = new Storage("localStorage");
export const own = new Storage("sessionStorage");
