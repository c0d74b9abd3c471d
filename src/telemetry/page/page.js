"use strict";
// Draws one picture of the cluster (the JSON of /status) and follows it. All that comes from the
// cluster goes into the page as text.

const $ = (id) => document.getElementById(id);
const STALE_AFTER_MS = 3000;
const POLL_EVERY_MS = 2000;
const ROWS_SHOWN = 100;
const SVG = "http://www.w3.org/2000/svg";

// ---- values: nothing here trusts the shape of what comes ----
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
// For ages, where a running count of milliseconds would only flicker.
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

// Makes the children of `parent` be as `fresh`, changing what is there instead of replacing it: focus,
// hover and a selection survive a new picture. Children with a key are found again wherever they stand.
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

// ---- what moves between two pictures ----
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

// ---- the picture ----
const state = {
  picture: null,
  receivedAt: 0,
  offset: 0,
  link: "wait",
  filter: "all",
  showAll: false,
  said: null,
  spans: new Map(),
  history: new Map(),
};
// The server's wall clock, so that ages are right whatever this machine's clock says.
const now = () => (state.picture ? performance.now() + state.offset : Date.now());
const pictureAge = () => (state.picture ? performance.now() - state.receivedAt : Infinity);
const isStale = () => pictureAge() > STALE_AFTER_MS;

function receive(picture) {
  if (!picture || typeof picture !== "object" || Array.isArray(picture)) return;
  state.picture = picture;
  state.receivedAt = performance.now();
  state.offset = (num(picture.at_unix_ms) ?? Date.now()) - state.receivedAt;
  draw();
}

// ---- flags: a node keeps its colour and pattern as long as the page is open ----
const slots = new Map();
function slot(id) {
  if (!slots.has(id)) {
    const taken = new Set(slots.values());
    let want = /^\d+$/.test(id) ? Number(BigInt(id) % 8n) : 0;
    while (taken.has(want) && taken.size < 64) want = (want + 1) % 64;
    slots.set(id, want);
  }
  return slots.get(id);
}
const look = (id) => {
  const s = slot(id);
  return "c" + (s % 8) + " p" + ((s + Math.floor(s / 8)) % 8);
};
function flag(id, extra) {
  if (id === null || id === "") return el("span", { class: "flag none " + (extra || ""), "aria-hidden": "true" });
  const text = id.length <= 3 ? el("b", null, id) : "";
  return el("span", { class: "flag " + look(id) + " " + (extra || ""), title: "node " + id, "aria-hidden": "true" }, text);
}
const named = (id) => el("span", { class: "named one", title: "node " + id }, flag(id), el("span", null, el("span", { class: "word" }, "node "), shortId(id)));

// ---- spans of time that run out ----
// `left` was true when the picture was taken. It runs down to at most `renewed` later: by then the
// next renewal is due, and only the next picture knows.
function timeLeft(kind, name, left, whole, renewed, why) {
  const parts = [
    el("span", { class: "name" }, name),
    el("span", { class: "left" }),
    el("div", { class: "track" }, el("div", { class: "fill" })),
    why && kind !== "thin" ? el("span", { class: "why" }, why) : null,
  ];
  const box = el("div", { title: kind === "thin" ? why : null }, ...parts);
  return live(box, (box) => {
    const old = isStale();
    const rest = Math.max(0, left - Math.min(pictureAge(), renewed));
    box.className = "span " + kind + (old ? " old" : rest === 0 ? " low" : "");
    setText(box.children[1], old ? "unknown" : seconds(rest));
    box.children[2].firstChild.style.transform = "scaleX(" + Math.min(1, rest / Math.max(1, whole)).toFixed(4) + ")";
  });
}

function spansOf(self, kind, whose = "") {
  const spans = [];
  const thin = kind === "thin";
  const d = num(self.failover_d_ms) || 1000;
  const h = num(self.failover_h_ms) || d / 5;
  const authority = num(self.authority_left_ms);
  if (authority !== null) {
    spans.push(timeLeft(kind, thin ? "office" : "Authority", authority, d, h,
      "How long it may act without another beat. One is due every " + span(h) + "; everybody else waits " + span(d) + "."));
  }
  const shard = num(self.shard_authority_left_ms);
  if (shard !== null) {
    // Its whole is not told: the most that was seen stands for it.
    const most = Math.max(shard, state.spans.get(self.id) || 1);
    state.spans.set(self.id, most);
    spans.push(timeLeft(kind, thin ? "shards" : "Shard authority" + whose, shard, most, most / 2, "How long it may work on its shards without another proof that it holds them."));
  }
  const lease = num(self.lease_left_ms);
  if (lease !== null) {
    const ttl = num(self.lease_ttl_ms) || lease;
    spans.push(timeLeft(kind, thin ? "lease" : "Lease" + whose, lease, ttl, ttl, "When it runs out, the store forgets the node. Granted for " + span(ttl) + "."));
  }
  return spans;
}

