"use strict";
// A wall of episodes as small looping clips, from the worst to the best: choose which are shown, and open one. Each may
// hold several clips side by side. Needs cameras.js and player.js; nothing moves that is not in view, or where less motion is asked for.
//
//   new Wall(root, {
//     cards: [{label, note, sign, kind, clips: [{pictures, kind}]}],  // kind: good or bad, how it is framed
//     filters: [{name, shows(card)}],
//     open(card),                                                    // by a click or Enter
//   });

const PICTURES_A_SECOND = 6;
const STEPS_A_SECOND = 60; // where bodies are drawn
const PAUSE_AT_END = 1.3; // seconds

/** One clip on a canvas; its pictures are decoded while it is in view. */
class Clip {
  constructor({ pictures, kind }) {
    this.pictures = pictures;
    this.count = pictures?.frames ?? pictures?.at.length ?? 0;
    this.rate = pictures?.poses ? STEPS_A_SECOND : PICTURES_A_SECOND;
    this.canvas = element("canvas", { width: pictures?.width ?? 4, height: pictures?.height ?? 3, class: kind });
  }

  async enter() {
    if (!this.count || this.source) return;
    const source = sourceOf({ tiles: this.pictures });
    this.source = source;
    this.shown = undefined;
    await source.size.catch(() => {});
    if (this.source === source) this.draw(this.count - 1);
    else source.close();
  }

  leave() {
    if (this.source?.isReady) this.source.close();
    this.source = undefined;
  }

  tick(seconds) {
    const place = Math.floor((seconds % (this.count / this.rate + PAUSE_AT_END)) * this.rate);
    this.draw(Math.min(place, this.count - 1));
  }

  draw(place) {
    if (!this.source?.isReady || place === this.shown) return;
    this.shown = place;
    this.source.paint(this.canvas.getContext("2d"), this.pictures.at?.[place] ?? place);
  }
}

/** The wall: see the top of this file. */
class Wall {
  #seconds = 0; // that have been played
  #request = 0;

  constructor(root, { cards, filters, open }) {
    this.cards = cards;
    this.clips = new Map();
    this.visible = new Set();
    this.buttons = cards.map((card) => this.#button(card, open));
    this.grid = element("div", { class: "clips", role: "group", "aria-label": "Episodes", onkeydown: (event) => this.#key(event) });
    this.grid.append(...this.buttons);
    this.status = element("p", { role: "status", class: "soft" });
    root.prepend(this.#bar(filters), this.status, this.grid);
    const watch = new IntersectionObserver((entries) => this.#see(entries), { rootMargin: "60px" });
    for (const button of this.buttons) watch.observe(button);
    this.choose(filters[0]);
    document.addEventListener("visibilitychange", () => this.run());
    if (!isStill()) this.toggle();
    this.#drawAll();
  }

  /** Draw a picture of each clip, one after another: for those who scroll, and for print. */
  async #drawAll() {
    for (const [button, clips] of this.clips) {
      for (const clip of clips) {
        await clip.enter();
        if (!this.visible.has(button)) clip.leave();
      }
    }
  }

  /** Show the cards of a filter. */
  choose(filter) {
    this.buttons.forEach((button, place) => {
      button.hidden = !filter.shows(this.cards[place]);
    });
    const shown = this.shown();
    this.buttons.forEach((button) => button.setAttribute("tabindex", button === shown[0] ? 0 : -1));
    for (const [button, each] of this.choices) button.setAttribute("aria-pressed", each === filter);
    this.status.textContent = shown.length ? "" : "There are none.";
  }

  /** Return the buttons of the cards that are shown. */
  shown() {
    return this.buttons.filter((button) => !button.hidden);
  }

  /** Return the card that lies so many places on among those that are shown; nothing beyond the ends. */
  neighbour(card, places) {
    const shown = this.shown();
    const button = shown[shown.indexOf(this.buttons[this.cards.indexOf(card)]) + places];
    return button && this.cards[this.buttons.indexOf(button)];
  }

  /** Let the keyboard go on from a card. */
  focus(card) {
    this.#focus(this.buttons[this.cards.indexOf(card)]);
  }

  /** Play all clips, or pause them. */
  toggle() {
    this.isPlaying = !this.isPlaying;
    this.pause.textContent = this.isPlaying ? "Pause clips" : "Play clips";
    this.run();
  }

  #bar(filters) {
    this.pause = element("button", { type: "button", class: "pause", onclick: () => this.toggle() }, "Play clips");
    this.choices = filters.map((filter) => {
      const count = this.cards.filter((card) => filter.shows(card)).length;
      return [element("button", { type: "button", onclick: () => this.choose(filter) }, `${filter.name} ${count}`), filter];
    });
    const group = element("div", { role: "group", "aria-label": "Which episodes are shown" }, ...this.choices.map(([button]) => button));
    return element("div", { class: "bar" }, group, this.pause);
  }

  #button(card, open) {
    const clips = card.clips.map((clip) => new Clip(clip));
    const pictures = clips.filter((clip) => clip.count).map((clip) => clip.canvas);
    const sign = element("span", { class: `sign ${card.kind}`, "aria-hidden": "true" }, card.sign);
    const note = element("span", { class: "note", "aria-hidden": "true" }, sign, card.note);
    const attributes = { type: "button", class: `clip ${card.kind}`, "aria-label": card.label, title: card.label };
    const button = element("button", { ...attributes, onclick: () => open(card) }, ...pictures, note);
    this.clips.set(button, clips);
    return button;
  }

  #see(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.visible.add(target);
      else this.visible.delete(target);
      for (const clip of this.clips.get(target)) {
        if (isIntersecting) clip.enter();
        else clip.leave();
      }
    }
    this.run();
  }

