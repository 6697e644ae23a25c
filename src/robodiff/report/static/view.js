"use strict";
// The page of a recording: a list of all its episodes, however many, beside the player of the one that is chosen.
// Needs cameras.js and player.js. The page carries some episodes; where it is served, each is fetched when it is asked for.

const SEVERITIES = ["", "note", "warning", "fatal"];

/** Return how many there are, with their noun. */
function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** What is known of all episodes, each by its place, and where their pictures and numbers come from. */
class Recording {
  constructor(overview) {
    Object.assign(this, overview);
    this.count = this.numbers.length;
    this.places = new Set(this.carried);
    this.sheets = new Map(); // of first frames, by block where it is served
    this.firstOf = new Map(); // by place: which sheet, which tile
    this.firsts.forEach(({ places, ...tiles }, block) => {
      this.sheets.set(block, Promise.resolve(new Sheet({ tiles })));
      places.forEach((place, tile) => this.firstOf.set(place, [block, tile]));
    });
  }

  has(place) {
    return this.served || this.places.has(place);
  }

  get hasPictures() {
    return this.firstOf.size > 0 || (this.served && this.pictures);
  }

  async episode(place) {
    return this.served ? fetched(`episode/${place}`) : JSON.parse(document.getElementById(`episode-${place}`).textContent);
  }

  /** Draw the first frame of an episode, once it is there and where there is one. */
  async drawFirst(place, canvas) {
    const served = this.served && this.pictures ? [Math.floor(place / this.block), place % this.block] : [];
    const [block, tile] = this.firstOf.get(place) ?? served;
    if (block === undefined) return;
    if (!this.sheets.has(block)) this.sheets.set(block, fetched(`first/${block}`).then((tiles) => new Sheet({ tiles })));
    const sheet = await this.sheets.get(block);
    [canvas.width, canvas.height] = await sheet.size;
    sheet.paint(canvas.getContext("2d"), tile);
  }

  /** Say in what an episode is farthest from the others; nothing where it is near them, or they are too few to tell. */
  farthest(place) {
    if (!(this.unusual[place] >= this.threshold / 2)) return "";
    return `least like the others in ${this.names[this.quantities[place]]} (${this.unusual[place].toFixed(1)} σ)`;
  }

  isUnusual(place) {
    return this.unusual[place] >= this.threshold;
  }

  /** Return the orders in which episodes can be listed: by name, the places. */
  orders() {
    const all = this.numbers.map((_, place) => place);
    const by = (...keys) => [...all].sort((a, b) => keys.reduce((far, key) => far || key(b) - key(a), 0) || a - b);
    const isCarried = (place) => (this.has(place) ? 1 : 0);
    const length = (place) => this.lengths[place];
    const severe = (place) => (this.severities[place] > 1 ? this.severities[place] : 0);
    const orders = { "by number": all, "longest first": by(length), "shortest first": by((place) => -length(place)) };
    orders["unusual first"] = by(severe, (place) => this.unusual[place] ?? 0);
    return all.every(isCarried) ? orders : { "to watch here first": by(isCarried), ...orders };
  }
}

/** Return what the server of this page answers. */
async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

