"use strict";
// A scene in rigid bodies, {color, outline, radius}, each at a pose [x, y, angle]. Places and lengths are from 0 to 1
// across the picture.

/** Return a pose between two, turned the shorter way round. */
function poseBetween(from, to, share) {
  const turn = to[2] - from[2];
  const shortest = turn - 2 * Math.PI * Math.round(turn / (2 * Math.PI));
  return [from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1]), from[2] + share * shortest];
}

function tracePath(context, path) {
  const { width, height } = context.canvas;
  context.beginPath();
  for (const [x, y] of path) if (x !== null && y !== null) context.lineTo(x * width, y * height);
}

/** Draw bodies on the table, once there are poses of them. */
function drawBodies(context, bodies, poses) {
  const { width, height } = context.canvas;
  context.fillStyle = getComputedStyle(context.canvas).getPropertyValue("--table");
  context.fillRect(0, 0, width, height);
  poses.forEach((pose, place) => drawBody(context, bodies[place], pose));
}

function drawBody(context, { color, outline, radius }, [x, y, angle]) {
  const size = context.canvas.width;
  context.save();
  context.translate(x * size, y * size);
  context.rotate(angle);
  context.fillStyle = color;
  if (radius) {
    context.beginPath();
    context.arc(0, 0, radius * size, 0, 2 * Math.PI);
  } else {
    tracePath(context, outline);
    context.closePath();
  }
  context.fill();
  context.restore();
}
