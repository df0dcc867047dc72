// @ts-check
/** Puts the page together. */

import { Chat } from "./chat.js";
import { decoded, View } from "./view.js";

const url = new URL("ws", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
url.search = url.hash = "";

/** What the daemon wrote into the page. @param {string} name */
function told(name) {
  return document.querySelector(`meta[name="chatd-${name}"]`)?.getAttribute("content") ?? "";
}

/** @type {View | undefined} */
let view;
const chat = new Chat(url.href, told("room"), () => view?.changed());
view = new View(chat, told("auth") === "token");

addEventListener("hashchange", () => {
  const name = decoded();
  // A room that is refused says so in its own place.
  if (name && name !== chat.current?.name) void view.open(name).catch(() => {});
});
chat.start(decoded());
view.changed();
