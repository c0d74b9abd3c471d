// The work: shards, checks, their changes, and the store.

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
      el("td", { class: "nowrap", "data-label": "ran" }, num(c.last_run_unix_ms) === null ? "never" : since(c.last_run_unix_ms, (ms) => age(ms) + " ago"), num(c.interval_ms) === null ? "" : el("span", { class: "sub2" }, "every " + span(c.interval_ms) + (num(c.missed) ? ", " + c.missed + " missed" : ""))),
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
