"use strict";
// The values of a figure's lines at the pointer, or where the arrow keys went: of every <svg data-lines="...">, which
// says where its axes lie, as shares of the figure, what they span, and the points of its lines.

/** A figure whose values are told. */
class Curves {
  constructor(svg) {
    Object.assign(this, JSON.parse(svg.dataset.lines), { svg });
    const figure = svg.parentElement;
    this.steps = [...new Set(this.lines.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
    if (!this.steps.length) return;
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    Object.assign(this, { width, height });
    this.rule = this.#shape("line", { y1: this.box[1] * height, y2: this.box[3] * height, stroke: "currentColor", "stroke-width": 0.7 });
    this.dots = this.lines.map(({ colour }) => this.#shape("circle", { r: 2.6, fill: colour }));
    this.reading = document.createElement("p");
    this.reading.className = "reading";
    this.reading.setAttribute("aria-live", "polite");
    figure.append(this.reading);
    figure.tabIndex = 0;
    figure.classList.add("told");
    svg.addEventListener("pointermove", (event) => this.#point(event));
    svg.addEventListener("pointerdown", (event) => this.#point(event));
    figure.addEventListener("pointerleave", () => this.hide());
    figure.addEventListener("blur", () => this.hide());
    figure.addEventListener("keydown", (event) => this.#key(event));
    this.hide();
  }

  hide() {
    for (const shape of [this.rule, ...this.dots]) shape.setAttribute("visibility", "hidden");
    this.at = undefined;
    this.reading.textContent = "\u00a0";
  }

  /** Tell the values at one of the steps that any of the lines has; of the others those at the step before. */
  show(place) {
    this.at = Math.min(Math.max(place, 0), this.steps.length - 1);
    const step = this.steps[this.at];
    const x = this.#across(step);
    for (const end of ["x1", "x2"]) this.rule.setAttribute(end, x);
    this.rule.setAttribute("visibility", "visible");
    const told = this.lines.map(({ name, points, scattered }, line) => {
      const own = scattered ? points.filter(([each]) => each === step) : points.filter(([each]) => each <= step).slice(-1);
      const [point] = own;
      const y = point && this.#down(point[1]); // of 0 on a logarithmic axis, infinite
      const isMarked = Number.isFinite(y) && !scattered; // those that are scattered are dots already
      this.dots[line].setAttribute("visibility", isMarked ? "visible" : "hidden");
      if (!point) return null;
      this.dots[line].setAttribute("cx", this.#across(point[0]));
      if (isMarked) this.dots[line].setAttribute("cy", y);
      return `${name} ${own.map(([, value]) => Number(value.toPrecision(4))).join(" and ")}`.trim();
    });
    const where = this.place.replace("{}", step.toLocaleString("en"));
    this.reading.textContent = `${where}: ${told.filter((text) => text !== null).join(", ")}`;
  }

  #shape(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.setAttribute("pointer-events", "none");
    this.svg.append(made);
    return made;
  }

  #across(step) {
    const [left, , right] = this.box;
    return (left + share(step, this.x, this.log[0]) * (right - left)) * this.width;
  }

  #down(value) {
    const [, top, , bottom] = this.box;
    return (bottom - share(value, this.y, this.log[1]) * (bottom - top)) * this.height;
  }

  #point(event) {
    const { left, width } = this.svg.getBoundingClientRect();
    const x = ((event.clientX - left) / width) * this.width;
    const distances = this.steps.map((step) => Math.abs(this.#across(step) - x));
    this.show(distances.indexOf(Math.min(...distances)));
  }

  #key(event) {
    const last = this.steps.length - 1;
    const moves = { ArrowLeft: (this.at ?? last + 1) - 1, ArrowRight: (this.at ?? -1) + 1, Home: 0, End: last };
    if (event.altKey || event.ctrlKey || event.metaKey || !Object.hasOwn(moves, event.key)) return;
    event.preventDefault();
    this.show(moves[event.key]);
  }
}

/** Return how far along an axis a value lies, 0 at its beginning and 1 at its end. */
function share(value, span, isLog) {
  const [low, high, at] = [...span, value].map((each) => (isLog ? Math.log(each) : each));
  return (at - low) / (high - low);
}

document.querySelectorAll("svg[data-lines]").forEach((svg) => new Curves(svg));
