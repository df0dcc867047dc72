// @ts-check
/** A popup menu beside the element that opened it. */

import { element, find } from "./text.js";

/** @typedef {[text: string, act: () => void, danger?: boolean]} Item */

export class Menu {
  #menu = find("menu", HTMLDivElement);

  constructor() {
    this.#menu.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const buttons = [...this.#menu.querySelectorAll("button")];
      const at = buttons.findIndex((button) => button === document.activeElement);
      buttons.at((at + by) % buttons.length)?.focus();
    });
  }

  /**
   * Shows a menu, and again if its items change while it is open.
   * @param {Element} at
   * @param {string} label
   * @param {() => Item[]} items
   * @param {Promise<void>} refreshed settles when the items may have changed
   */
  async show(at, label, items, refreshed) {
    this.#menu.setAttribute("aria-label", label);
    this.#menu.showPopover();
    const shown = items();
    this.#fill(at, shown);
    await refreshed;
    const open = this.#menu.matches(":popover-open") && this.#menu.ariaLabel === label;
    const names = (/** @type {Item[]} */ all) => all.map(([text]) => text).join();
    if (open && names(items()) !== names(shown)) this.#fill(at, items());
  }

  /** @param {Element} at @param {Item[]} items */
  #fill(at, items) {
    this.#menu.replaceChildren(...items.map((item) => this.#item(item)));
    const { left, bottom, top } = at.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#menu;
    const below = bottom + height + 8 < innerHeight;
    this.#menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.#menu.style.top = `${below ? bottom + 4 : Math.max(8, top - height - 4)}px`;
    this.#menu.querySelector("button")?.focus();
  }

  /** @param {Item} item */
  #item([text, act, danger = false]) {
    const looks = danger ? "danger" : "";
    const button = element("button", { type: "button", role: "menuitem", class: looks }, text);
    button.addEventListener("click", () => {
      this.#menu.hidePopover();
      act();
    });
    return button;
  }
}
