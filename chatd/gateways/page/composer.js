// @ts-check
/**
 * The text field: a new message, a command, a reply or an edit. Enter sends, Shift+Enter starts a
 * line, Escape cancels; each room keeps its draft.
 */

import { actionIn, isCommand, read, readEdit, typedFor } from "./commands.js";
import { explain } from "./connection.js";
import { own } from "./storage.js";
import { find, plural } from "./text.js";

const ENCODER = new TextEncoder();
// Others let typing expire after a few seconds.
const TYPING_EVERY_MS = 3_000;

/** @typedef {{kind: "reply" | "edit", message: import("./room.js").Message}} About */

/**
 * Removes the control characters that the server refuses, and lines without text at both ends.
 * @param {string} text
 */
function cleaned(text) {
  return text
    .replace(/\r\n?/g, "\n")
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "")
    .replace(/^\s*\n/, "")
    .trimEnd();
}

export class Composer {
  #chat;
  #page;
  #text = find("composer-text", HTMLTextAreaElement);
  #button = find("composer-send", HTMLButtonElement);
  #hint = find("composer-hint", HTMLParagraphElement);
  /** Sends an unknown command as a message. */
  #anyway = find("composer-anyway", HTMLButtonElement);
  /** @type {Record<string, string>} */
  #drafts = own.get("drafts", {});
  #room = "";
  #about = find("about", HTMLDivElement);
  #aboutText = find("about-text", HTMLParagraphElement);
  /** The message to reply to or edit. @type {About | null} */
  #target = null;
  /** The state or error of an edit or a command. */
  #status = "";
  #typedAt = 0;