// ---- drawing ----
function draw() {
  const p = state.picture;
  const parts = [["top", drawTop], ["hero", drawHero], ["vitals", drawVitals], ["timeline", drawTimeline], ["nodes", drawNodes], ["shards", drawShards], ["checks", drawChecks], ["changes", drawChanges], ["store", drawStore]];
  // Flags are given in the order of the ids, whatever is drawn first.
  arr(p.nodes).map((n) => str(obj(n).id)).sort(compareIds).forEach(slot);
  const broken = [];
  for (const [name, part] of parts) {
    try {
      part(p);
    } catch (error) {
      broken.push(name + ": " + error.message);
    }
  }
  drawAlarm(p, broken);
  beat();
}

const selves = (p) => {
  const all = new Map(arr(p.siblings).map((s) => [str(obj(obj(s).node).id), obj(obj(s).node)]));
  const self = obj(p.node);
  if (self.id !== undefined) all.set(str(self.id), self);
  return all;
};

function drawTop(p) {
  const self = obj(p.node);
  setText($("cluster"), str(p.cluster) || "–");
  const several = arr(p.siblings).length > 1;
  setText($("seen-by"), several ? plural(arr(p.siblings).length, "node") + " in this process" : nodeName(str(self.id)));
  const leader = p.leader ? nodeName(str(obj(p.leader).id)) + " leads" : "no leader";
  document.title = leader + " · " + str(p.cluster) + " · bellwether";
  const server = obj(p.server);
  setText($("foot"), "bellwether " + str(server.version) + " · picture by " + nodeName(str(self.id)) + (self.address ? " at " + str(self.address) : ""));
}

function currentReign(p) {
  const reigns = arr(p.timeline);
  const last = obj(reigns[reigns.length - 1]);
  return last.to_unix_ms === null || last.to_unix_ms === undefined ? last : {};
}

function drawHero(p) {
  const leader = p.leader ? obj(p.leader) : null;
  const id = leader ? str(leader.id) : null;
  const fresh = flag(id, "huge");
  fresh.id = "leader-flag";
  morph($("leader-flag"), fresh);
  setText($("leader-who"), leader ? capital(nodeName(id)) + " leads" : "Nobody leads");
  const reigns = arr(p.timeline);
  const from = leader ? num(currentReign(p).from_unix_ms) : num(obj(reigns[reigns.length - 1]).to_unix_ms);
  put($("leader-since"), 
    from === null ? "" : leader ? since(from, (ms) => "in office for " + age(ms)) : since(from, (ms) => "vacant for " + age(ms)));
  const self = obj(p.node);
  const facts = leader
    ? ["term " + str(leader.term), str(leader.address), id === str(self.id) ? "this node" : ""]
    : ["after an unclean end a successor first waits out the last leader's " + span(num(self.failover_d_ms))];
  setText($("leader-facts"), facts.filter(Boolean).join(" · "));

  const known = leader ? selves(p).get(id) : null;
  const spans = known ? spansOf(known, "") : [];
  if (!known && leader && num(leader.last_beat_unix_ms) !== null) spans.push(heard(leader, self));
  if (!known) spans.push(...spansOf(self, "", " of " + nodeName(str(self.id))));
  put($("spans"), ...spans);
  drawActions(p);
}

// What a follower knows of the leader: how long it has been silent.
function heard(leader, self) {
  const d = num(self.failover_d_ms) || 1000;
  const h = num(self.failover_h_ms) || d / 5;
  const silent = Math.max(0, (num(state.picture.at_unix_ms) ?? 0) - leader.last_beat_unix_ms);
  return timeLeft("", "Leader heard", Math.max(0, d - silent), d, h, "How long until it counts as silent. A beat is due every " + span(h) + ".");
}

