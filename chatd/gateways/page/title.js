// @ts-check
/** What stands above the messages: which room it is, and what it is about, which one may say. */

import { why } from "./connection.js";
import { element, find } from "./text.js";

export class Title {
  #chat;
  #name = find("room-name", HTMLHeadingElement);
  #topic = find("room-topic", HTMLButtonElement);
  #form = find("topic-form", HTMLFormElement);
  #input = find("topic-input", HTMLInputElement);
  #fault = find("topic-error", HTMLParagraphElement);
  /** @type {import("./room.js").Room | null} */
  #room = null;

  /** @param {import("./chat.js").Chat} chat */
  constructor(chat) {
    this.#chat = chat;
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
    const topic = room?.topic ?? "";
    const text = topic || "Set a topic";
    if (this.#topic.textContent !== text) this.#topic.textContent = text;
    this.#topic.classList.toggle("none", !topic);
    this.#topic.title = topic ? `${topic}\n(click to change it)` : "";
    // Only where one surely may is one asked to.
    this.#topic.hidden =
      !this.#form.hidden || !(topic || (room && room.kept && (room.direct || this.#chat.op)));
  }

  /** @param {boolean} on */
  #edit(on) {
    this.#form.hidden = !on;
    this.#fault.textContent = "";
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
      this.#fault.textContent = why(error);
    }
  }
}
