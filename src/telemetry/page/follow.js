// The connection to the node, the list of problems, and the buttons. Loaded last: this file starts the
// page.

// ---- problems ----
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

// ---- the connection: a stream, and polling if there is no stream ----
// All addresses are relative: the page works below any path that a proxy gives it.
let source = null;
let asking = false;
// Picture that the next change of the stream applies to; polling returns other pictures.
let base = null;

function connect() {
  if (source) source.close();
  base = null;
  source = new EventSource("events");
  const on = (name, next) => source.addEventListener(name, (event) => {
    try {
      base = next(JSON.parse(event.data));
    } catch {
      return;
    }
    if (base === null) return;
    link("live");
    receive(base);
  });
  on("status", (picture) => picture);
  on("change", (change) => (base === null ? null : changed(base, change)));
}

// Returns a picture with a change applied. `[value]` replaces, `[]` removes, `{…}` changes fields or places
// in a list; "+" of a list comes first: [index, number of removed items, new items].
function changed(old, change) {
  if (Array.isArray(change)) return change[0];
  let fresh;
  if (Array.isArray(old)) {
    const [at, gone, come] = change["+"] || [0, 0, []];
    fresh = old.slice(0, at).concat(come, old.slice(at + gone));
  } else fresh = { ...obj(old) };
  for (const [key, part] of Object.entries(change)) {
    if (key === "+" && Array.isArray(old)) continue;
    if (key === "__proto__") continue;
    if (Array.isArray(part) && part.length === 0) delete fresh[key];
    else fresh[key] = changed(fresh[key], part);
  }
  return fresh;
}

async function poll() {
  // No polling while the stream delivers pictures.
  if (asking || pictureAge() < POLL_EVERY_MS) return;
  asking = true;
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    const picture = answer.ok ? await answer.json() : null;
    if (picture) {
      link("poll");
      receive(picture);
    }
    if (!source || source.readyState === EventSource.CLOSED) connect();
  } catch {
    // The connection is lost; the age of the picture shows that. After a refusal the browser never retries
    // a stream by itself.
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
    const answer = await fetch("actions/" + name, {
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
  // There is no first picture: the stream delivers one.
}
connect();
watchLink();
setInterval(watchLink, matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 100);
setInterval(poll, POLL_EVERY_MS);
