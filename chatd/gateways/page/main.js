// @ts-check
/** Puts the page together. */

import { Chat } from "./chat.js";
import { decoded, View } from "./view.js";

const url = new URL("ws", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
url.search = url.hash = "";

const home = document.querySelector('meta[name="chatd-room"]')?.getAttribute("content") || "lobby";
/** @type {View | undefined} */
let view;
const chat = new Chat(url.href, home, () => view?.changed());
view = new View(chat);

addEventListener("hashchange", () => {
  const name = decoded();
  // A room that is refused says so in its own place.
  if (name && name !== chat.current?.name) void view.open(name).catch(() => {});
});
chat.start(decoded());
view.changed();
