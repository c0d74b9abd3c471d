"use strict";
// Draws one picture of the cluster (the JSON of /status) and updates it. All data from the cluster goes
// into the page as text.

const $ = (id) => document.getElementById(id);
const STALE_AFTER_MS = 3000;
const POLL_EVERY_MS = 2000;
const ROWS_SHOWN = 100;
const SVG = "http://www.w3.org/2000/svg";

// ---- values: no function here trusts the shape of the data ----
const arr = (value) => (Array.isArray(value) ? value : []);
const obj = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});
const num = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const str = (value) => (value === null || value === undefined ? "" : String(value));

function compareIds(a, b) {
  const digits = /^-?\d+$/;
  if (digits.test(a) && digits.test(b)) {
    const [x, y] = [BigInt(a), BigInt(b)];
    return x < y ? -1 : x > y ? 1 : 0;
  }
  return a < b ? -1 : a > b ? 1 : 0;
}

function span(ms) {
  if (ms === null) return "–";
  const sign = ms < 0 ? "−" : "";
  const abs = Math.abs(ms);
  if (abs < 1000) return sign + Math.round(abs) + " ms";
  const s = abs / 1000;
  if (s < 60) return sign + (s < 10 ? s.toFixed(1).replace(/\.0$/, "") : Math.floor(s)) + " s";
  const [m, h, d] = [Math.floor(s / 60), Math.floor(s / 3600), Math.floor(s / 86400)];
  if (m < 60) return sign + m + " min " + Math.floor(s % 60) + " s";
  if (h < 24) return sign + h + " h " + (m % 60) + " min";
  return sign + d + " d " + (h % 24) + " h";
}
// Formats ages, for which a running count of milliseconds would only flicker.
const age = (ms) => (ms !== null && ms < 1000 ? "less than 1 s" : span(ms === null ? null : Math.floor(ms / 1000) * 1000));
const seconds = (ms) => (ms / 1000).toFixed(ms < 9950 ? 2 : 1) + " s";
const millis = (ms) => (ms < 10 ? ms.toFixed(1) : Math.round(ms)) + " ms";

function clock(unixMs) {
  const at = new Date(unixMs);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const far = Math.abs(now() - unixMs) > 20 * 3600e3;
  return far ? at.toLocaleDateString([], { day: "numeric", month: "short" }) + " " + time : time;
}

const shortId = (id) => (id.length > 8 ? id.slice(0, 4) + "…" + id.slice(-3) : id);
const nodeName = (id) => "node " + shortId(id);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const plural = (n, one, many) => n + " " + (n === 1 ? one : many || one + "s");

// ---- elements ----
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key === "onclick") node.onclick = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}
const ICONS = { up: "M3 8.500l3.500 3.500L13 4.500", down: "M4 4l8 8M12 4l-8 8", unknown: "M5.500 6a2.500 2.500 0 1 1 3.400 2.300c-.6.300-.9.700-.9 1.400M8 12.600v.1" };

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes the children of `parent` equal to `fresh`, changing existing elements instead of replacing them:
// focus, hover and selection survive a new picture. Children with a key are found again at any place.
function put(parent, ...fresh) {
  const keys = new Map(Array.from(parent.children, (child) => [child.dataset.key, child]));
  let at = parent.firstChild;
  for (const item of fresh) {
    if (item === null || item === undefined || item === "") continue;
    const child = typeof item === "string" ? document.createTextNode(item) : item;
    const key = child.dataset && child.dataset.key;
    const here = at && at.nodeName === child.nodeName && !(at.dataset && at.dataset.key);
    const match = key !== undefined ? keys.get(key) : here ? at : undefined;
    keys.delete(key);
    if (!match) {
      parent.insertBefore(child, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else parent.insertBefore(match, at);
    morph(match, child);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "style" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
  old.onclick = fresh.onclick;
  old.update = fresh.update;
  put(old, ...fresh.childNodes);
}

// ---- elements that change between two pictures ----
function live(node, update) {
  node.setAttribute("data-live", "");
  node.update = update;
  update(node);
  return node;
}
function beat() {
  for (const node of document.querySelectorAll("[data-live]")) node.update(node);
}
const since = (unixMs, text) => live(el("span"), (node) => setText(node, text(now() - unixMs)));
