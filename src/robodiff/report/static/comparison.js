"use strict";
// The page that compares runs: pairs of episodes from the same seed, the most different first, each of which opens with
// both policies on one clock. Needs cameras.js, player.js, fan.js and wall.js.

/** Return two episodes as one for the player: two cameras, and a line of each run in every panel. */
function pairOf([one, other], [first, second]) {
  const length = Math.max(one.length, other.length) + 1;
  const padded = (values) => [...values, ...Array(length - values.length).fill(null)];
  const panels = first.panels.map(({ name, unit }, place) => ({
    name,
    unit,
    lines: [[first, one], [second, other]].map(([run, each]) => ({ name: run.name, values: padded(each.values[place][0]) })),
  }));
  const areDrawn = one.pictures && other.pictures;
  const camera = ([run, each]) => cameraOf(each, `${run.name}: ${outcomeOf(each)}`);
  return { fps: first.fps, length, cameras: areDrawn ? [[first, one], [second, other]].map(camera) : [], panels };
}

/** Fill the dialog with a pair, and return its player. */
function showPair({ episodes, runs }, root) {
  const stage = element("div", {});
  const without = episodes.every(({ pictures }) => pictures) ? [] : [element("p", { class: "soft" }, "Of one of them no pictures are in this page.")];
  const legend = element("div", { class: "moments" }, ...legendOf(episodes, runs[0].extent));
  root.replaceChildren(legend, ...without, stage);
  return new Player(stage, { ...pairOf(episodes, runs), overlay: overlayOf(episodes, runs[0].extent) });
}

/** Return the pairs of the first run with another one. */
function pairsWith(first, second) {
  const bySeed = (run) => new Map(run.episodes.map((episode) => [episode.seed, episode]));
  const [ones, others] = [bySeed(first), bySeed(second)];
  return second.seeds.map((seed) => {
    const episodes = [ones.get(seed), others.get(seed)];
    const [one, other] = episodes;
    const kind = one.success === other.success ? "even" : other.success ? "good" : "bad";
    const told = episodes.map((each, place) => `${[first, second][place].name} ${outcomeOf(each).slice(2)}, reward ${each.reward}`);
    return {
      episodes,
      runs: [first, second],
      kind,
      sign: episodes.map(({ success }) => (success ? "✓" : "✗")).join(" "),
      note: `${seed}`,
      label: `Seed ${seed}: ${told.join("; ")}`,
      clips: episodes.map(({ pictures, success }) => ({ pictures, kind: success ? "good" : "bad" })),
    };
  });
}

/** Show the pairs of the page. */
function showPairs({ first, others }) {
  const cards = others.flatMap((second) => pairsWith(first, second));
  let wall = null;
  const dialog = new EpisodeDialog(() => wall, ({ label }) => label, showPair, ["‹ Previous", "Next ›"]);
  const alone = [first, ...others].map((run) => ({
    name: `${run.name} alone succeeds`,
    shows: ({ kind, runs }) => (run === first ? kind === "bad" : kind === "good" && runs[1] === run),
  }));
  const all = { name: "All", shows: () => true };
  const filters = [all, ...alone, { name: "Both alike", shows: ({ kind }) => kind === "even" }];
  const root = document.getElementById("pairs");
  wall = new Wall(root, { cards, filters, open: (card) => dialog.open(card) });
  wall.grid.classList.add("pairs");
}

const pairs = document.getElementById("pairs-data");
if (pairs) showPairs(JSON.parse(pairs.textContent));
