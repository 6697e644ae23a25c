"use strict";
// One episode to watch: its cameras, a time line with marks, and a panel of lines for each joint, all at one frame.
//
//   const player = new Player(root, {
//     fps, length,                                  // frames a second, frames
//     cameras: [{name, tiles: {url, width, height, columns, at}, every} | {name, tiles: {width, height, frames, bodies, poses}}
//               | {name, video: url}],
//     panels: [{name, unit, lines: [{name, values}]}],  // a value for each frame; null where there is none
//     marks: [{frame, text, severity}],                 // severity: fatal, warning or note
//     task,
//     overlay,                                      // (context, frame, camera's place) => draws in pixels of a tile
//   });
//
// A tile stands for `every` frames (1 when not given) or, where `at` lists the frame of each, until the next one. Nothing
// plays by itself: player.play() does. Keys work wherever the focus is within the player. Needs cameras.js.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const MOST_POINTS = 1200; // of a line; of more frames the smallest and the largest of each stretch are drawn

/** Return a number with about three digits of the span within which it lies. */
function brief(value, span) {
  if (value === null || value === undefined) return "–";
  const size = Math.max(Math.abs(value), span);
  const isPlain = size === 0 || (size >= 1e-4 && size < 1e6);
  const decimals = Math.min(Math.max(3 - Math.ceil(Math.log10(span || size || 1)), 0), 6);
  const text = isPlain ? value.toFixed(decimals) : value.toExponential(2);
  return text.replace(/^-(?=[0.]+$)/, "").replaceAll("-", "−");
}

