// @ts-check
/**
 * Where one writes: something new, an answer, or another text for what one said. Enter sends,
 * Shift+Enter begins a line, Escape gives up; each room keeps its draft.
 */

import { why } from "./connection.js";
import { own } from "./storage.js";
import { counted, find } from "./text.js";

const ENCODER = new TextEncoder();
// Who hears nothing for a while takes it for over.
const TYPING_EVERY_MS = 3_000;

/** @typedef {{kind: "reply" | "edit", message: import("./room.js").Message}} About */

/** What the daemon would refuse is not sent: controls but tab and line feed. @param {string} text */
function cleaned(text) {
  return text.replace(/\r\n?/g, "\n").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}

export class Composer {
  #chat;
  #said;
  #text = find("composer-text", HTMLTextAreaElement);
  #button = find("composer-send", HTMLButtonElement);
  #hint = find("composer-hint", HTMLParagraphElement);
  /** @type {Record<string, string>} */
  #drafts = own.get("drafts", {});
  #room = "";
  #about = find("about", HTMLDivElement);
  #aboutText = find("about-text", HTMLParagraphElement);
  /** The message that is answered or changed. @type {About | null} */
  #to = null;
  /** Why the change was not taken, or that it is on its way. */
  #told = "";
  #typedAt = 0;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {() => void} said called when something was
   */
  constructor(chat, said) {
    this.#chat = chat;
    this.#said = said;
    find("composer", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#text.addEventListener("input", () => this.#edited());
    // Another width breaks the lines elsewhere. What is observed does not take its size from them.
    new ResizeObserver(() => this.#grow()).observe(find("main", HTMLElement));
    this.#text.addEventListener("keydown", (event) => this.#pressed(event));
    find("about-close", HTMLButtonElement).addEventListener("click", () => this.#leave());
  }

  /** @param {import("./room.js").Message} message */
  reply(message) {
    this.#leave();
    this.#begin({ kind: "reply", message });
  }

  /** @param {import("./room.js").Message} message */
  edit(message) {
    this.#begin({ kind: "edit", message });
    this.#text.value = message.text;
    this.#grow();
    this.#judge();
  }

  /** @param {About} to */
  #begin(to) {
    this.#to = to;
    this.#told = "";
    const words = to.message.text.replace(/\s+/g, " ").slice(0, 200);
    this.#aboutText.textContent =
      to.kind === "edit" ? "Editing your message" : `Replying to ${to.message.nick}: ${words}`;
    this.#about.hidden = false;
    this.#about.dataset.kind = to.kind;
    this.focus();
    this.#judge();
  }

  /** Gives up what is answered or changed: what was being written before is there again. */
  #leave() {
    const { kind } = this.#to ?? {};
    this.#to = null;
    this.#told = "";
    this.#about.hidden = true;
    if (kind === "edit") this.#text.value = this.#drafts[this.#room] ?? "";
    this.#grow();
    this.#judge();
    this.focus();
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    // Enter also ends the composing of a character; Safari tells so by 229 alone.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "Escape" && this.#to) {
      event.stopPropagation();
      this.#leave();
    } else if (event.key === "ArrowUp" && !event.altKey && !this.#text.value && !this.#to) {
      const last = this.#chat.current?.lastOf(this.#chat.user);
      if (!last) return;
      event.preventDefault();
      this.edit(last);
    }
  }

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  render() {
    const room = this.#chat.current;
    const name = room?.name ?? "";
    if (name !== this.#room) {
      this.#to = null;
      this.#told = "";
      this.#about.hidden = true;
      this.#room = name;
      this.#text.value = this.#drafts[name] ?? "";
      this.#grow();
    }
    const whom = room?.direct ? room.label : `#${name}`;
    const placeholder = name ? `Message ${whom}` : "";
    if (this.#text.placeholder !== placeholder) this.#text.placeholder = placeholder;
    this.#text.disabled = !room || Boolean(room.refused);
    this.#judge();
  }

  #edited() {
    this.#told = "";
    this.#grow();
    this.#judge();
    if (this.#to?.kind === "edit") return;
    this.#tell(Boolean(this.#text.value));
    const { [this.#room]: _, ...others } = this.#drafts;
    this.#drafts = this.#text.value ? { ...others, [this.#room]: this.#text.value } : others;
    own.set("drafts", this.#drafts);
  }

  /** Tells the others that one is writing, or no more. @param {boolean} on */
  #tell(on) {
    const room = this.#chat.current;
    const now = Date.now();
    if (!room || (on ? now - this.#typedAt < TYPING_EVERY_MS : !this.#typedAt)) return;
    this.#typedAt = on ? now : 0;
    this.#chat.typing(room, on);
  }

  /** Whether it can be sent. */
  #judge() {
    const text = cleaned(this.#text.value);
    const excess = ENCODER.encode(text).length - this.#chat.limits.message_bytes;
    const hint = excess > 0 ? `Too long by ${counted(excess, "byte")}.` : this.#told;
    if (this.#hint.textContent !== hint) this.#hint.textContent = hint;
    this.#button.disabled = this.#text.disabled || !text.trim() || excess > 0;
    return this.#button.disabled ? "" : text;
  }

  #send() {
    const text = this.#judge().trimEnd();
    if (!text) return;
    const { kind, message } = this.#to ?? {};
    if (kind === "edit" && message) {
      void this.#change(message, text);
      return;
    }
    this.#typedAt = 0; // That something came says that no more is written.
    this.#chat.say(text, message?.seq ?? 0);
    this.#text.value = "";
    if (this.#to) this.#leave();
    this.#edited();
    this.#said();
  }

  /** @param {import("./room.js").Message} message @param {string} text */
  async #change(message, text) {
    const to = this.#to;
    if (text !== message.text) {
      this.#told = "Saving …";
      this.#judge();
      try {
        await this.#chat.ask({ do: "edit", room: this.#room, seq: message.seq, text });
      } catch (error) {
        if (to !== this.#to) return;
        this.#told = why(error);
        this.#judge();
        return;
      }
    }
    if (to === this.#to) this.#leave();
  }

  #grow() {
    // The height of what is written can only be read once none is given.
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
