"use strict";
// What all pages that play episodes share: elements, and cameras, whose pictures are tiles of a sheet or a video.

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

  paint(context, frame) {
    const tile = this.at ? Math.max(0, this.at.findLastIndex((each) => each <= frame)) : Math.floor(frame / this.every);
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
    const seconds = (frame + 0.5) / this.fps;
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
