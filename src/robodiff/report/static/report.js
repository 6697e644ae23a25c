"use strict";
// The page of a run: the wall of its measured episodes, each of which opens in the player with what the policy
// considered and the demonstrations that began most like it; and recorded episodes with what it would have done.
// Needs cameras.js, player.js, fan.js and wall.js.

const WITH_CHUNKS = "With sampled chunks";

/** Return the data in an element of the page; nothing where there is none. */
function dataOf(id) {
  const found = document.getElementById(id);
  return found && JSON.parse(found.textContent);
}

/** Return a button for each moment at which chunks were sampled, which shows it; where none were, in which they were. */
function momentsOf(episode, player, { episodes }) {
  const { fans } = episode;
  if (!isSampled(episode)) {
    const where = `In this episode no other chunks were sampled; “${WITH_CHUNKS}” shows those in which they were.`;
    return episodes.some(isSampled) ? [element("span", { class: "soft" }, where)] : [];
  }
  const show = (moment) => {
    player.pause();
    player.show(moment);
  };
  const buttons = fans.sampled_at.map((moment) => element("button", { type: "button", onclick: () => show(moment) }, `${moment}`));
  return ["at steps", ...buttons];
}

/** Return the demonstrations that began most like an episode, with their pictures where there are some. */
function nearestOf({ seed }, nearest) {
  const found = nearest?.of[seed] ?? [];
  if (!found.length) return [];
  const figures = found.map(([number, distance, tile]) => {
    const caption = element("figcaption", {}, element("b", {}, `Episode ${number}`), ` · ${distance.toFixed(2)}`);
    if (tile === null || !nearest.pictures) return element("figure", {}, caption);
    const { width, height } = nearest.pictures;
    const canvas = element("canvas", { width, height, role: "img", "aria-label": `How episode ${number} began` });
    const sheet = new Sheet({ tiles: nearest.pictures });
    sheet.size.then(() => sheet.paint(canvas.getContext("2d"), tile)).then(() => sheet.close()).catch(() => {});
    return element("figure", {}, canvas, caption);
  });
  const about = "First observations, and how far they are from its own: 1 is a deviation of all demonstrations.";
  return [
    element("h3", {}, "Demonstrations that began most like it"),
    element("p", { class: "soft" }, about),
    element("div", { class: "nearest" }, ...figures),
  ];
}

/** Return the camera of an episode, and say what it shows: bodies at every step, or its video, or some pictures. */
function seenIn(episode, video) {
  const { pictures } = episode;
  if (pictures?.poses) return [cameraOf(episode, "where everything was at every step")];
  if (video) return [{ name: "every frame, as its video shows it", video }];
  if (!pictures) return [];
  const [start, next] = pictures.at;
  return [cameraOf(episode, next ? `a picture every ${next - start} steps` : "how it began")];
}

/** Return an episode for the player. */
function playable(episode, shared, video) {
  const panels = shared.panels.map((panel, place) => ({
    ...panel,
    lines: panel.lines.map((name, line) => ({ name, values: episode.values[place][line] })),
  }));
  return { fps: shared.fps, length: episode.length + 1, cameras: seenIn(episode, video), panels };
}

/** Fill the dialog with an episode, and return its player. */
function showEpisode(episode, shared, root) {
  const video = document.querySelector(`video[data-seed="${episode.seed}"]`)?.src;
  const [legend, stage, below] = [element("div", { class: "moments" }), element("div", {}), element("div", { class: "below" })];
  root.replaceChildren(legend, stage);
  const made = playable(episode, shared, video);
  const player = new Player(stage, { ...made, overlay: overlayOf([episode], shared.extent) });
  made.panels.forEach((_, place) => {
    const dimension = episode.fans.dimensions[place];
    if (dimension !== null && episode.fans.at.length) player.panels.push(new FanLines(player.panels[place], episode.fans, dimension));
  });
  player.show(0);
  legend.append(...legendOf([episode], shared.extent), ...momentsOf(episode, player, shared));
  const without = made.cameras.length ? [] : [element("p", { class: "soft" }, "No pictures of this episode were kept.")];
  below.append(...without, ...nearestOf(episode, shared.nearest));
  player.element.append(below);
  return player;
}

/** Show the wall of the page. */
function showWall(shared) {
  const cards = shared.episodes.map((episode) => ({
    episode,
    kind: episode.success ? "good" : "bad",
    sign: episode.success ? "✓" : "✗",
    note: episode.success ? `${episode.length} steps` : `${Math.floor(episode.reward * 1000) / 1000}`, // by which they are sorted
    label: `Seed ${episode.seed}, ${outcomeOf(episode).slice(2)}, maximum reward ${episode.reward}, ${episode.length} steps`,
    clips: [{ pictures: episode.pictures, kind: "" }],
  }));
  const title = ({ episode }) => `Seed ${episode.seed}: ${outcomeOf(episode)}, maximum reward ${episode.reward}`;
  let wall = null;
  const dialog = new EpisodeDialog(() => wall, title, ({ episode }, root) => showEpisode(episode, shared, root), ["‹ Worse", "Better ›"]);
  const filters = [
    { name: "All", shows: () => true },
    { name: "✗ Failed", shows: ({ episode }) => !episode.success },
    { name: "✓ Succeeded", shows: ({ episode }) => episode.success },
  ];
  if (shared.episodes.some(isSampled)) filters.push({ name: WITH_CHUNKS, shows: ({ episode }) => isSampled(episode) });
  wall = new Wall(document.getElementById("wall"), { cards, filters, open: (card) => dialog.open(card) });
}

/** Show recorded episodes, one of several at a time, with what the policy would have done. */
function showRecorded(root) {
  const episodes = JSON.parse(root.querySelector("script").textContent);
  const stage = element("div", {});
  let player = null;
  const choose = (place) => {
    player?.close();
    player = new Player(stage, episodes[place]);
    buttons.forEach((button, each) => button.setAttribute("aria-pressed", each === place));
  };
  const buttons = episodes.map(({ title }, place) => element("button", { type: "button", onclick: () => choose(place) }, title));
  root.append(element("div", { class: "bar" }, element("div", { role: "group", "aria-label": "Which episode is shown" }, ...buttons)), stage);
  choose(0);
}

if (dataOf("episodes")) showWall(dataOf("episodes"));
document.querySelectorAll(".recorded").forEach(showRecorded);