function drawActions(p) {
  const box = $("actions");
  const offered = arr(obj(p.server).actions);
  box.hidden = !offered.includes("resign") && !state.said;
  if (!box.firstChild) {
    const resign = el("button", { id: "resign", type: "button", onclick: () => act("resign", null) }, "Resign leader");
    box.append(resign, el("p", { class: "said", id: "act-said" }));
  }
  $("resign").hidden = !offered.includes("resign");
  $("resign").disabled = acting || !p.leader;
  const note = state.said || { text: "Ends the leader's term cleanly; the next candidate takes over.", bad: false };
  setText($("act-said"), note.text);
  $("act-said").classList.toggle("bad", note.bad);
}

function vital(name, value, unit, sub, bad) {
  return el("div", null, el("dt", null, name), el("dd", { class: bad ? "bad" : "" }, value, unit ? el("small", null, " " + unit) : ""), sub ? el("dd", { class: "sub" }, sub) : "");
}

function drawVitals(p) {
  const nodes = arr(p.nodes).map(obj);
  const works = arr(p.work).map(obj);
  const total = works.reduce((sum, w) => sum + arr(w.held_by).length, 0);
  const unowned = works.reduce((sum, w) => sum + (num(w.unowned) || 0), 0);
  const draining = nodes.filter((n) => n.draining).length;
  const go = nodes.filter((n) => n.kind === "go").length;
  const waiting = nodes.filter((n) => num(n.queue) !== null && n.role !== "Leader").length;
  const sub = [waiting ? plural(waiting, "candidate") + " in line" : "no successor in line", draining ? draining + " draining" : "", go ? go + " of the Go package" : "", num(obj(p.node).sessions_lost) ? plural(p.node.sessions_lost, "session") + " lost here" : ""].filter(Boolean).join(", ");
  const reigns = arr(p.timeline);
  const all = [
    vital("Nodes", str(nodes.length), "alive", sub, nodes.length === 0),
    vital("Terms seen", str(reigns.length), "", reigns.length > 1 ? "last vacancy " + span(vacancies(reigns)[reigns.length - 1]) : "no change of leader yet", false),
    vital("Shards held", total ? str(total - unowned) : "–", total ? "of " + total : "", unowned ? plural(unowned, "shard") + " without a holder" : total ? "none without a holder" : "no shard work here", unowned > 0),
  ];
  const summary = p.checks ? obj(obj(p.checks).summary) : null;
  if (summary) {
    const [up, down, unknown] = [num(summary.up) || 0, num(summary.down) || 0, num(summary.unknown) || 0];
    all.push(vital("Checks", down ? str(down) : str(up), down ? "down, " + up + " up" : "up", unknown ? unknown + " not yet known" : plural(num(summary.total) ?? up + down, "check") + " in all", down > 0));
  } else {
    const store = obj(p.store);
    all.push(vital("Store", store.healthy ? "answers" : "silent", "", "view proven " + span(num(store.view_age_ms)) + " ago", !store.healthy));
  }
  put($("vitals"), ...all);
}

// How long the office was vacant before each term, as it was seen here.
function vacancies(reigns) {
  return reigns.map((reign, i) => {
    const before = i > 0 ? num(obj(reigns[i - 1]).to_unix_ms) : null;
    return before === null ? null : Math.max(0, reign.from_unix_ms - before);
  });
}

const ENDS = { ended: "handed over", silent: "fell silent", replaced: "replaced", running: "in office" };

