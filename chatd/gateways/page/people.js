// @ts-check
/** What one does with a person: write to them alone; as an operator, put them in their place. */

import { confirmed } from "./dialog.js";
import { element, find } from "./text.js";

const UNTIL = [
  ["600", "10 minutes"],
  ["3600", "an hour"],
  ["86400", "a day"],
  ["604800", "a week"],
  ["", "until it is taken back"],
];

/** @type {Record<"mute" | "kick" | "ban", {does: string, text: string}>} */
const ACTS = {
  mute: { does: "Mute", text: "They may read on, and say nothing." },
  kick: { does: "Kick", text: "They are put out, and may come back." },
  ban: { does: "Ban", text: "They are put out and kept out." },
};

export class People {
  #chat;
  #open;
  #menu = find("person", HTMLDivElement);

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {(name: string) => Promise<void>} open
   */
  constructor(chat, open) {
    this.#chat = chat;
    this.#open = open;
    this.#menu.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const buttons = [...this.#menu.querySelectorAll("button")];
      const at = buttons.findIndex((button) => button === document.activeElement);
      buttons.at((at + by) % buttons.length)?.focus();
    });
    find("member-list", HTMLUListElement).addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("button") : null;
      const user = button?.closest("li")?.dataset.key;
      if (button && user) this.#show(button, user);
    });
    find("log", HTMLOListElement).addEventListener("click", (event) => {
      const at = event.target instanceof Element ? event.target.closest(".who .nick") : null;
      const user = at?.closest("li")?.dataset.user;
      if (at && user) this.#show(at, user, at.textContent ?? "");
    });
  }

  /** @param {Element} at @param {string} user @param {string} nick as they were called, if not here */
  #show(at, user, nick = "") {
    const room = this.#chat.current;
    if (!room || user === this.#chat.user) return;
    const name = room.members.get(user)?.nick ?? nick;
    const items = [this.#item(`Message ${name}`, () => void this.#write(user, name))];
    if (this.#chat.op) {
      for (const act of /** @type {("mute" | "kick" | "ban")[]} */ (Object.keys(ACTS)))
        items.push(this.#item(`${ACTS[act].does} …`, () => void this.#act(act, user, name)));
      items.push(this.#item("Unmute", () => void this.#unmute(user)));
    }
    this.#menu.replaceChildren(...items);
    this.#menu.setAttribute("aria-label", name);
    this.#menu.showPopover();
    const { left, bottom, top } = at.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#menu;
    const below = bottom + height + 8 < innerHeight;
    this.#menu.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.#menu.style.top = `${below ? bottom + 4 : Math.max(8, top - height - 4)}px`;
    items[0].focus();
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

  /** @param {string} user @param {string} nick */
  async #write(user, nick) {
    try {
      await this.#open(this.#chat.directRoom(user, nick));
    } catch (error) {
      this.#chat.tell(error);
    }
  }

  /** @param {"mute" | "kick" | "ban"} act @param {string} user @param {string} nick */
  async #act(act, user, nick) {
    const room = this.#chat.current;
    if (!room) return;
    const reason = /** @type {HTMLInputElement} */ (
      element("input", { id: "act-reason", maxlength: "200", placeholder: "Reason, told to them" })
    );
    const until = /** @type {HTMLSelectElement} */ (
      element(
        "select",
        { id: "act-until", "aria-label": "For how long" },
        ...UNTIL.map(([value, text]) => element("option", { value }, text)),
      )
    );
    const where = /** @type {HTMLSelectElement} */ (
      element(
        "select",
        { id: "act-where", "aria-label": "Where" },
        ...(room.direct ? [] : [element("option", { value: room.name }, `in #${room.name}`)]),
        element("option", { value: "" }, "everywhere"),
      )
    );
    reason.setAttribute("aria-label", "Reason");
    const { does, text } = ACTS[act];
    await confirmed({
      title: `${does} ${nick}?`,
      text,
      action: does,
      fields: act === "kick" ? [reason, where] : [reason, where, until],
      act: () =>
        this.#chat.ask({
          do: act,
          user,
          room: where.value || undefined,
          seconds: act !== "kick" && until.value ? Number(until.value) : undefined,
          reason: reason.value.trim() || undefined,
        }),
    });
  }

  /** Both of what there may be: in the room, and everywhere. @param {string} user */
  async #unmute(user) {
    const room = this.#chat.current?.direct ? undefined : this.#chat.current?.name;
    try {
      if (room) await this.#chat.ask({ do: "unmute", user, room });
      await this.#chat.ask({ do: "unmute", user });
    } catch (error) {
      this.#chat.tell(error);
    }
  }
}
