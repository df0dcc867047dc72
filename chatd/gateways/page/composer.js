// @ts-check
/** Where one writes. Enter sends, Shift+Enter begins a line; each room keeps its draft. */

import { own } from "./storage.js";
import { counted, find } from "./text.js";

const ENCODER = new TextEncoder();

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
    this.#text.addEventListener("keydown", (event) => {
      // Enter also ends the composing of a character; Safari tells so by 229 alone.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229)
        return;
      event.preventDefault();
      this.#send();
    });
  }

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  render() {
    const room = this.#chat.current;
    const name = room?.name ?? "";
    if (name !== this.#room) {
      this.#room = name;
      this.#text.value = this.#drafts[name] ?? "";
      this.#text.placeholder = name ? `Message #${name}` : "";
      this.#grow();
    }
    this.#text.disabled = !room || Boolean(room.refused);
    this.#judge();
  }

  #edited() {
    this.#grow();
    this.#judge();
    const { [this.#room]: _, ...others } = this.#drafts;
    this.#drafts = this.#text.value ? { ...others, [this.#room]: this.#text.value } : others;
    own.set("drafts", this.#drafts);
  }

  /** Whether it can be sent. */
  #judge() {
    const text = cleaned(this.#text.value);
    const excess = ENCODER.encode(text).length - this.#chat.limits.message_bytes;
    const hint = excess > 0 ? `Too long by ${counted(excess, "byte")}.` : "";
    if (this.#hint.textContent !== hint) this.#hint.textContent = hint;
    this.#button.disabled = this.#text.disabled || !text.trim() || excess > 0;
    return this.#button.disabled ? "" : text;
  }

  #send() {
    const text = this.#judge();
    if (!text) return;
    this.#chat.say(text.trimEnd());
    this.#text.value = "";
    this.#edited();
    this.#said();
  }

  #grow() {
    // The height of what is written can only be read once none is given.
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