/** A list box of any number of episodes, of which only the rows in view are elements. */
class List {
  constructor(recording, open) {
    this.recording = recording;
    this.open = open;
    this.height = recording.hasPictures ? 64 : 54; // pixels of a row
    this.longest = recording.lengths.reduce((a, b) => Math.max(a, b), 1);
    this.inner = element("div", { role: "presentation" });
    this.inner.style.height = `${recording.count * this.height}px`;
    this.element = element("div", { class: "list", tabindex: "0", role: "listbox", "aria-label": "Episodes" }, this.inner);
    this.element.addEventListener("scroll", () => this.#schedule());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("click", (event) => this.#click(event));
    addEventListener("resize", () => this.#schedule());
  }

  /** List episodes in an order of their places, from its start. */
  show(order) {
    this.order = order;
    this.active = Math.max(0, order.indexOf(this.chosen));
    this.element.scrollTop = 0;
    this.#reveal();
  }

  /** Mark the episode that is on the stage. */
  choose(place) {
    this.chosen = place;
    this.#draw();
  }

  #reveal() {
    const [top, view] = [this.active * this.height, this.element.clientHeight];
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    if (top + this.height > this.element.scrollTop + view) this.element.scrollTop = top + this.height - view;
    this.#draw();
  }

  #schedule() {
    cancelAnimationFrame(this.request);
    this.request = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.height) - 2);
    const end = Math.min(this.order.length, first + Math.ceil(this.element.clientHeight / this.height) + 5);
    const known = new Map([...this.inner.children].map((row) => [Number(row.dataset.place), row]));
    const rows = [];
    for (let index = first; index < end; index += 1) {
      const place = this.order[index];
      const row = known.get(place) ?? this.#row(place);
      row.style.top = `${index * this.height}px`;
      row.setAttribute("aria-posinset", index + 1);
      row.setAttribute("aria-selected", place === this.chosen);
      row.classList.toggle("active", index === this.active);
      rows.push(row);
    }
    this.inner.replaceChildren(...rows);
    const active = this.order[this.active];
    this.element.setAttribute("aria-activedescendant", `row-${active}`);
  }

  #row(place) {
    const { recording } = this;
    const attributes = { class: "row", role: "option", id: `row-${place}`, "aria-setsize": recording.count, "data-place": place };
    const row = element("div", attributes);
    row.style.height = `${this.height}px`;
    if (recording.hasPictures) {
      const canvas = element("canvas", { width: 4, height: 3 });
      recording.drawFirst(place, canvas).catch(() => {}); // a row without its picture is still of use
      row.append(canvas);
    }
    const severity = SEVERITIES[recording.severities[place]];
    const words = [recording.failed[place] && "failed", severity !== "note" && severity, recording.isUnusual(place) && "unusual"];
    const labels = words.filter(Boolean).map((word) => element("b", { class: word }, word));
    const name = element("span", { class: recording.has(place) ? "" : "absent" }, `Episode ${recording.numbers[place]}`);
    const length = element("div", { class: "length" });
    length.style.width = `${(100 * recording.lengths[place]) / this.longest}%`;
    const task = recording.tasks[recording.task[place]];
    const below = [counted(recording.lengths[place], "frame"), task].filter(Boolean).join(" · ");
    const far = recording.unusual.length ? `${recording.unusual[place].toFixed(1)} σ` : "";
    const soft = element("div", { class: "soft" }, element("span", {}, below), element("span", {}, far));
    row.append(element("div", { class: "facts" }, element("div", {}, name, element("span", {}, ...labels)), length, soft));
    row.title = recording.farthest(place);
    return row;
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 1);
    const last = this.order.length - 1;
    const moves = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -last, End: last };
    if (event.key === "Enter" || event.key === " ") this.open(this.order[this.active]);
    else if (Object.hasOwn(moves, event.key)) {
      this.active = Math.min(Math.max(this.active + moves[event.key], 0), last);
      this.#reveal();
    } else return;
    event.preventDefault();
  }

  #click(event) {
    const row = event.target.closest(".row");
    if (!row) return;
    const place = Number(row.dataset.place);
    this.active = this.order.indexOf(place);
    this.open(place);
  }
}

/** The page: what is chosen in the list is shown by the player. */
class View {
  constructor(recording) {
    this.recording = recording;
    this.list = new List(recording, (place) => this.open(place, true));
    this.part("episodes").replaceWith(this.list.element);
    document.querySelector(".watch").hidden = false;
    const orders = recording.orders();
    const select = this.part("order");
    select.append(...Object.keys(orders).map((name) => element("option", {}, name)));
    select.addEventListener("change", () => this.list.show(orders[select.value]));
    this.list.show(orders[select.value]);
    this.open(this.list.order[0], false);
  }

  part(id) {
    return document.getElementById(id);
  }

  /** Show an episode, and play it where a person chose it and did not ask for less motion. */
  async open(place, isChosen) {
    const { recording } = this;
    this.wanted = place;
    const name = `Episode ${recording.numbers[place]}`;
    this.list.choose(place);
    this.part("status").textContent = recording.served ? "Loading" : "";
    this.part("watched").textContent = name;
    const seconds = recording.lengths[place] / recording.fps;
    const about = [counted(recording.lengths[place], "frame"), `${seconds.toFixed(1)} s`, recording.farthest(place)];
    let [episode, status] = [null, ""];
    try {
      if (recording.has(place)) episode = await recording.episode(place);
      else status = "Its pictures and numbers are not in this page: the note at the list says where they are.";
    } catch (error) {
      status = `It cannot be shown: ${error.message}`;
    }
    if (this.wanted !== place) return; // another was chosen meanwhile
    this.part("status").textContent = status;
    if (episode?.left_out) about.push(`${counted(episode.left_out, "more dimension")} not in this page`);
    this.part("about").textContent = about.filter(Boolean).join(" · ");
    this.player?.close();
    const task = recording.task.length ? episode?.task : ""; // the only one is said above
    this.player = episode && new Player(this.part("player"), { ...episode, task });
    if (!episode) this.part("player").replaceChildren();
    else if (isChosen && !isStill()) this.player.play();
  }
}

new View(new Recording(JSON.parse(document.getElementById("recording").textContent)));