function drawTimeline(p) {
  const reigns = arr(p.timeline).map(obj).filter((r) => num(r.from_unix_ms) !== null);
  const end = num(p.at_unix_ms) ?? Date.now();
  const shown = reigns.slice(-24);
  const whole = Math.max(10000, shown.length ? end - shown[0].from_unix_ms : 0);
  const from = end - whole;
  put($("strip"), ...shown.filter((r) => (num(r.to_unix_ms) ?? end) > from).map((r) => {
    const id = str(r.id);
    const a = Math.max(0, (r.from_unix_ms - from) / whole);
    const b = Math.min(1, ((num(r.to_unix_ms) ?? end) - from) / whole);
    const bar = el("div", { "data-key": "t" + str(r.term), class: "reign " + look(id) + (r.end === "silent" ? " silent" : ""), title: "term " + str(r.term) + ": node " + id + ", " + span((num(r.to_unix_ms) ?? end) - r.from_unix_ms) + ", " + (ENDS[r.end] || str(r.end)) });
    bar.style.left = (a * 100).toFixed(3) + "%";
    bar.style.width = Math.max(0.2, (b - a) * 100).toFixed(3) + "%";
    if (b - a > 0.045) bar.append(el("span", null, shortId(id)));
    return bar;
  }));
  put($("axis"), ...[age(whole) + " ago", age(whole / 2), "now"].map((t) => el("span", null, t)));
  const gaps = vacancies(reigns);
  const rows = reigns.map((r, i) => [r, gaps[i]]).slice(-6).reverse();
  put($("reign-rows"), ...rows.map(([r, gap]) => {
    const running = num(r.to_unix_ms) === null;
    const lasted = running ? since(r.from_unix_ms, age) : span(r.to_unix_ms - r.from_unix_ms);
    return el("tr", { "data-key": "t" + str(r.term) },
      el("td", null, named(str(r.id))),
      el("td", { class: "mono" }, str(r.term)),
      el("td", { class: "nowrap" }, clock(r.from_unix_ms)),
      el("td", { class: "nowrap" }, lasted),
      el("td", null, el("span", { class: running ? "role leader" : "" }, ENDS[r.end] || str(r.end))),
      el("td", { class: "nowrap" }, gap === null ? "–" : span(gap)));
  }));
  setText($("timeline-note"), reigns.length ? "As seen by " + nodeName(str(obj(p.node).id)) + ". Hatched: nobody in office. Red edge: fell silent." : "No term seen yet.");
}

function drawNodes(p) {
  const nodes = arr(p.nodes).map(obj).sort((a, b) => compareIds(str(a.id), str(b.id)));
  const own = selves(p);
  // A node of this process that the cluster does not know (any more) is shown too: not joined.
  const missing = [...own.values()].filter((s) => !nodes.some((n) => str(n.id) === str(s.id)));
  const leader = p.leader ? str(obj(p.leader).id) : null;
  const most = Math.max(1, ...nodes.map((n) => num(n.shards) || 0));
  const kill = arr(obj(p.server).actions).includes("kill");
  const everybody = nodes.concat(missing.map((s) => ({ id: s.id, address: s.address, absent: true, problem: s.problem })));
  // The leader and what is ours first among those that fit.
  const first = (n) => (str(n.id) === leader || own.has(str(n.id)) ? 0 : 1);
  const shown = everybody.length > ROWS_SHOWN ? [...everybody].sort((a, b) => first(a) - first(b)).slice(0, ROWS_SHOWN) : everybody;
  $("node-more").hidden = shown.length === everybody.length;
  setText($("node-more"), "and " + plural(everybody.length - shown.length, "node") + " more at /status");
  put($("node-rows"), ...shown.map((n) => {
    const id = str(n.id);
    const self = own.get(id);
    const leads = id === leader;
    const tags = [n.kind === "go" ? "Go" : "", n.draining ? "draining" : "", id === str(obj(p.node).id) && own.size === 1 ? "this node" : ""].filter(Boolean);
    const spans = self && !n.absent ? spansOf(self, "thin") : [];
    const fill = el("div", { class: "fill " + look(id) });
    fill.style.width = (100 * (num(n.shards) || 0) / most).toFixed(1) + "%";
    const queue = num(n.queue);
    return el("tr", { "data-key": "n" + id },
      el("td", null, el("span", { class: "named", title: "node " + id }, flag(id), el("span", null, el("span", { class: "name2" }, nodeName(id), ...tags.map((t) => el("span", { class: "tag" }, t))), el("span", { class: "sub2 mono" }, str(n.address))))),
      el("td", null, el("span", { class: "role" + (leads ? " leader" : "") }, n.absent ? "not joined" : leads ? "★ leader" : n.role === "Leader" ? "not in office" : (str(n.role) || "unknown").toLowerCase()), el("span", { class: "sub2" }, n.absent ? str(n.problem) : !leads && queue !== null ? "candidate " + queue : "")),
      el("td", { class: "wide" }, n.absent ? "" : el("div", { class: "count" }, el("b", null, str(num(n.shards) ?? "–")), el("span", { class: "unit" }, "shards"), el("div", { class: "track", "aria-hidden": "true" }, fill))),
      el("td", { class: spans.length ? "wide" : "unknown", title: self ? null : "only the node itself knows" }, spans.length ? el("div", null, ...spans) : el("span", { class: "quiet" }, "–")),
      el("td", { "data-label": "joined" }, num(n.start_unix_ms) ? since(n.start_unix_ms, (ms) => age(ms) + " ago") : ""),
      el("td", { class: "num" }, kill && self && !n.absent ? el("button", { class: "small", type: "button", "aria-label": "Kill node " + id, onclick: () => act("kill", id) }, "Kill") : ""));
  }));
  const foreign = nodes.length - [...own.keys()].filter((id) => nodes.some((n) => str(n.id) === id)).length;
  setText($("nodes-note"), foreign > 0 ? "A node's time left is known to itself alone: see its own page." : "Time left: what each may go on for without hearing from the store.");
}