  /** Move the clips if they are to: after a dialog was opened or closed, too. */
  run() {
    cancelAnimationFrame(this.#request);
    if (!this.isPlaying || !this.visible.size || document.hidden || document.querySelector("dialog[open]")) return;
    let before = performance.now();
    const tick = (now) => {
      this.#seconds += (now - before) / 1000;
      before = now;
      for (const button of this.visible) for (const clip of this.clips.get(button)) clip.tick(this.#seconds);
      this.#request = requestAnimationFrame(tick);
    };
    this.#request = requestAnimationFrame(tick);
  }

  #focus(button) {
    for (const each of this.buttons) each.setAttribute("tabindex", each === button ? 0 : -1);
    button.focus();
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const shown = this.shown();
    const at = shown.indexOf(document.activeElement);
    const columns = Math.max(1, shown.findIndex((button) => button.offsetTop > shown[0].offsetTop));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: shown.length - 1 - at };
    if (at < 0 || !Object.hasOwn(moves, event.key)) return;
    event.preventDefault();
    this.#focus(shown[Math.min(Math.max(at + moves[event.key], 0), shown.length - 1)]);
  }
}

/** A dialog that shows a card of a wall with a player, and goes on to the next. */
class EpisodeDialog {
  /** `show(card, root)` fills the root and returns the player, `title(card)` is its heading, `names` are of its buttons. */
  constructor(wall, title, show, names) {
    Object.assign(this, { wall, title, show });
    const go = (places, name) => element("button", { type: "button", onclick: () => this.open(this.wall().neighbour(this.card, places)) }, name);
    [this.previous, this.next] = [go(-1, names[0]), go(1, names[1])];
    const close = element("button", { type: "button", class: "close", onclick: () => this.element.close() }, "Close");
    this.heading = element("h2", { id: "episode-title", tabindex: "-1" });
    this.content = element("div", {});
    const head = element("div", { class: "head" }, this.heading, this.previous, this.next, close);
    const on = { onclose: () => this.#closed(), onkeydown: (event) => this.player?.press(event) };
    this.element = element("dialog", { class: "episode", "aria-labelledby": "episode-title", ...on }, head, this.content);
    document.body.append(this.element);
  }

  open(card) {
    this.player?.close();
    this.card = card;
    this.heading.textContent = this.title(card);
    this.previous.disabled = !this.wall().neighbour(card, -1);
    this.next.disabled = !this.wall().neighbour(card, 1);
    const isNew = !this.element.open;
    if (isNew) this.element.showModal();
    this.player = this.show(card, this.content);
    this.wall().run();
    const { activeElement } = document;
    if (isNew || activeElement?.disabled || !this.element.contains(activeElement)) {
      (this.content.querySelector(".stage") ?? this.heading).focus({ preventScroll: true });
    }
    if (!isStill()) this.player.play();
  }

  #closed() {
    this.player?.close();
    this.content.replaceChildren();
    this.wall().focus(this.card);
    this.wall().run();
  }
}
