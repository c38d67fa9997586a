// Changes of a label map: {labels: Uint8Array of width * height, row by row, width, height}. Each changes the labels in
// place and returns the rectangle {x0, y0, x1, y1} (half-open) that it touched. A pixel's centre is at (x + .5, y + .5).

export const nothing = () => ({ x0: Infinity, y0: Infinity, x1: -Infinity, y1: -Infinity });

export const both = (a, b) => ({
  x0: Math.min(a.x0, b.x0), y0: Math.min(a.y0, b.y0), x1: Math.max(a.x1, b.x1), y1: Math.max(a.y1, b.y1),
});

// every pixel whose centre is within `radius` of the line from a to b
export function capsule(map, a, b, radius, value) {
  const { labels, width, height } = map, rect = nothing();
  const x0 = Math.max(0, Math.floor(Math.min(a.x, b.x) - radius)), x1 = Math.min(width, Math.ceil(Math.max(a.x, b.x) + radius) + 1);
  const y0 = Math.max(0, Math.floor(Math.min(a.y, b.y) - radius)), y1 = Math.min(height, Math.ceil(Math.max(a.y, b.y) + radius) + 1);
  const dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy || 1;
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
    const px = x + .5 - a.x, py = y + .5 - a.y, t = Math.max(0, Math.min(1, (px * dx + py * dy) / length));
    if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= radius * radius) { labels[y * width + x] = value; touch(rect, x, y); }
  }
  return rect;
}

// every pixel whose centre lies inside the closed line, by the even-odd rule
export function polygon(map, points, value) {
  const { labels, width, height } = map, rect = nothing();
  const ys = points.map((p) => p.y), y0 = Math.max(0, Math.floor(Math.min(...ys))), y1 = Math.min(height, Math.ceil(Math.max(...ys)));
  for (let y = y0; y < y1; y++) {
    const centre = y + .5, cuts = [];
    for (let k = 0; k < points.length; k++) {
      const a = points[k], b = points[(k + 1) % points.length];
      if ((a.y <= centre) !== (b.y <= centre)) cuts.push(a.x + (centre - a.y) / (b.y - a.y) * (b.x - a.x));
    }
    cuts.sort((a, b) => a - b);
    for (let k = 0; k + 1 < cuts.length; k += 2) {
      const from = Math.max(0, Math.ceil(cuts[k] - .5)), to = Math.min(width, Math.ceil(cuts[k + 1] - .5));
      if (to > from) { labels.fill(value, y * width + from, y * width + to); touch(rect, from, y); touch(rect, to - 1, y); }
    }
  }
  return rect;
}

// the connected region (4 neighbours) around a pixel
export function flood(map, x, y, value) {
  const { labels, width, height } = map, first = y * width + x, old = labels[first], rect = nothing(), queue = [first];
  if (old === value) return rect;
  const reach = (p) => { labels[p] = value; queue.push(p); };
  labels[first] = value;
  while (queue.length) {
    const p = queue.pop(), px = p % width, py = (p - px) / width;
    touch(rect, px, py);
    if (px > 0 && labels[p - 1] === old) reach(p - 1);
    if (px + 1 < width && labels[p + 1] === old) reach(p + 1);
    if (py > 0 && labels[p - width] === old) reach(p - width);
    if (py + 1 < height && labels[p + width] === old) reach(p + width);
  }
  return rect;
}

// the labels of a rectangle, to be put back by `paste`
export function cut(map, rect) {
  const w = rect.x1 - rect.x0, piece = new Uint8Array(w * (rect.y1 - rect.y0));
  for (let y = rect.y0; y < rect.y1; y++) piece.set(map.labels.subarray(y * map.width + rect.x0, y * map.width + rect.x1), (y - rect.y0) * w);
  return piece;
}

export function paste(map, piece, rect) {
  const w = rect.x1 - rect.x0;
  for (let y = rect.y0; y < rect.y1; y++) map.labels.set(piece.subarray((y - rect.y0) * w, (y - rect.y0 + 1) * w), y * map.width + rect.x0);
}

function touch(rect, x, y) {
  rect.x0 = Math.min(rect.x0, x); rect.y0 = Math.min(rect.y0, y);
  rect.x1 = Math.max(rect.x1, x + 1); rect.y1 = Math.max(rect.y1, y + 1);
}