  /**
   * @param {import("./chat.js").Chat} chat
   * @param {{sent: () => void, open: (name: string) => Promise<void>,
   *   search: (query: string) => void}} page `sent` is called after each message and command
   */
  constructor(chat, page) {
    this.#chat = chat;
    this.#page = page;
    this.#anyway.addEventListener("click", () => {
      this.#say(this.#validate());
      this.focus();
    });
    for (const kind of /** @type {("dragover" | "drop")[]} */ (["dragover", "drop"])) {
      addEventListener(kind, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        // Otherwise the browser would leave the chat for the file.
        event.preventDefault();
        if (kind === "drop") this.#noFiles(event.dataTransfer);
      });
    }
    this.#text.addEventListener("paste", (event) => this.#noFiles(event.clipboardData));
    find("composer", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#text.addEventListener("input", () => this.#edited());
    // Another width wraps the lines elsewhere. Observe an element whose size does not depend on them.
    new ResizeObserver(() => this.#resize()).observe(find("main", HTMLElement));
    this.#text.addEventListener("keydown", (event) => this.#pressed(event));
    find("about-close", HTMLButtonElement).addEventListener("click", () => this.#cancel());
  }

  /** @param {import("./room.js").Message} message */
  reply(message) {
    this.#cancel();
    this.#start({ kind: "reply", message });
  }

  /** @param {import("./room.js").Message} message */
  edit(message) {
    this.#start({ kind: "edit", message });
    this.#text.value = typedFor(message.text);
    this.#resize();
    this.#validate();
  }

  /** @param {About} to */
  #start(to) {
    this.#target = to;
    this.#status = "";
    const { text } = to.message;
    const words = (actionIn(text) ?? text).replace(/\s+/g, " ").slice(0, 200);
    this.#aboutText.textContent =
      to.kind === "edit" ? "Editing your message" : `Replying to ${to.message.nick}: ${words}`;
    this.#about.hidden = false;
    this.#about.dataset.kind = to.kind;
    this.focus();
    this.#validate();
  }

  /** Cancels the reply or edit and restores the draft. */
  #cancel() {
    const { kind } = this.#target ?? {};
    this.#target = null;
    this.#status = "";
    this.#about.hidden = true;
    if (kind === "edit") this.#text.value = this.#drafts[this.#room] ?? "";
    this.#resize();
    this.#validate();
    this.focus();
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    // Enter also ends an IME composition; Safari shows that by key code 229 only.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "Escape" && this.#target) {
      event.stopPropagation();
      this.#cancel();
    } else if (event.key === "ArrowUp" && !event.altKey && !this.#text.value && !this.#target) {
      const last = this.#chat.current?.lastMessageOf(this.#chat.user);
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
      this.#target = null;
      this.#status = "";
      this.#about.hidden = true;
      this.#room = name;
      this.#text.value = this.#drafts[name] ?? "";
      this.#resize();
    }
    const label = room?.direct ? room.label : `#${name}`;
    const placeholder = room?.refused || (name ? `Message ${label}` : "");
    if (this.#text.placeholder !== placeholder) this.#text.placeholder = placeholder;
    this.#text.disabled = !room || Boolean(room.refused);
    this.#validate();
  }

  #edited() {
    this.#status = "";
    this.#resize();
    this.#validate();
    if (this.#target?.kind === "edit") return;
    this.#announceTyping(Boolean(this.#text.value) && !isCommand(this.#text.value));
    const { [this.#room]: _, ...others } = this.#drafts;
    this.#drafts = this.#text.value ? { ...others, [this.#room]: this.#text.value } : others;
    own.set("drafts", this.#drafts);
  }

  /** Announces typing or its end. @param {boolean} on */
  #announceTyping(on) {
    const room = this.#chat.current;
    const now = Date.now();
    if (!room || (on ? now - this.#typedAt < TYPING_EVERY_MS : !this.#typedAt)) return;
    this.#typedAt = on ? now : 0;
    this.#chat.typing(room, on);
  }

  /** The text to send, or "" if it cannot be sent. */
  #validate() {
    const text = cleaned(this.#text.value);
    const excess = ENCODER.encode(text).length - this.#chat.limits.message_bytes;
    const hint = excess > 0 ? `Too long by ${plural(excess, "byte")}.` : this.#status;
    if (this.#hint.textContent !== hint) this.#hint.textContent = hint;
    if (!hint) this.#anyway.hidden = true;
    this.#button.disabled = this.#text.disabled || !text || excess > 0;
    return this.#button.disabled ? "" : text;
  }

  #send() {
    const typed = this.#validate();
    if (!typed) return;
    const { kind, message } = this.#target ?? {};
    if (kind === "edit" && message) {
      void this.#saveEdit(message, typed);
      return;
    }
    const meaning = read(typed);
    if ("say" in meaning) this.#say(meaning.say);
    else if ("act" in meaning) void this.#carryOut(meaning.act);
    else {
      this.#status = meaning.fault;
      this.#anyway.hidden = !meaning.unknown;
      this.#validate();
    }
  }

  /** @param {string} text */
  #say(text) {
    this.#typedAt = 0; // The message itself ends the typing.
    this.#chat.say(text, this.#target?.message.seq ?? 0);
    this.#clear();
    this.#page.sent();
  }

  #clear() {
    this.#text.value = "";
    if (this.#target) this.#cancel();
    this.#edited();
  }

  /** @param {(scene: import("./commands.js").Scene) => Promise<string | void>} act */
  async #carryOut(act) {
    const room = this.#chat.current;
    if (!room) return;
    const typed = this.#text.value;
    const replyTo = this.#target?.message.seq ?? 0;
    const { open, search } = this.#page;
    this.#clear();
    try {
      const answer = await act({ chat: this.#chat, room, replyTo, open, search });
      if (answer) this.#chat.note(room, answer);
      this.#page.sent();
    } catch (error) {
      if (this.#room !== room.name) return;
      // The user may have typed on.
      this.#text.value ||= typed;
      this.#edited();
      this.#status = explain(error);
      this.#validate();
    }
  }

  /** @param {DataTransfer | null} given */
  #noFiles(given) {
    // Some programs copy a picture of a text beside the text.
    if (!given?.files.length || given.types.includes("text/plain")) return;
    this.#status = "Files and pictures cannot be sent in this chat.";
    this.#validate();
  }

  /** @param {import("./room.js").Message} message @param {string} typed */
  async #saveEdit(message, typed) {
    const to = this.#target;
    if (typed !== typedFor(message.text)) {
      this.#status = "Saving …";
      this.#validate();
      try {
        const text = readEdit(typed);
        await this.#chat.ask({ do: "edit", room: this.#room, seq: message.seq, text });
      } catch (error) {
        if (to !== this.#target) return;
        this.#status = explain(error);
        this.#validate();
        return;
      }
    }
    if (to === this.#target) this.#cancel();
  }

  #resize() {
    // scrollHeight needs the automatic height.
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
