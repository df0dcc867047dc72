// @ts-check
/** The menu of a user: direct messages and, for operators, moderation. */

import { find } from "./text.js";

// The authors' names beside their messages.
const NAMES = ".who .nick, .action .nick";

export class People {
  #chat;
  #menu;
  #moderation;
  #open;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {import("./menu.js").Menu} menu
   * @param {import("./moderation.js").Moderation} moderation
   * @param {(name: string) => Promise<void>} open
   */
  constructor(chat, menu, moderation, open) {
    this.#chat = chat;
    this.#menu = menu;
    this.#moderation = moderation;
    this.#open = open;
    find("member-list", HTMLUListElement).addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("button") : null;
      const user = button?.closest("li")?.dataset.key;
      if (button && user) this.#show(button, user);
    });
    find("log", HTMLOListElement).addEventListener("click", (event) => {
      const at = event.target instanceof Element ? event.target.closest(NAMES) : null;
      const user = at?.closest("li")?.dataset.user;
      if (at && user) this.#show(at, user, at.textContent ?? "");
    });
  }

  /** @param {Element} at @param {string} user @param {string} nick if not a member */
  #show(at, user, nick = "") {
    const room = this.#chat.current;
    if (!room || user === this.#chat.user) return;
    const name = room.members.get(user)?.nick ?? nick;
    const items = () => {
      const acts = this.#chat.op ? this.#moderation.userItems(room, user, name) : [];
      return /** @type {import("./menu.js").Item[]} */ ([
        [`Message ${name}`, () => void this.#write(user, name)],
        ...acts,
      ]);
    };
    void this.#menu.show(at, name, items, this.#chat.refreshSanctions());
  }

  /** @param {string} user @param {string} nick */
  async #write(user, nick) {
    try {
      await this.#open(this.#chat.directRoom(user, nick));
    } catch (error) {
      this.#chat.report(error);
    }
  }
}
