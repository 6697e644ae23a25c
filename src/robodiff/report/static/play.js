"use strict";
// The page of `robodiff play`: pointer, keys and buttons become messages to the stage, whose states are shown.

const about = JSON.parse(document.getElementById("about").textContent);
const byId = (id) => document.getElementById(id); // null where the page has no such thing
const canvas = byId("scene");
const scene = new Scene(canvas, about.bodies);
const SLIDE = 0.01; // across the picture, of a stroke of an arrow key
const TURN = Math.PI / 24; // rad, of a stroke or a notch, of what is held
const COMES_ABOUT = 4; // steps within which chunks are seen to come about from noise

let socket = null;
let state = null; // the latest one of the stage
let place = [0.5, 0.5]; // of the pointer
let held = null; // {turn} of what the pointer has taken
let moved = false; // since it was told
let steps = false; // asked for, and not shown yet
let wheel = 0; // pixels, of less than a notch

function connect() {
  const address = new URL("socket", location.href);
  address.protocol = "ws:";
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", ({ data }) => {
    if (typeof data !== "string") return scene.showPicture(data);
    const message = JSON.parse(data);
    return message.kind === "state" ? show(message) : say(message.note, true);
  });
  socket.addEventListener("close", () => {
    for (const each of document.querySelectorAll(".play button")) each.disabled = true;
    say("robodiff play has ended, or the connection to it is lost: reload the page, or start it again.", true);
  });
}