// ---- shards ----
const cursors = new Map();
function drawShards(p) {
  const works = arr(p.work).map(obj).filter((w) => arr(w.held_by).length > 0);
  $("shards").hidden = works.length === 0;
  setText($("shards-note"), works.length ? "One cell a shard, in the look of the node that holds it." : "");
  const box = $("works");
  const names = works.map((w) => str(w.work));
  for (const child of [...box.children]) if (!names.includes(child.dataset.key)) child.remove();
  works.forEach((work, i) => {
    let part = [...box.children].find((child) => child.dataset.key === names[i]);
    if (!part) {
      part = el("div", { class: "work" }, el("p", { class: "work-head" }), el("div", { class: "map", role: "img", tabindex: "0" }), el("div", { class: "legend" }), el("p", { class: "readout" }));
      part.dataset.key = names[i];
      follow(part, names[i]);
      box.append(part);
    }
    drawWork(part, work);
  });
}

function shardFacts(work) {
  const held = arr(work.held_by);
  const planned = arr(work.planned_for);
  const draining = new Set(arr(work.draining));
  return held.map((h, n) => {
    const holder = h === null || h === undefined ? null : str(h);
    const plan = planned[n] === null || planned[n] === undefined ? null : str(planned[n]);
    return { n, holder, plan, drains: draining.has(n), moves: plan !== null && holder !== null && plan !== holder };
  });
}

function drawWork(part, work) {
  const [head, map, legend] = part.children;
  const facts = shardFacts(work);
  part.facts = facts;
  const unowned = facts.filter((f) => f.holder === null).length;
  const moving = facts.filter((f) => f.moves || f.drains).length;
  put(head, el("strong", null, str(work.work)), el("span", { class: "quiet" }, plural(facts.length, "shard") + (unowned ? ", " + unowned + " without a holder" : "") + (moving ? ", " + moving + " on the move" : "")));
  map.style.setProperty("--wide", facts.length > 512 ? 64 : facts.length > 64 ? 32 : 16);
  map.style.setProperty("--narrow", facts.length > 512 ? 32 : 16);
  while (map.children.length > facts.length) map.lastChild.remove();
  while (map.children.length < facts.length) map.append(el("div", { class: "cell" }));
  const counts = new Map();
  facts.forEach((f) => {
    counts.set(f.holder, (counts.get(f.holder) || 0) + 1);
    const cell = map.children[f.n];
    const classes = "cell " + (f.holder === null ? "none" : look(f.holder)) + (f.drains ? " drain" : "") + (f.moves ? " moving" : "") + (cursors.get(part.dataset.key) === f.n ? " at" : "");
    if (cell.className !== classes) cell.className = classes;
    cell.style.setProperty("--to", f.moves ? "var(--n" + (slot(f.plan) % 8) + ")" : "");
  });
  const holders = [...counts.keys()].filter((id) => id !== null).sort(compareIds);
  const shown = holders.slice(0, 12).map((id) => el("span", { class: "named" }, flag(id), el("span", null, nodeName(id) + " "), el("strong", null, str(counts.get(id)))));
  if (holders.length > 12) shown.push(el("span", { class: "quiet" }, "and " + (holders.length - 12) + " more nodes"));
  if (unowned) shown.push(el("span", { class: "named" }, flag(null), el("span", null, "nobody "), el("strong", null, str(unowned))));
  put(legend, ...shown);
  map.setAttribute("aria-label", "Shards of " + str(work.work) + ": " + (holders.map((id) => "node " + id + " holds " + counts.get(id)).join(", ") || "nobody holds any") + (unowned ? "; " + unowned + " without a holder" : "") + ". Arrow keys tell about single shards.");
  tell(part);
}

