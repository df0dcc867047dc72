// @ts-check
/** A popup menu beside the element that opened it. */

import { element, find } from "./text.js";

/** @typedef {[text: string, act: () => void]} Item */

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

  /** @param {Element} at @param {string} label @param {Item[]} items */
  show(at, label, items) {
    this.#menu.replaceChildren(...items.map(([text, act]) => this.#item(text, act)));
    this.#menu.setAttribute("aria-label", label);
    this.#menu.showPopover();
    const { left, bottom, top } = at.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#menu;
    const below = bottom + height + 8 < innerHeight;
    this.#menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.#menu.style.top = `${below ? bottom + 4 : Math.max(8, top - height - 4)}px`;
    this.#menu.querySelector("button")?.focus();
  }

  /** @param {string} text @param {() => void} act */
  #item(text, act) {
    const button = element("button", { type: "button", role: "menuitem" }, text);
    button.addEventListener("click", () => {
      this.#menu.hidePopover();
      act();
    });
    return button;
  }
}
