// @ts-check
/** The header: room name, topic and Leave button or, for operators, the room menu. */

import { explain } from "./connection.js";
import { element, find } from "./text.js";

const LEAVE = "Leave this room";

export class Title {
  #chat;
  #leave = find("leave", HTMLButtonElement);
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
    const leave = () => {
      if (chat.current) void chat.leave(chat.current);
    };
    this.#leave.addEventListener("click", leave);
    this.#menu.addEventListener("click", () => {
      const room = chat.current;
      if (!room) return;
      menu.show(this.#menu, "Room menu", [...moderation.roomItems(room), [LEAVE, leave]]);
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
    this.#leave.hidden = !room || moderates;
    this.#leave.ariaLabel = this.#leave.title = room?.direct ? "Close this conversation" : LEAVE;
    const topic = room?.topic ?? "";
    const may = room?.maySetTopic ?? false;
    const text = topic || "Set a topic";
    if (this.#topic.textContent !== text) this.#topic.textContent = text;
    this.#topic.classList.toggle("none", !topic);
    this.#topic.title = topic && may ? `${topic}\n(click to change)` : topic;
    this.#topic.disabled = !may;
    this.#topic.hidden = !this.#form.hidden || !(topic || may);
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