function tell(part) {
  const at = cursors.get(part.dataset.key);
  const f = at === undefined ? null : part.facts[at];
  if (!f) return setText(part.lastChild, "Cut corner: draining. Dot: planned for another node. Point at a cell for its shard.");
  const parts = ["shard " + f.n, f.holder === null ? "held by nobody" : "held by node " + f.holder];
  if (f.plan !== f.holder) parts.push(f.plan === null ? "planned for nobody" : "planned for node " + f.plan);
  if (f.drains) parts.push("draining");
  setText(part.lastChild, parts.join(" · "));
}

function follow(part, key) {
  const map = part.children[1];
  const point = (n) => {
    const before = cursors.get(key);
    if (before !== undefined && map.children[before]) map.children[before].classList.remove("at");
    if (n === null) cursors.delete(key);
    else {
      cursors.set(key, n);
      map.children[n].classList.add("at");
    }
    tell(part);
  };
  const under = (event) => {
    const n = [...map.children].indexOf(event.target.closest(".cell"));
    if (n >= 0) point(n);
  };
  map.addEventListener("pointermove", under);
  map.addEventListener("pointerdown", under);
  map.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
  map.addEventListener("blur", () => point(null));
  map.addEventListener("keydown", (event) => {
    const columns = getComputedStyle(map).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = (cursors.get(key) ?? (step > 0 ? -step : 0)) + step;
    if (next >= 0 && next < map.children.length) point(next);
    setText($("said"), part.lastChild.textContent);
  });
}

// ---- checks ----
const STATES = ["down", "unknown", "up"];
const stateOf = (check) => {
  const s = str(check.state).toLowerCase();
  return STATES.includes(s) ? s : "unknown";
};
const badge = (s) => el("span", { class: "state " + s }, icon(ICONS[s]), s);
const checkKey = (c) => str(c.namespace) + "/" + str(c.name);

function spark(check) {
  const key = checkKey(check);
  const seen = state.history.get(key) || { run: null, values: [] };
  if (num(check.latency_ms) !== null && num(check.last_run_unix_ms) !== seen.run) {
    seen.run = num(check.last_run_unix_ms);
    seen.values = seen.values.concat(check.latency_ms).slice(-32);
    state.history.set(key, seen);
  }
  if (seen.values.length < 3) return "";
  const [low, high] = [Math.min(...seen.values), Math.max(...seen.values)];
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 64 18");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", seen.values.map((v, i) => (i * 64 / (seen.values.length - 1)).toFixed(1) + "," + (high > low ? 16 - 14 * (v - low) / (high - low) : 9).toFixed(1)).join(" "));
  svg.append(line);
  return svg;
}

function drawChecks(p) {
  $("checks").hidden = !p.checks;
  if (!p.checks) return;
  const report = obj(p.checks);
  drawProblems(arr(report.problems).map(obj));
  const checks = arr(report.checks).map(obj);
  checks.sort((a, b) => STATES.indexOf(stateOf(a)) - STATES.indexOf(stateOf(b)) || compareIds(checkKey(a), checkKey(b)));
  drawFilters(checks);
  const fitting = checks.filter((c) => state.filter === "all" || stateOf(c) === state.filter);
  const shown = state.showAll ? fitting : fitting.slice(0, ROWS_SHOWN);
  put($("check-rows"), ...shown.map((c) => {
    const s = stateOf(c);
    const latency = num(c.latency_ms);
    const by = c.checked_by === null || c.checked_by === undefined ? null : str(c.checked_by);
    return el("tr", { "data-key": checkKey(c) },
      el("td", { class: "at-state", title: num(c.shard) === null ? null : "shard " + c.shard }, badge(s)),
      el("td", { class: "wide" },
        el("span", { class: "name2" }, str(c.name), c.kind ? el("span", { class: "tag" }, str(c.kind)) : "", c.namespace && c.namespace !== "default" ? el("span", { class: "tag" }, str(c.namespace)) : ""),
        el("span", { class: "sub2 mono" }, str(c.target)),
        s !== "up" && c.message ? el("span", { class: "sub2" + (s === "down" ? " bad" : "") }, str(c.message)) : ""),
      el("td", { class: "num nowrap" }, spark(c), latency === null ? "–" : millis(latency)),
      el("td", { "data-label": "run by" }, by === null ? el("span", { class: "quiet" }, "nobody yet") : named(by)),
      el("td", { class: "nowrap", "data-label": "ran" }, num(c.last_run_unix_ms) === null ? "never" : since(c.last_run_unix_ms, (ms) => age(ms) + " ago"), num(c.interval_ms) === null ? "" : el("span", { class: "sub2" }, "every " + span(c.interval_ms))),
      el("td", { class: "nowrap", "data-label": "unchanged for" }, num(c.last_change_unix_ms) === null ? "–" : since(c.last_change_unix_ms, age)));
  }));
  const hidden = fitting.length - shown.length;
  $("check-more").hidden = hidden === 0;
  if (hidden) put($("check-more"), el("button", { type: "button", onclick: () => { state.showAll = true; draw(); } }, "Show " + hidden + " more"));
  setText($("checks-note"), checks.length ? "Run by the nodes that hold their shards, gathered by the leader." : "No checks: put UptimeCheck manifests into the folder.");
}

