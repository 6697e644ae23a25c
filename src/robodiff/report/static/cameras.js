"use strict";
// What all pages that play episodes share: elements, and cameras, whose pictures are tiles of a sheet, a video, or bodies
// that are drawn, which needs sketch.js.

const SHARPEST = 640; // pixels across to which small pictures are enlarged, so that overlays are sharp

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

/** Tell whether a person asked for less motion. */
function isStill() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Return what paints the pictures of a camera. */
function sourceOf(camera, fps, repaint) {
  if (camera.video) return new Film(camera, fps, repaint);
  return camera.tiles.poses ? new Sketch(camera.tiles) : new Sheet(camera);
}

/** The pictures of a camera from a sheet of tiles. */
class Sheet {
  constructor(camera) {
    Object.assign(this, { every: 1 }, camera.tiles, camera);
    this.size = this.#decode();
  }

  async #decode() {
    const image = new Image();
    image.src = this.url;
    await image.decode();
    this.bitmap = await createImageBitmap(image); // else the browser may decode it again for every frame
    return [this.width, this.height];
  }

  get isReady() {
    return this.bitmap !== undefined;
  }

  paint(context, moment) {
    const frame = Math.floor(moment);
    const tile = this.at ? Math.max(0, this.at.findLastIndex((each) => each <= frame)) : Math.floor(frame / this.every);
    const [x, y] = [(tile % this.columns) * this.width, Math.floor(tile / this.columns) * this.height];
    context.drawImage(this.bitmap, x, y, this.width, this.height, 0, 0, this.width, this.height);
  }

  run() {}

  close() {
    this.bitmap?.close();
  }
}

/** An episode whose bodies are drawn: `poses[body]` has x, y and angle, each at every frame, or once if it stays. */
class Sketch {
  isReady = true;

  constructor({ bodies, poses }) {
    Object.assign(this, { bodies, poses });
    this.size = Promise.resolve([SHARPEST, SHARPEST]);
  }

  /** Draw a moment, which may lie between two frames. */
  paint(context, moment) {
    const frame = Math.floor(moment);
    const at = (pose, when) => pose.map((values) => values[Math.min(when, values.length - 1)]);
    const poses = this.poses.map((pose) => poseBetween(at(pose, frame), at(pose, frame + 1), moment - frame));
    drawBodies(context, this.bodies, poses);
  }

  run() {}

  close() {}
}

/** The pictures of a camera from a video, which is sought to the frame that is asked for. */
class Film {
  constructor(camera, fps, repaint) {
    this.fps = fps;
    this.video = element("video", { muted: true, playsinline: true, preload: "auto", src: camera.video });
    this.video.muted = true; // the attribute alone mutes no element that a script made
    this.video.addEventListener("seeked", repaint);
    this.size = new Promise((done, failed) => {
      this.video.addEventListener("loadeddata", () => done([this.video.videoWidth, this.video.videoHeight]));
      this.video.addEventListener("error", () => failed(this.video.error));
    });
  }

  paint(context, moment) {
    const seconds = (Math.floor(moment) + 0.5) / this.fps;
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
    this.moment = 0;
    this.source = sourceOf(camera, fps, () => this.draw(this.moment));
    this.canvas = element("canvas", { role: "img", "aria-label": camera.name });
    this.element = element("figure", { class: "camera" }, this.canvas, element("figcaption", {}, camera.name));
    this.source.size.then((size) => this.#fit(size)).catch(() => this.#fail());
  }

  #fit([width, height]) {
    this.scale = Math.max(1, Math.ceil(SHARPEST / width));
    [this.canvas.width, this.canvas.height] = [width * this.scale, height * this.scale];
    this.draw(this.moment);
  }

  #fail() {
    if (!this.isClosed) this.element.replaceChildren("The pictures of this camera cannot be shown here.");
  }

  /** Draw a moment: frames, not whole while it plays. */
  draw(moment) {
    this.moment = moment;
    if (!this.scale || this.isClosed) return;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.imageSmoothingQuality = "high";
    this.source.paint(context, moment);
    context.save();
    this.overlay?.(context, Math.floor(moment), this.place);
    context.restore();
  }

  close() {
    this.isClosed = true;
    this.source.size.finally(() => this.source.close()).catch(() => {});
  }
}
