// @ts-check
/** The bar with Reply, Edit and Delete, in the message that is hovered or has the focus. */

import { actionIn } from "./commands.js";
import { confirmAction } from "./dialog.js";
import { element, find, icon } from "./text.js";

const ICONS = {
  reply: "M10 8 5 13l5 5M5 13h9a5 5 0 0 1 5 5",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  delete: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};

/** @typedef {keyof typeof ICONS} Act */

/** @type {Record<string, Act>} */
const KEYS = { r: "reply", e: "edit", Delete: "delete" };

export class Actions {
  #chat;
  #composer;
  #list = find("log", HTMLOListElement);
  // It moves within a live region: it must not be announced.
  #bar = element("div", {
    ...{ class: "actions", role: "group" },
    ...{ "aria-label": "Message actions", "aria-live": "off" },
  });
  /** @type {Record<Act, HTMLElement>} */
  #buttons;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {import("./composer.js").Composer} composer
   */
  constructor(chat, composer) {
    this.#chat = chat;
    this.#composer = composer;
    this.#buttons = {
      reply: this.#button("reply", "Reply", "R"),
      edit: this.#button("edit", "Edit", "E"),
      delete: this.#button("delete", "Delete", "Delete"),
    };
    for (const kind of ["pointerover", "focusin"])
      this.#list.addEventListener(kind, (event) => this.#showBar(event.target));
    this.#list.addEventListener("pointerleave", () => {
      if (!this.#bar.contains(document.activeElement)) this.#bar.remove();
    });
    find("scroller", HTMLDivElement).addEventListener("keydown", (event) =>
      this.#keyPressed(event),
    );
  }

  /** @param {Act} act @param {string} name @param {string} key */
  #button(act, name, key) {
    const button = element(
      "button",
      { type: "button", class: "icon", "aria-label": name, title: `${name} (${key})` },
      icon(ICONS[act]),
    );
    button.addEventListener("click", () => {
      const node = this.#bar.closest("li");
      if (node) this.#act(act, node);
    });
    this.#bar.append(button);
    return button;
  }

  /** @param {HTMLElement} node */
  #message(node) {
    return this.#chat.current?.messages.get(Number(node.dataset.seq)) ?? null;
  }

  /** @param {Act} act @param {import("./room.js").Message} message */
  #allowed(act, message) {
    if (message.deleted) return false;
    const mine = message.user === this.#chat.user;
    return act === "reply" || mine || (act === "delete" && this.#chat.op);
  }

  /** @param {EventTarget | null} target */
  #showBar(target) {
    const found = target instanceof Element ? target.closest("li[data-seq]") : null;
    const node = /** @type {HTMLElement | null} */ (found);
    const message = node && this.#message(node);
    if (!node || !message || message.deleted) {
      this.#bar.remove();
      return;
    }
    if (this.#bar.parentElement === node) return;
    for (const act of /** @type {Act[]} */ (Object.keys(ICONS)))
      this.#buttons[act].hidden = !this.#allowed(act, message);
    node.append(this.#bar);
  }

  /** @param {KeyboardEvent} event */
  #keyPressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = event.target;
    const node = at instanceof HTMLElement && at.matches("li[data-seq]") ? at : null;
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      this.#step(node, event.key === "ArrowUp" ? -1 : 1);
      event.preventDefault();
    } else if (node && KEYS[event.key]) {
      event.preventDefault();
      this.#act(KEYS[event.key], node);
    }
  }

  /** @param {HTMLElement | null} from @param {number} by */
  #step(from, by) {
    const nodes = /** @type {HTMLElement[]} */ ([...this.#list.querySelectorAll("li[data-seq]")]);
    const at = from ? nodes.indexOf(from) + by : nodes.length - 1;
    if (at >= nodes.length) this.#composer.focus();
    else nodes[Math.max(0, at)]?.focus();
  }

  /** @param {Act} act @param {HTMLElement} node */
  #act(act, node) {
    const room = this.#chat.current;
    const message = this.#message(node);
    if (!room || !message || !this.#allowed(act, message)) return;
    if (act === "reply") this.#composer.reply(message);
    else if (act === "edit") this.#composer.edit(message);
    else void this.#delete(room, message);
  }

  /** @param {import("./room.js").Room} room @param {import("./room.js").Message} message */
  async #delete(room, message) {
    const quote = (actionIn(message.text) ?? message.text).replace(/\s+/g, " ").slice(0, 120);
    await confirmAction({
      title: "Delete this message?",
      text: `“${quote}” will be deleted for everyone.`,
      action: "Delete",
      danger: true,
      act: () => this.#chat.ask({ do: "delete", room: room.name, seq: message.seq }),
    });
  }
}