function drawFilters(checks) {
  const counts = { all: checks.length, down: 0, unknown: 0, up: 0 };
  checks.forEach((c) => (counts[stateOf(c)] += 1));
  const names = ["all", ...STATES].filter((name) => name === "all" || counts[name] > 0 || state.filter === name);
  $("filters").hidden = checks.length < 2;
  const wanted = names.map((name) => name + " " + counts[name]);
  const box = $("filters");
  if (wanted.join() !== [...box.children].map((b) => b.textContent).join()) {
    put(box, ...names.map((name, i) => el("button", { type: "button", "data-name": name, onclick: () => { state.filter = name; draw(); } }, wanted[i])));
  }
  for (const button of box.children) button.setAttribute("aria-pressed", String(button.dataset.name === state.filter));
}

function drawProblems(problems) {
  const box = $("problems");
  box.hidden = problems.length === 0;
  if (!problems.length) return put(box);
  const where = (q) => str(q.file) + (num(q.line) === null ? "" : ":" + q.line);
  put(box, el("div", { class: "callout" },
    el("strong", null, plural(problems.length, "manifest problem") + "; all other checks go on"),
    el("ul", null, ...problems.slice(0, 20).map((q) => el("li", null, el("span", { class: "mono" }, where(q) + (q.field ? " " + str(q.field) : "")), " – " + str(q.message))),
      problems.length > 20 ? el("li", null, "and " + (problems.length - 20) + " more at /status") : "")));
}

function drawChanges(p) {
  const changes = arr(obj(p.checks).changes).map(obj).sort((a, b) => (num(b.at_unix_ms) || 0) - (num(a.at_unix_ms) || 0)).slice(0, 12);
  $("changes").hidden = changes.length === 0;
  const known = (s) => (STATES.includes(str(s).toLowerCase()) ? str(s).toLowerCase() : "unknown");
  put($("change-rows"), ...changes.map((c) =>
    el("li", null,
      el("span", { class: "quiet" }, num(c.at_unix_ms) === null ? "" : clock(c.at_unix_ms)),
      el("span", { class: "turn" }, badge(known(c.from)), "→", badge(known(c.to))),
      el("span", { class: "note" }, el("strong", null, str(c.name)), c.message ? " " + str(c.message) : ""))));
}

function drawStore(p) {
  const store = obj(p.store);
  const self = obj(p.node);
  const pair = (name, value) => el("div", null, el("dt", null, name), el("dd", null, value));
  const pairs = [
    pair("Kind", str(store.kind) === "memory" ? "memory of this process" : str(store.kind) || "–"),
    store.endpoint ? pair("Asked at", str(store.endpoint)) : null,
    pair("State", store.healthy ? "answers" : "does not answer"),
    pair("Revision", str(store.revision) || "–"),
    pair("View proven fresh", span(num(store.view_age_ms)) + " ago"),
    pair("Failover profile", "D " + span(num(self.failover_d_ms)) + ", beat every " + span(num(self.failover_h_ms))),
    pair("Tick", num(self.tick_ms) === null ? "–" : self.tick_ms + " ms"),
    num(self.last_tick_unix_ms) === null ? null : pair("Last tick of " + nodeName(str(self.id)), since(self.last_tick_unix_ms, (ms) => age(ms) + " ago")),
    self.incarnation ? pair("Incarnation", el("span", { class: "mono" }, str(self.incarnation))) : null,
  ];
  put($("store"), ...pairs.filter(Boolean));
}

