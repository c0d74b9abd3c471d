// The cluster: the leader, earlier leaders, and the nodes.

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
// Time by the server's wall clock, so that ages are right even if this machine's clock is wrong.
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
const named = (id) => el("span", { class: "named one", title: "node " + id }, flag(id), el("span", null, el("span", { class: id.length > 3 ? "word" : null }, "node "), shortId(id)));

// ---- spans of time that run out ----
// `left` was correct when the picture was taken. The display counts down by at most `renewed`: by then the
// next renewal is due, and only the next picture shows its result.
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
  // Without shard work there is no shard authority to show.
  if (shard !== null && arr(state.picture.work).length > 0) {
    // The picture does not contain the full span: use the largest value seen so far.
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
  // Flags are assigned in the order of the ids, independent of the order of drawing.
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
  const leader = p.leader ? nodeName(str(obj(p.leader).id)) + standing(obj(p.leader)) : "no leader";
  document.title = leader + " · " + str(p.cluster) + " · bellwether";
  const server = obj(p.server);
  setText($("foot"), "bellwether " + str(server.version) + " · picture by " + nodeName(str(self.id)) + (self.address ? " at " + str(self.address) : ""));
}

function currentReign(p) {
  const reigns = arr(p.timeline);
  const last = obj(reigns[reigns.length - 1]);
  return last.to_unix_ms === null || last.to_unix_ms === undefined ? last : {};
}

// A suspended leader is in office and does not act: its beats arrive too late, or not at all.
const standing = (leader) => (leader.suspended ? " is suspended" : " leads");

function drawHero(p) {
  const leader = p.leader ? obj(p.leader) : null;
  const id = leader ? str(leader.id) : null;
  const fresh = flag(id, "huge");
  fresh.id = "leader-flag";
  morph($("leader-flag"), fresh);
  setText($("leader-who"), leader ? capital(nodeName(id)) + standing(leader) : "Nobody leads");
  const reigns = arr(p.timeline);
  const from = leader ? num(currentReign(p).from_unix_ms) : num(obj(reigns[reigns.length - 1]).to_unix_ms);
  put($("leader-since"), 
    from === null ? "" : leader ? since(from, (ms) => "in office for " + age(ms)) : since(from, (ms) => "vacant for " + age(ms)));
  const self = obj(p.node);
  const facts = leader
    ? ["term " + str(leader.term), str(leader.address), id === str(self.id) ? "this node" : "", leader.suspended ? "in office, and does not act" : ""]
    : ["after an unclean end a successor first waits out the last leader's " + span(num(self.failover_d_ms))];
  setText($("leader-facts"), facts.filter(Boolean).join(" · "));

  const known = leader ? selves(p).get(id) : null;
  const spans = known ? spansOf(known, "") : [];
  if (!known && leader && num(leader.last_beat_unix_ms) !== null) spans.push(heard(leader, self));
  if (!known) spans.push(...spansOf(self, "", " of " + nodeName(str(self.id))));
  put($("spans"), ...spans);
  drawActions(p);
}

// A follower's view of the leader: the time since its last sign of life.
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
  const held = works.reduce((sum, w) => sum + arr(w.held_by).filter((id) => id !== null).length, 0);
  const unowned = works.reduce((sum, w) => sum + (num(w.unowned) || 0), 0);
  const draining = nodes.filter((n) => n.draining).length;
  const go = nodes.filter((n) => n.kind === "go").length;
  const waiting = nodes.filter((n) => num(n.queue) !== null && n.role !== "Leader").length;
  const sub = [waiting ? plural(waiting, "candidate") + " in line" : "no successor in line", draining ? draining + " draining" : "", go ? go + " of the Go package" : "", num(obj(p.node).sessions_lost) ? plural(p.node.sessions_lost, "session") + " lost here" : ""].filter(Boolean).join(", ");
  const reigns = arr(p.timeline);
  const all = [
    vital("Nodes", str(nodes.length), "alive", sub, nodes.length === 0),
    vital("Terms seen", str(reigns.length), "", reigns.length > 1 ? "last vacancy " + span(vacancies(reigns)[reigns.length - 1]) : "no change of leader yet", false),
    vital("Shards held", total ? str(held) : "–", total ? "of " + total : "", unowned ? plural(unowned, "shard") + " without a holder" : total ? "none without a holder" : "no shard work here", unowned > 0),
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

// Time for which the office was vacant before each term, as seen by this node.
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
  // A node of this process that the cluster does not know (any more) is also shown, as not joined.
  const missing = [...own.values()].filter((s) => !nodes.some((n) => str(n.id) === str(s.id)));
  const leader = p.leader ? str(obj(p.leader).id) : null;
  const most = Math.max(1, ...nodes.map((n) => num(n.shards) || 0));
  const kill = arr(obj(p.server).actions).includes("kill");
  const everybody = nodes.concat(missing.map((s) => ({ id: s.id, address: s.address, absent: true, problem: s.problem })));
  // If not all nodes fit, the leader and the nodes of this process come first.
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