/** The lines of a joint over time, with their values at the cursor. */
class Panel {
  constructor({ name, unit, lines }, length) {
    this.lines = lines;
    const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
    const [low, high] = [values, values].map((all, which) => all.reduce((a, b) => (which ? a > b : a < b) ? a : b, all[0]));
    this.span = values.length ? high - low : 0;
    this.outputs = lines.map(() => element("output", { "aria-live": "off" }));
    const title = unit ? `${name} (${unit})` : name;
    const legend = lines.map((line, place) =>
      element("span", { class: `value line-${place % 4}` }, lines.length > 1 ? `${line.name} ` : "", this.outputs[place]),
    );
    const extent = [low, high].map((end) => brief(end, this.span)).join(" to ");
    const range = element("span", { class: "range" }, this.span || !values.length ? extent : "constant");
    const head = element("div", {}, element("span", { class: "name", title }, title), range);
    const caption = element("figcaption", {}, head, element("div", {}, ...legend));
    const plot = element("div", { class: "plot" }, this.#drawing(`${title}, ${extent}`, length, low, high));
    this.element = element("figure", { class: "joint" }, caption, plot);
  }

  #drawing(label, length, low, high) {
    const make = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const svg = make("svg", { viewBox: `0 -4 ${Math.max(1, length - 1)} 108`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    this.height = (value) => (high > low ? (100 * (high - value)) / (high - low) : 50 + 100 * (low - value)).toFixed(1);
    this.lines.forEach((line, place) => {
      const shape = { class: `line-${place % 4}`, d: pathOf(line.values, this.height), "vector-effect": "non-scaling-stroke" };
      svg.append(make("path", shape));
    });
    return svg;
  }

  show(frame) {
    this.lines.forEach((line, place) => {
      this.outputs[place].textContent = brief(line.values[frame], this.span);
    });
  }
}

/** Return in how many columns so many pictures are largest, on a stage about twice as wide as high. */
function columnsOf(count, aspect) {
  const widthIn = (columns) => Math.min(2 / columns, aspect / Math.ceil(count / columns));
  let best = count;
  for (let columns = count - 1; columns > 0; columns -= 1) if (widthIn(columns) > widthIn(best)) best = columns;
  return best;
}

/** Return the path through values, one a frame, with a gap where there is none. */
function pathOf(values, height) {
  const stretch = Math.ceil((2 * values.length) / MOST_POINTS);
  const parts = [];
  let isOpen = false;
  const go = (frame) => {
    if (values[frame] === null) isOpen = false;
    else parts.push(`${isOpen ? "L" : "M"}${frame},${height(values[frame])}${isOpen ? "" : "h0"}`); // h0: a lone one is a dot
    isOpen = values[frame] !== null;
  };
  for (let start = 0; start < values.length; start += stretch) {
    let [least, most] = [start, start];
    for (let frame = start; frame < Math.min(start + stretch, values.length); frame += 1) {
      if (values[frame] < values[least]) least = frame;
      if (values[frame] > values[most]) most = frame;
    }
    go(Math.min(least, most));
    if (least !== most) go(Math.max(least, most));
  }
  return parts.join("");
}

/** An episode on a stage: see the top of this file. */
class Player {
  #position = 0; // frames, not whole while it plays
  #speed = 1;
  #before = 0;
  #request = 0;

  constructor(root, episode) {
    this.root = root;
    this.episode = episode;
    this.frame = 0;
    this.last = episode.length - 1;
    this.cameras = (episode.cameras ?? []).map((each, place) => new Camera(each, place, episode.fps, episode.overlay));
    this.panels = (episode.panels ?? []).map((each) => new Panel(each, episode.length));
    this.element = element("div", { class: "player", onkeydown: (event) => this.press(event) });
    const screen = element("div", { class: "screen" }, ...this.#stage(), this.#controls());
    const task = episode.task ? [element("p", { class: "task" }, episode.task)] : [];
    this.element.append(...task, screen, ...this.#marks(), this.#lines());
    root.replaceChildren(this.element);
    this.atPrint = () => this.show(0);
    addEventListener("beforeprint", this.atPrint);
    this.show(0);
  }

  /** Show a frame, or the nearest that there is. */
  show(frame) {
    this.#position = Math.min(Math.max(frame, 0), this.last);
    this.#draw();
  }

  /** Play from here, from the start where it has ended. */
  play() {
    if (this.isPlaying || this.last < 1) return;
    if (this.frame === this.last) this.#position = 0;
    this.#before = performance.now();
    this.#request = requestAnimationFrame((now) => this.#tick(now));
    this.#run();
  }

  pause() {
    cancelAnimationFrame(this.#request);
    this.#request = 0;
    this.#position = this.frame;
    this.#run();
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  get isPlaying() {
    return this.#request !== 0;
  }

  /** Stop, and let go of the pictures; the root may be filled anew. */
  close() {
    this.pause();
    removeEventListener("beforeprint", this.atPrint);
    for (const camera of this.cameras) camera.close();
  }

  #tick(now) {
    this.#position += ((now - this.#before) / 1000) * this.episode.fps * this.#speed;
    this.#before = now;
    if (this.#position >= this.last) {
      this.show(this.last);
      this.pause();
      return;
    }
    this.#draw();
    this.#request = requestAnimationFrame((next) => this.#tick(next));
  }

  #run() {
    this.button.textContent = this.isPlaying ? "Pause" : "Play";
    for (const camera of this.cameras) camera.source.run(this.isPlaying ? this.#speed : 0);
  }

  #draw() {
    const { fps } = this.episode;
    this.frame = Math.floor(this.#position);
    const where = `${this.frame} of ${this.last}`;
    const seconds = `${(this.frame / fps).toFixed(fps > 20 ? 2 : 1)} s`;
    this.slider.value = this.frame;
    this.slider.setAttribute("aria-valuetext", `frame ${where}, ${seconds}`);
    this.clock.textContent = `${where} · ${seconds}`;
    this.element.style.setProperty("--at", this.last ? this.frame / this.last : 0);
    for (const camera of this.cameras) camera.draw(this.#position);
    for (const panel of this.panels) panel.show(this.frame);
  }

  #stage() {
    const cameras = this.cameras.map((camera) => camera.element);
    if (!cameras.length) return [];
    const label = "Pictures: space plays and pauses, arrow keys step, with shift by ten";
    const attributes = { class: "stage", tabindex: "0", role: "group", "aria-label": label, onclick: () => this.toggle() };
    const stage = element("div", attributes, ...cameras);
    const { width, height } = this.episode.cameras[0].tiles ?? { width: 4, height: 3 };
    const columns = columnsOf(cameras.length, width / height);
    const narrow = Math.min(columns, 2);
    const [rows, low] = [columns, narrow].map((each) => Math.ceil(cameras.length / each));
    for (const [name, value] of Object.entries({ columns, rows, narrow, low })) stage.style.setProperty(`--${name}`, value);
    return [stage];
  }

  #controls() {
    this.button = element("button", { type: "button", class: "play", onclick: () => this.toggle() }, "Play");
    const step = (sign, label) =>
      element("button", { type: "button", "aria-label": label, title: label, onclick: () => this.#step(sign) }, sign < 0 ? "‹" : "›");
    const oninput = () => this.#jump(Number(this.slider.value));
    this.slider = element("input", { type: "range", min: 0, max: Math.max(this.last, 1), step: 1, "aria-label": "Frame", oninput });
    this.slider.disabled = this.last < 1;
    this.clock = element("span", { class: "clock" });
    const onchange = (event) => {
      this.#speed = Number(event.target.value);
      if (this.isPlaying) this.#run();
    };
    const options = SPEEDS.map((speed) => element("option", { value: speed, selected: speed === 1 }, `${speed}×`));
    const speed = element("select", { "aria-label": "Speed", onchange }, ...options);
    this.ticks = element("div", { class: "ticks", "aria-hidden": "true" });
    const time = element("div", { class: "time" }, this.slider, this.ticks);
    const buttons = [this.button, step(-1, "Step back"), step(1, "Step on")];
    return element("div", { class: "controls" }, ...buttons, time, this.clock, speed);
  }

  #marks() {
    const marks = [...(this.episode.marks ?? [])].sort((a, b) => a.frame - b.frame);
    for (const mark of marks) {
      const tick = element("span", { class: `tick ${mark.severity}`, title: mark.text });
      tick.style.left = `${this.last ? (100 * mark.frame) / this.last : 0}%`;
      this.ticks.append(tick);
    }
    const items = marks.map((mark) => {
      const button = element("button", { type: "button", onclick: () => this.#jump(mark.frame) }, `Frame ${mark.frame}`);
      return element("li", {}, button, " ", element("b", { class: mark.severity }, mark.severity), `: ${mark.text}`);
    });
    return items.length ? [element("ul", { class: "marks", "aria-label": "What is unusual in it" }, ...items)] : [];
  }

  #lines() {
    const scrub = (event) => {
      const plot = event.target.closest(".plot");
      if (!plot || !(event.buttons & 1)) return;
      const box = plot.getBoundingClientRect();
      this.#jump(Math.round(((event.clientX - box.left) / box.width) * this.last));
    };
    const attributes = { class: "joints", onpointerdown: scrub, onpointermove: scrub };
    return element("div", attributes, ...this.panels.map((panel) => panel.element));
  }

  #jump(frame) {
    if (this.isPlaying) this.pause();
    this.show(frame);
  }

  #step(frames) {
    this.#jump(this.frame + frames);
  }

  /** Do what a key asks for, wherever it was pressed. */
  press(event) {
    const { key, target } = event;
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || target.tagName === "SELECT") return;
    const many = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => this.#step(-many),
      ArrowRight: () => this.#step(many),
      Home: () => this.#jump(0),
      End: () => this.#jump(this.last),
      " ": () => this.toggle(),
    };
    if (!Object.hasOwn(actions, key) || (key === " " && target.tagName === "BUTTON")) return;
    event.preventDefault();
    actions[key]();
  }
}