// ---- what is wrong ----
function drawAlarm(p, broken) {
  const lines = [];
  const self = p ? obj(p.node) : {};
  if (state.link === "lost") lines.push(el("p", null, lostText()));
  if (p && self.joined === false) lines.push(el("p", null, nodeName(str(self.id)) + " has not joined the cluster" + (self.problem ? ": " + str(self.problem) : "")));
  else if (p && self.problem) lines.push(el("p", null, nodeName(str(self.id)) + ": " + str(self.problem)));
  const store = p ? obj(p.store) : {};
  if (p && store.problem) lines.push(el("p", null, "The store" + (store.endpoint ? " at " + str(store.endpoint) : "") + ": " + str(store.problem)));
  if (p && num(store.view_age_ms) > 2000) lines.push(el("p", null, "What this node knows of the cluster was last proven " + span(store.view_age_ms) + " before this picture."));
  for (const what of arr(broken)) lines.push(el("p", null, "Part of this picture cannot be shown (" + what + "); all of it is at /status."));
  $("alarm").hidden = lines.length === 0;
  const fresh = el("div", null, ...lines);
  if ($("alarm").textContent !== fresh.textContent) put($("alarm"), ...fresh.children);
}

function lostText() {
  if (!state.picture) return "No connection to the node, and no picture yet. Trying again.";
  return "Connection lost. What stands here is the picture of " + clock(num(state.picture.at_unix_ms) ?? Date.now()) + ". Trying again.";
}

function link(to) {
  const changed = state.link !== to;
  state.link = to;
  $("link").dataset.state = to;
  document.body.classList.toggle("stale", to === "lost");
  if (changed) drawAlarm(state.picture, []);
}

function watchLink() {
  beat();
  if (isStale()) link("lost");
  const text = { wait: "Connecting", live: "Live", poll: "Polling", lost: "Connection lost" }[state.link];
  setText($("link-text"), text + (state.link === "lost" && state.picture ? ", " + age(pictureAge()) : ""));
}

// ---- the connection: a stream, and polling where there is none ----
let source = null;
let asking = false;

function connect() {
  if (source) source.close();
  source = new EventSource("/events");
  source.addEventListener("status", (event) => {
    let picture = null;
    try {
      picture = JSON.parse(event.data);
    } catch {
      return;
    }
    link("live");
    receive(picture);
  });
}

async function poll() {
  // A stream that brings pictures needs no help.
  if (asking || pictureAge() < POLL_EVERY_MS) return;
  asking = true;
  try {
    const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    const picture = answer.ok ? await answer.json() : null;
    if (picture) {
      link("poll");
      receive(picture);
    }
    if (!source || source.readyState === EventSource.CLOSED) connect();
  } catch {
    // It is lost, and shown as such by its age. A browser gives a refused stream up for good.
    if (!source || source.readyState === EventSource.CLOSED) connect();
  } finally {
    asking = false;
  }
}

// ---- actions ----
let acting = false;
async function act(name, node) {
  if (acting) return;
  acting = true;
  say((name === "resign" ? "Asking the leader to resign" : "Ending node " + node) + " …", false);
  try {
    const answer = await fetch("/actions/" + name, {
      method: "POST",
      headers: { "X-Bellwether-Action": "1", "Content-Type": "application/json" },
      body: node === null ? "" : JSON.stringify({ node }),
      signal: AbortSignal.timeout(15000),
    });
    const body = obj(await answer.json().catch(() => ({})));
    say(answer.ok ? str(body.done) || "Done." : "Not done: " + (str(body.error) || "status " + answer.status), !answer.ok);
  } catch (error) {
    say("No answer; it may have been done or not (" + error.message + ").", true);
  } finally {
    acting = false;
    if (state.picture) drawActions(state.picture);
  }
}
function say(text, bad) {
  state.said = { text, bad };
  setText($("said"), text);
  if (state.picture) drawActions(state.picture);
}

// ---- start ----
try {
  receive(JSON.parse($("picture").textContent));
} catch {
  // No first picture: the stream brings one.
}
connect();
watchLink();
setInterval(watchLink, matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 100);
setInterval(poll, POLL_EVERY_MS);
