"use strict";
// One episode to watch: its cameras, a time line with marks, and a panel of lines for each joint, all at one frame.
//
//   const player = new Player(root, {
//     fps, length,                                  // frames a second, frames
//     cameras: [{name, tiles: {url, width, height, columns}, first, every} | {name, video: url, first}],
//     panels: [{name, unit, lines: [{name, values}]}],  // a value for each frame; null where there is none
//     marks: [{frame, text, severity}],                 // severity: fatal, warning or note
//     task,
//     overlay,                                      // (context, frame, camera's place) => draws in pixels of a tile
//   });
//
// `first` is the tile or the frame of the video that shows frame 0, and a tile stands for `every` frames (1 when not
// given). Nothing plays by itself: player.play() does. Keys work wherever the focus is within the player.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const SHARPEST = 640; // pixels across to which small pictures are enlarged, so that overlays are sharp
const MOST_POINTS = 1200; // of a line; of more frames the smallest and the largest of each stretch are drawn

/** Return an element with attributes, listeners (names with "on") and children; texts stay texts. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Return a number as short as three or four digits can tell it. */
function brief(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("-", "−");
  return value.toFixed(size >= 100 ? 1 : size >= 1 ? 2 : 3).replace("-", "−");
}

/** Tell whether a person asked for less motion. */
function isStill() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** The pictures of a camera from a sheet of tiles. */
class Sheet {
  constructor(camera) {
    Object.assign(this, { first: 0, every: 1 }, camera.tiles, camera);
    this.size = this.#decode();
  }

  async #decode() {
    const image = new Image();
    image.src = this.url;
    await image.decode();
    this.bitmap = await createImageBitmap(image); // else the browser may decode it again for every frame
    return [this.width, this.height];
  }

  paint(context, frame) {
    const tile = this.first + Math.floor(frame / this.every);
    const [x, y] = [(tile % this.columns) * this.width, Math.floor(tile / this.columns) * this.height];
    context.drawImage(this.bitmap, x, y, this.width, this.height, 0, 0, this.width, this.height);
  }

  run() {}

  close() {
    this.bitmap?.close();
  }
}

/** The pictures of a camera from a video, which is sought to the frame that is asked for. */
class Film {
  constructor(camera, fps, repaint) {
    this.first = camera.first ?? 0;
    this.fps = fps;
    this.video = element("video", { muted: true, playsinline: true, preload: "auto", src: camera.video });
    this.video.muted = true; // the attribute alone mutes no element that a script made
    this.video.addEventListener("seeked", repaint);
    this.size = new Promise((done, failed) => {
      this.video.addEventListener("loadeddata", () => done([this.video.videoWidth, this.video.videoHeight]));
      this.video.addEventListener("error", () => failed(this.video.error));
    });
  }

  paint(context, frame) {
    const seconds = (this.first + frame + 0.5) / this.fps;
    const apart = Math.abs(this.video.currentTime - seconds) * this.fps;
    if (apart > (this.video.paused ? 0.4 : 4)) this.video.currentTime = seconds;
    context.drawImage(this.video, 0, 0);
  }

  run(speed) {
    if (!speed) return this.video.pause();
    this.video.playbackRate = speed;
    return this.video.play().catch(() => {}); // interrupted by a pause
  }

  close() {
    this.video.pause();
    this.video.removeAttribute("src");
  }
}

/** A camera's canvas, with what is drawn over its pictures. */
class Camera {
  constructor(camera, place, fps, overlay) {
    this.place = place;
    this.overlay = overlay;
    this.frame = 0;
    this.source = camera.video ? new Film(camera, fps, () => this.draw(this.frame)) : new Sheet(camera);
    this.canvas = element("canvas", { role: "img", "aria-label": camera.name });
    this.element = element("figure", { class: "camera" }, this.canvas, element("figcaption", {}, camera.name));
    this.source.size.then((size) => this.#fit(size)).catch(() => this.#fail());
  }

  #fit([width, height]) {
    this.scale = Math.max(1, Math.ceil(SHARPEST / width));
    [this.canvas.width, this.canvas.height] = [width * this.scale, height * this.scale];
    this.draw(this.frame);
  }

  #fail() {
    if (!this.isClosed) this.element.replaceChildren("The pictures of this camera cannot be shown here.");
  }

  draw(frame) {
    this.frame = frame;
    if (!this.scale || this.isClosed) return;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.imageSmoothingQuality = "high";
    this.source.paint(context, frame);
    context.save();
    this.overlay?.(context, frame, this.place);
    context.restore();
  }

  close() {
    this.isClosed = true;
    this.source.size.finally(() => this.source.close()).catch(() => {});
  }
}

/** The lines of a joint over time, with their values at the cursor. */
class Panel {
  constructor({ name, unit, lines }, length) {
    this.lines = lines;
    const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
    const [low, high] = [values, values].map((all, which) => all.reduce((a, b) => (which ? a > b : a < b) ? a : b, all[0]));
    this.outputs = lines.map(() => element("output", { "aria-live": "off" }));
    const title = unit ? `${name} (${unit})` : name;
    const legend = lines.map((line, place) =>
      element("span", { class: `value line-${place % 4}` }, lines.length > 1 ? `${line.name} ` : "", this.outputs[place]),
    );
    const range = element("span", { class: "range" }, `${brief(low)} to ${brief(high)}`);
    const head = element("div", {}, element("span", { class: "name", title }, title), range);
    const caption = element("figcaption", {}, head, element("div", {}, ...legend));
    const plot = element("div", { class: "plot" }, this.#drawing(title, length, low, high));
    this.element = element("figure", { class: "joint" }, caption, plot);
  }

  #drawing(title, length, low, high) {
    const make = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const label = `${title}, from ${brief(low)} to ${brief(high)}`;
    const svg = make("svg", { viewBox: `0 -4 ${Math.max(1, length - 1)} 108`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    this.height = (value) => (high > low ? (100 * (high - value)) / (high - low) : 50).toFixed(1);
    this.lines.forEach((line, place) => {
      svg.append(make("path", { class: `line-${place % 4}`, d: pathOf(line.values, this.height) }));
    });
    return svg;
  }

  show(frame) {
    this.lines.forEach((line, place) => {
      this.outputs[place].textContent = brief(line.values[frame]);
    });
  }
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
    this.element = element("div", { class: "player", onkeydown: (event) => this.#key(event) });
    this.element.append(...this.#stage(), this.#controls(), ...this.#marks(), this.#lines());
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
    for (const camera of this.cameras) camera.draw(this.frame);
    for (const panel of this.panels) panel.show(this.frame);
  }

  #stage() {
    const { task } = this.episode;
    const parts = task ? [element("p", { class: "task" }, task)] : [];
    if (this.cameras.length) {
      const label = "Pictures: space plays and pauses, arrow keys step, with shift by ten";
      const cameras = this.cameras.map((camera) => camera.element);
      const attributes = { class: "stage", tabindex: "0", role: "group", "aria-label": label, onclick: () => this.toggle() };
      const stage = element("div", attributes, ...cameras);
      const columns = cameras.length > 3 ? Math.ceil(Math.sqrt(cameras.length)) : cameras.length;
      const layout = { columns, rows: Math.ceil(cameras.length / columns), narrow: Math.min(columns, 2) };
      for (const [name, value] of Object.entries(layout)) stage.style.setProperty(`--${name}`, value);
      parts.push(stage);
    }
    return parts;
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

  #key(event) {
    const { key, target } = event;
    if (event.altKey || event.ctrlKey || event.metaKey || target.tagName === "SELECT") return;
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
