"use strict";
// An episode of a policy for the player: what it did next, the chunk that it drew at every moment, and at some those
// that it might have drawn, over the picture where actions are places in it, and over the lines of its actions. Needs
// cameras.js and player.js.
//
// An episode of a page: {seed, success, stopped, reward, length, values, pictures, fans}; what all share, `shared`:
// {fps, extent, panels: [{name, unit, lines}]}. `values[panel][line]` has a value for each frame, `pictures` are bodies
// and poses or tiles, of which `at` says which frame each shows, `fans` is
// {at, chunks: [moment][sample][step][dimension], sampled_at, samples, dimensions, path}.

const NEXT_STEPS = 8; // that are drawn where no fan is
const CONSIDERED = "#2563eb";
const EXECUTED = "#f08c00";

/** Return the moment whose chunks reach a frame: its first frame, and the chunks; nothing where there is none. */
function fanAt({ at, chunks }, frame) {
  const place = at.findLastIndex((moment) => moment <= frame);
  return place >= 0 && frame < at[place] + chunks[place][0].length ? { from: at[place], chunks: chunks[place] } : undefined;
}

/** Draw where an episode went on, and its fan, over a picture in whose units its actions are. */
function drawFan(context, frame, { fans }, [left, right, bottom, top]) {
  const { canvas } = context;
  const scale = context.getTransform().a;
  const [width, height] = [canvas.width / scale, canvas.height / scale];
  const draw = (path, colour, thickness) => {
    if (path.length < 1) return;
    const places = path.map(([x, y]) => [((x - left) / (right - left)) * width, ((y - top) / (bottom - top)) * height]);
    context.beginPath();
    for (const place of places) context.lineTo(...place);
    context.lineJoin = context.lineCap = "round";
    for (const [style, wide] of [["rgb(255 255 255 / 75%)", 2.2], [colour, 1]]) {
      context.strokeStyle = style;
      context.lineWidth = (thickness * wide * width) / 128;
      context.stroke();
    }
    context.fillStyle = colour;
    context.beginPath();
    context.arc(...places.at(-1), (1.6 * thickness * width) / 128, 0, 7);
    context.fill();
  };
  const fan = fanAt(fans, frame);
  for (const chunk of fan?.chunks ?? []) draw(chunk, CONSIDERED, 0.6);
  const from = fan?.from ?? frame;
  draw(fans.path.slice(from, from + (fan?.chunks[0].length ?? NEXT_STEPS)), EXECUTED, 0.9);
}

/** Chunks over the lines of one panel of a player, which are the same dimension of the action. */
class FanLines {
  constructor(panel, fans, dimension) {
    Object.assign(this, { panel, fans, dimension });
    this.path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.path.setAttribute("class", "fan");
    this.path.setAttribute("vector-effect", "non-scaling-stroke");
    panel.element.querySelector(".plot svg").append(this.path);
  }

  show(frame) {
    const fan = fanAt(this.fans, frame);
    if (fan?.from === this.shown) return;
    this.shown = fan?.from;
    const point = (step, ahead) => `${fan.from + ahead},${this.panel.height(step[this.dimension])}`;
    const line = (chunk) => "M" + chunk.map(point).join("L");
    this.path.setAttribute("d", fan ? fan.chunks.map(line).join("") : "");
  }
}

/** Return the camera of an episode for the player. */
function cameraOf({ pictures }, name) {
  return { name, tiles: pictures };
}

/** Return an overlay for the cameras of some episodes: their fans until they have ended. */
function overlayOf(episodes, extent) {
  return (context, frame, place) => {
    if (extent && frame < episodes[place].length) drawFan(context, frame, episodes[place], extent);
  };
}

/** Return a word and a sign for how an episode ended. */
function outcomeOf({ success, stopped }) {
  return success ? "✓ succeeded" : stopped ? "✗ stopped" : "✗ failed";
}

/** Tell whether more chunks were sampled in an episode than those that it drew. */
function isSampled({ fans }) {
  return fans.sampled_at.length > 0;
}

/** Say what is drawn over the pictures and the lines of some episodes. */
function legendOf(episodes, extent) {
  const line = (kind, words) => element("span", {}, element("span", { class: kind }), ` ${words}`);
  const next = extent && episodes.some(({ pictures }) => pictures) ? [line("executed", "what it did next")] : [];
  const sampled = episodes.find(isSampled);
  if (sampled) return [...next, line("considered", `the chunk that it drew, and at some steps ${sampled.fans.samples} others that it might have drawn`)];
  return episodes.some(({ fans }) => fans.at.length) ? [...next, line("considered", "the chunk that it drew")] : next;
}
