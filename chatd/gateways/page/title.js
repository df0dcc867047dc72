// @ts-check
/**
 * The header: room name, topic and, to leave, a button of its own or, for operators, an item of the
 * room menu. Direct messages are not left but closed.
 */

import { explain } from "./connection.js";
import { confirmAction } from "./dialog.js";
import { element, find } from "./text.js";

const LEAVE = "Leave this room";

export class Title {
  #chat;
  #leave = find("leave", HTMLButtonElement);
  #close = find("conversation-close", HTMLButtonElement);
  #menu = find("room-menu", HTMLButtonElement);
  #name = find("room-name", HTMLHeadingElement);
  #topic = find("room-topic", HTMLButtonElement);
  #form = find("topic-form", HTMLFormElement);
  #input = find("topic-input", HTMLInputElement);
  #error = find("topic-error", HTMLParagraphElement);
  /** @type {import("./room.js").Room | null} */
  #room = null;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {import("./menu.js").Menu} menu
   * @param {import("./moderation.js").Moderation} moderation
   */
  constructor(chat, menu, moderation) {
    this.#chat = chat;
    const leave = () => void this.#askToLeave();
    this.#leave.addEventListener("click", leave);
    this.#close.addEventListener("click", () => {
      if (chat.current) void chat.leave(chat.current);
    });
    this.#menu.addEventListener("click", () => {
      const room = chat.current;
      if (!room) return;
      /** @type {() => import("./menu.js").Item[]} */
      const items = () => [...moderation.roomItems(room), [LEAVE, leave]];
      void menu.show(this.#menu, "Room menu", items, chat.refreshSanctions());
    });
    this.#topic.addEventListener("click", () => this.#edit(true));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#set();
    });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.#edit(false);
    });
  }

  render() {
    const room = this.#chat.current;
    const label = room?.label ?? "";
    if (room !== this.#room) {
      this.#room = room;
      this.#form.hidden = true;
    }
    if (label !== this.#name.dataset.label) {
      this.#name.dataset.label = label;
      const hash = element("span", { class: "hash", "aria-hidden": "true" }, "#");
      const name = element("bdi", {}, label);
      this.#name.replaceChildren(...(room?.direct ? [name] : room ? [hash, name] : []));
    }
    // Either of them: a phone has no space for both.
    const moderates = Boolean(room) && this.#chat.op && !room?.direct;
    this.#menu.hidden = !moderates;
    this.#leave.hidden = !room || moderates || room.direct;
    this.#close.hidden = !room?.direct;
    const topic = room?.topic ?? "";
    const may = room?.maySetTopic ?? false;
    const text = topic || "Set a topic";
    if (this.#topic.textContent !== text) this.#topic.textContent = text;
    this.#topic.classList.toggle("none", !topic);
    this.#topic.title = topic && may ? `${topic}\n(click to change)` : topic;
    this.#topic.disabled = !may;
    this.#topic.hidden = !this.#form.hidden || !(topic || may);
  }

  async #askToLeave() {
    const room = this.#chat.current;
    if (!room) return;
    await confirmAction({
      title: `Leave #${room.name}?`,
      text: "You can join it again from the list of rooms.",
      action: "Leave",
      act: () => this.#chat.leave(room),
    });
  }

  /** @param {boolean} on */
  #edit(on) {
    this.#form.hidden = !on;
    this.#error.textContent = "";
    if (on) this.#input.value = this.#chat.current?.topic ?? "";
    this.render();
    if (on) this.#input.select();
    else this.#topic.focus();
  }

  async #set() {
    const room = this.#chat.current;
    const text = this.#input.value.trim();
    try {
      if (room && text !== room.topic) await this.#chat.ask({ do: "topic", room: room.name, text });
      this.#edit(false);
    } catch (error) {
      this.#error.textContent = explain(error);
    }
  }
}
