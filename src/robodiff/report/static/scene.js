"use strict";
// The scene of `robodiff play`: bodies that move evenly from one state to the next, or a picture; above them the chunks
// that a policy has drawn, and the pointer. Places are from 0 to 1 across the picture, from its left and upper edge.
// Needs sketch.js.

const MOST_PIXELS = 1024; // pixels across
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

class Scene {
  #canvas;
  #bodies; // [{color, outline, radius}], none where there is a picture
  #picture = null;
  #from = []; // poses [x, y, angle] when the latest state came
  #to = [];
  #since = 0; // milliseconds
  #lasts = 1;
  #fans = []; // as showFans has them, and since when, for how long each is seen to come about
  #age = 0;
  #plumb = [];
  #pointer = null;
  #waits = false; // for the next frame

  constructor(canvas, bodies) {
    this.#canvas = canvas;
    this.#bodies = bodies;
    new ResizeObserver(() => this.#fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    this.#fit();
  }

  /** Draw bodies in as many pixels as are seen. */
  #fit() {
    const side = Math.min(MOST_PIXELS, Math.round(this.#canvas.clientWidth * devicePixelRatio)) || MOST_PIXELS;
    if (this.#bodies.length) this.#shape(side, side);
    this.redraw();
  }

  /** Move bodies to poses within so many milliseconds. */
  move(poses, milliseconds) {
    const now = performance.now();
    this.#from = milliseconds > 0 && this.#to.length ? this.#poses(now) : poses;
    [this.#to, this.#since, this.#lasts] = [poses, now, Math.max(1, milliseconds)];
    this.redraw();
  }

  /** Show chunks, [{agent, number, chosen, paths: [[[x, y], ...], ...], stages: [paths, ...]}], of which so many steps are
   * done. Those of a new number come about within so many milliseconds: from noise on, through the stages that they
   * have at first. */
  showFans(fans, age, milliseconds) {
    const begins = { since: performance.now(), lasts: STILL.matches ? 0 : milliseconds };
    this.#fans = fans.map((fan) => {
      const before = this.#fans.find(({ agent, number }) => agent === fan.agent && number === fan.number);
      return { ...begins, ...before, ...fan, stages: fan.stages.length ? fan.stages : (before?.stages ?? []) };
    });
    this.#age = age;
    this.redraw();
  }

  /** Show the line from a hand down to what is below it; none of no points. */
  showPlumb(path) {
    this.#plumb = path;
    this.redraw();
  }

  /** Show a JPEG. */
  async showPicture(bytes) {
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    this.#picture?.close();
    this.#picture = bitmap;
    this.#shape(bitmap.width, bitmap.height);
    this.redraw();
  }

  /** Show where the pointer is, [x, y]; null for none. */
  showPointer(place) {
    this.#pointer = place;
    this.redraw();
  }

  redraw() {
    if (this.#waits) return;
    this.#waits = true;
    requestAnimationFrame((now) => this.#draw(now));
  }

  #shape(width, height) {
    const canvas = this.#canvas;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    canvas.style.setProperty("--aspect", width / height);
  }

  #draw(now) {
    this.#waits = false;
    const context = this.#canvas.getContext("2d");
    const colors = getComputedStyle(this.#canvas);
    drawBodies(context, this.#bodies, this.#poses(now));
    if (this.#picture) context.drawImage(this.#picture, 0, 0);
    for (const fan of this.#fans) this.#drawFan(context, fan, colors, now);
    if (this.#plumb.length) drawPlumb(context, this.#plumb, colors.getPropertyValue("--plan"));
    if (this.#pointer) drawPointer(context, this.#pointer, colors.getPropertyValue("--plan"));
    const moves = [...this.#fans, ...(this.#to.length ? [{ since: this.#since, lasts: this.#lasts }] : [])];
    if (moves.some(({ since, lasts }) => now < since + lasts)) this.redraw();
  }

  #poses(now) {
    const share = Math.min(1, Math.max(0, (now - this.#since) / this.#lasts));
    return this.#to.map((to, place) => poseBetween(this.#from[place], to, share));
  }

  #drawFan(context, { chosen, paths, stages, since, lasts }, colors, now) {
    if (!paths.length) return;
    const done = lasts > 0 ? Math.min(1, Math.max(0, (now - since) / lasts)) : 1;
    const shown = done < 1 ? between([...stages, paths], done) : paths;
    const unit = context.canvas.width / 512;
    const line = (path, color, thickness, alpha) => {
      context.globalAlpha = alpha * (0.3 + 0.7 * done);
      context.strokeStyle = color;
      context.lineWidth = thickness * unit;
      tracePath(context, path);
      context.stroke();
    };
    context.lineJoin = context.lineCap = "round";
    shown.forEach((path, place) => place !== chosen && line(path, colors.getPropertyValue("--fan"), 1.4, 0.55));
    line(shown[chosen], colors.getPropertyValue("--plan"), 2, 0.35);
    line(shown[chosen].slice(Math.max(0, this.#age - 1)), colors.getPropertyValue("--plan"), 3, done);
    context.globalAlpha = 1;
  }
}

/** Return paths between stages of them, from 0, the first stage, to 1, the last. */
function between(stages, share) {
  const place = share * (stages.length - 1);
  const [from, to] = [stages[Math.floor(place)], stages[Math.ceil(place)]];
  const mix = (a, b) => (a === null || b === null ? null : a + (place % 1) * (b - a));
  return from.map((path, p) => path.map((point, n) => point.map((value, d) => mix(value, to[p][n]?.[d] ?? null))));
}

function drawPlumb(context, path, color) {
  const [x, y] = path.at(-1);
  const unit = context.canvas.width / 512;
  context.strokeStyle = context.fillStyle = color;
  context.lineWidth = unit;
  context.setLineDash([4 * unit, 3 * unit]);
  tracePath(context, path);
  context.stroke();
  context.setLineDash([]);
  context.beginPath();
  context.ellipse(x * context.canvas.width, y * context.canvas.height, 4 * unit, 2 * unit, 0, 0, 2 * Math.PI);
  context.fill();
}

function drawPointer(context, [x, y], color) {
  const { width, height } = context.canvas;
  const arm = width / 64;
  context.strokeStyle = color;
  context.lineWidth = width / 256;
  context.beginPath();
  context.moveTo(x * width - arm, y * height);
  context.lineTo(x * width + arm, y * height);
  context.moveTo(x * width, y * height - arm);
  context.lineTo(x * width, y * height + arm);
  context.stroke();
}