function tell(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

/** Show a state of the stage. */
function show(latest) {
  const before = state;
  state = latest;
  steps = false;
  const goesOn = before !== null && before.seed === state.seed && before.step + 1 === state.step;
  scene.move(state.bodies, goesOn ? 1000 / (about.fps * state.speed) : 0);
  scene.showFans(state.fans, state.age, (COMES_ABOUT * 1000) / (about.fps * state.speed));
  scene.showPlumb(state.by_person ? state.plumb : []);
  const anew = before === null || state.seed !== before.seed || (state.step === 0 && before.step > 0);
  if (anew || state.agent !== before.agent || (state.by_person && !before.by_person)) place = state.hand;
  showPointer();
  showFigures();
  showButtons();
  const [text, isTrouble] = whatNow();
  say(text, isTrouble);
}

function showPointer() {
  scene.showPointer(state.by_person && state.phase !== "ended" ? place : null);
  canvas.classList.toggle("free", about.can_grab && !state.by_person);
  canvas.classList.toggle("holds", held !== null);
}

function showFigures() {
  put("who", about.policy === null ? "You act" : state.by_person ? "You act" : "The policy acts");
  put("outcome", state.success ? "success" : state.phase === "ended" ? "no success" : state.paused ? "paused" : "");
  byId("outcome").className = state.success ? "good" : state.phase === "ended" ? "bad" : "soft";
  put("seed", String(state.seed));
  put("step", `${state.step} (${(state.step / about.fps).toFixed(1)} s)`);
  put("reward", state.reward === null ? "–" : state.reward.toFixed(2));
  put("kept", String(state.kept));
  put("chunk", state.chunk_ms ? `${state.samples + 1} in ${state.chunk_ms} ms` : "–");
  fillIn("speed", state.speed);
  fillIn("agent", state.agent);
  fillIn("at", state.seed);
  fillIn("sampler", state.sampler);
  fillIn("steps", state.steps);
  fillIn("samples", state.samples);
}

function showButtons() {
  const { phase } = state;
  put("play", phase === "ready" ? "Start" : phase === "ended" ? "Ended" : state.paused ? "Go on" : "Pause", "span");
  put("take", state.by_person ? "Hand back" : "Take over", "span");
  put("again", phase === "ended" && state.can_keep ? "Discard, same start" : "Same start again", "span");
  allow("play", phase !== "ended");
  allow("one", phase === "ready" || (phase === "running" && state.paused));
  allow("end", phase === "running");
  allow("take", phase !== "ended");
  allow("keep", state.can_keep);
  byId("keep")?.classList.toggle("asked", state.can_keep);
}

/** Return what a person is to be told now, and whether it is trouble. */
function whatNow() {
  const { phase, by_person: byPerson } = state;
  if (state.note) return [state.note, !state.note.startsWith("kept")];
  if (phase === "ready") return [byPerson ? "Press in the picture, or Space, to start." : "Space starts the policy.", false];
  if (phase === "running" && state.paused) return ["Time stands still; Space lets it go on.", false];
  if (phase === "running") return [state.success && byPerson ? "There it is: hold it for a second." : "", false];
  const outcome = state.success ? "Success." : "The episode has ended without success.";
  if (state.can_keep) return [`${outcome} Keep it (K), or discard it and begin again (D)?`, false];
  return [`${outcome} Again (D), or the next start (N)?`, false];
}

function say(text, isTrouble) {
  put("say", text);
  byId("say").classList.toggle("trouble", isTrouble);
}

/** Set the text of an element, or of a part of it; unchanged text is left alone, for it would be read out again. */
function put(id, text, part) {
  const element = part ? byId(id)?.querySelector(part) : byId(id);
  if (element && element.textContent !== text) element.textContent = text;
}

function allow(id, isAllowed) {
  const button = byId(id);
  if (button) button.disabled = !isAllowed;
}

/** Set a field, unless a person is about to. */
function fillIn(id, value) {
  const field = byId(id);
  if (field && field !== document.activeElement) field.value = String(value);
}

// What a person does

const actions = {
  play: () => tell({ do: state.phase === "running" && !state.paused ? "pause" : "start" }),
  one: () => {
    if (!steps) tell({ do: "step", x: place[0], y: place[1] }); // a key that is held does not run ahead of a slow policy
    steps = true;
  },
  end: () => tell({ do: "end" }),
  take: () => tell({ do: state.by_person ? "give" : "take" }),
  keep: () => tell({ do: "keep" }),
  again: () => tell({ do: "discard" }),
  next: () => tell({ do: "reset", seed: state.seed + 1 }),
};
const keys = { " ": "play", ".": "one", Enter: "end", t: "take", k: "keep", d: "again", n: "next" };
const strokes = { w: { lift: 1 }, s: { lift: -1 }, q: { turn: 1 }, e: { turn: -1 }, g: { grip: true } };
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressed(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const at = event.target;
  if (state === null || event.ctrlKey || event.metaKey || event.altKey || at.matches("input, select")) return;
  if (at.matches("button, summary") && (key === " " || key === "Enter")) return;
  const [name] = Object.keys(strokes[key] ?? {});
  if (key in arrows) {
    const far = event.shiftKey ? 5 : 1;
    point(place[0] + far * SLIDE * arrows[key][0], place[1] + far * SLIDE * arrows[key][1]);
  } else if (keys[key] && byId(keys[key]) && !byId(keys[key]).disabled) {
    if (!event.repeat || key === ".") actions[keys[key]]();
  } else if (held !== null && name === "turn") {
    turnHeld(-strokes[key].turn);
  } else if (name && about.keys.includes(name) && !(name === "grip" && event.repeat)) {
    tell({ do: "hand", ...strokes[key] });
  } else {
    return;
  }
  event.preventDefault();
}

/** Move the pointer there; the stage is told with the next frame. */
function point(x, y) {
  place = [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
  showPointer();
  if (moved) return;
  moved = true;
  requestAnimationFrame(() => {
    moved = false;
    if (held !== null) tell({ do: "drag", x: place[0], y: place[1], turn: held.turn });
    else if (state.by_person) tell({ do: "hand", x: place[0], y: place[1] });
  });
}

function pointAt(event) {
  const box = canvas.getBoundingClientRect();
  point((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}

function turnHeld(strokesOnward) {
  held.turn += TURN * strokesOnward;
  tell({ do: "drag", x: place[0], y: place[1], turn: held.turn });
}

function down(event) {
  if (state === null || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  pointAt(event);
  if (about.can_grab && state.phase !== "ended" && (event.shiftKey || !state.by_person)) {
    held = { turn: 0 };
    tell({ do: "grab", x: place[0], y: place[1] });
    showPointer();
  } else if (state.by_person) {
    tell({ do: "hand", x: place[0], y: place[1] });
    if (state.phase === "ready") tell({ do: "start" });
  }
}

function up() {
  if (held === null) return;
  held = null;
  tell({ do: "drop" });
  showPointer();
}

function rolled(event) {
  if (state === null || (held === null && !about.keys.includes("lift"))) return;
  event.preventDefault();
  wheel += event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1);
  const notches = Math.trunc(wheel / 100);
  wheel -= 100 * notches;
  if (notches && held !== null) turnHeld(notches);
  else if (notches) tell({ do: "hand", lift: -notches });
}

/** Tell the stage of a field that was changed to a value that it may have. */
function onChange(id, message) {
  byId(id)?.addEventListener("change", ({ target }) => target.reportValidity() && tell(message(target.value)));
}

for (const [id, act] of Object.entries(actions)) byId(id)?.addEventListener("click", () => state && act());
onChange("speed", (value) => ({ do: "speed", speed: Number(value) }));
onChange("agent", (value) => ({ do: "agent", agent: Number(value) }));
onChange("sampler", (value) => ({ do: "sampling", sampler: value }));
onChange("steps", (value) => ({ do: "sampling", steps: Number(value) }));
onChange("samples", (value) => ({ do: "samples", samples: Number(value) }));
byId("go").addEventListener("submit", (event) => {
  event.preventDefault();
  tell({ do: "reset", seed: Number(byId("at").value) });
});
canvas.addEventListener("pointerdown", down);
canvas.addEventListener("pointermove", (event) => state && pointAt(event));
canvas.addEventListener("pointerup", up);
canvas.addEventListener("pointercancel", up);
canvas.addEventListener("wheel", rolled, { passive: false });
document.addEventListener("keydown", pressed);
document.querySelector(".play").hidden = false;
connect();
