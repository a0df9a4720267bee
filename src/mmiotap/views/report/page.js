// Draws the heat map and the timeline from the data in the page. No framework, no request, no markup from data:
// every text that comes from the trace goes through textContent or fillText.
"use strict";

(async () => {
  const find = (name) => document.getElementById(name);
  const data = JSON.parse(find("data").textContent);
  if (!data.columns) return;

  // Bytes that zlib has packed, as the arrays of numbers that they are.
  async function unpacked(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  // Cells that are not empty, row by row: those of row r are ends[r] to ends[r + 1] − 1.
  async function cells(packed) {
    const buffer = await unpacked(packed.data);
    const arrays = [];
    for (let number = 0; number < packed.arrays.length; number++)
      arrays.push(new Uint32Array(buffer, 4 * packed.arrays.slice(0, number).reduce((a, b) => a + b, 0), packed.arrays[number]));
    const [ends, column, ...counts] = arrays;
    return { ends, column, counts };
  }

  const heat = await cells(data.heat);
  const threads = await cells(data.lanes);
  const all = { t0: 0, t1: data.columns, r0: 0, r1: data.rows.length };
  const view = { ...all };
  const heatCanvas = find("heat");
  const laneCanvas = find("lanes");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const AXIS = 22; // pixels for the times
  const LANE = 34; // pixels for a line of the timeline

  function duration(ns) {
    const units = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
    const [size, name] = units.find(([unit]) => Math.abs(ns) >= unit) || [1, "ns"];
    return `${+(ns / size).toPrecision(4)} ${name}`;
  }
  const time = (column) => data.origin + column * data.column_ns;
  const number = (count) => Math.round(count).toLocaleString("en");

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const words = { text: read("--text"), faint: read("--faint"), line: read("--line"), mark: read("--mark"), lost: read("--lost"), bar: read("--bar") };
    // Little to much, from the page's own ground to the other end.
    const stops = dark.matches
      ? [[38, 32, 70], [94, 40, 120], [187, 55, 84], [249, 142, 9], [252, 255, 164]]
      : [[224, 232, 246], [150, 190, 230], [66, 133, 196], [28, 70, 140], [12, 20, 60]];
    const ramp = new Uint8ClampedArray(256 * 3);
    for (let level = 0; level < 256; level++) {
      const at = (level / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      for (let part = 0; part < 3; part++)
        ramp[3 * level + part] = stops[low][part] + (at - low) * (stops[low + 1][part] - stops[low][part]);
    }
    return { ...words, ramp };
  }

  const gutter = (width) => Math.round(Math.min(190, width * 0.3));

  // A canvas in the pixels of the screen; drawing goes on in those of CSS.
  function prepared(canvas, height) {
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    return { pen, width, height, scale };
  }

  function fitted(pen, text, width) {
    if (pen.measureText(text).width <= width) return text;
    let length = text.length;
    while (length > 1 && pen.measureText(text.slice(0, length) + "…").width > width) length--;
    return text.slice(0, length) + "…";
  }

  // The first cell of a row that is at a column, or behind it.
  function firstAt(cells, row, column) {
    let low = cells.ends[row];
    let high = cells.ends[row + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cells.column[middle] < column) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  const ways = () => ({ all: [0, 1], reads: [0], writes: [1] })[find("ways").value];

  function drawHeat() {
    const { pen, width, height, scale } = prepared(heatCanvas, heatCanvas.clientHeight);
    const paint = colours();
    const left = gutter(width);
    const wide = Math.max(1, Math.round((width - left) * scale));
    const high = Math.max(1, Math.round((height - AXIS) * scale));
    const sums = new Float64Array(wide * high);
    const perColumn = wide / (view.t1 - view.t0);
    const perRow = high / (view.r1 - view.r0);
    const chosen = ways().map((way) => heat.counts[way]);
    for (let row = Math.floor(view.r0); row < Math.ceil(view.r1); row++) {
      const top = Math.max(0, Math.floor((row - view.r0) * perRow));
      const bottom = Math.min(high, Math.max(top + 1, Math.floor((row + 1 - view.r0) * perRow) - (perRow > 6 ? 1 : 0)));
      for (let cell = firstAt(heat, row, Math.floor(view.t0)); cell < heat.ends[row + 1] && heat.column[cell] < view.t1; cell++) {
        let count = 0;
        for (const counts of chosen) count += counts[cell];
        if (!count) continue;
        const begin = Math.max(0, Math.floor((heat.column[cell] - view.t0) * perColumn));
        const end = Math.min(wide, Math.max(begin + 1, Math.floor((heat.column[cell] + 1 - view.t0) * perColumn)));
        for (let y = top; y < bottom; y++) for (let x = begin; x < end; x++) sums[y * wide + x] += count;
      }
    }
    let most = 0;
    for (const sum of sums) if (sum > most) most = sum;
    const image = pen.createImageData(wide, high);
    const top = Math.log1p(most) || 1;
    for (let place = 0; place < sums.length; place++) {
      if (!sums[place]) continue;
      const level = 3 * Math.min(255, Math.round((255 * Math.log1p(sums[place])) / top));
      image.data[4 * place] = paint.ramp[level];
      image.data[4 * place + 1] = paint.ramp[level + 1];
      image.data[4 * place + 2] = paint.ramp[level + 2];
      image.data[4 * place + 3] = 255;
    }
    pen.putImageData(image, Math.round(left * scale), 0);
    drawRowNames(pen, paint, left, width, height - AXIS);
    drawTimes(pen, paint, left, width, height - AXIS, true);
    find("most").textContent = `darkest: ${number(most)} accesses in ${duration(data.column_ns * Math.max(1, 1 / perColumn))}`.replace(
      "darkest", dark.matches ? "brightest" : "darkest");
  }

  function drawRowNames(pen, paint, left, width, height) {
    const perRow = height / (view.r1 - view.r0);
    pen.textAlign = "right";
    let last = -Infinity;
    for (let row = Math.floor(view.r0); row < Math.ceil(view.r1); row++) {
      const y = (row + 0.5 - view.r0) * perRow;
      if (row && data.rows[row].map !== data.rows[row - 1].map) {
        pen.fillStyle = paint.line;
        pen.fillRect(0, (row - view.r0) * perRow, width, 1);
      }
      if (y - last < 13 || y < 6 || y > height - 4) continue;
      last = y;
      pen.fillStyle = paint.text;
      pen.fillText(fitted(pen, data.rows[row].name, left - 8), left - 5, y);
    }
  }

  function drawTimes(pen, paint, left, width, height, words) {
    const span = (view.t1 - view.t0) * data.column_ns;
    const room = Math.max(1, Math.floor((width - left) / 90));
    let step = 10 ** Math.floor(Math.log10(span / room));
    for (const factor of [2, 5, 10]) if (span / step > room) step = factor * 10 ** Math.floor(Math.log10(span / room));
    const x = (ns) => left + ((ns - time(view.t0)) / span) * (width - left);
    pen.textAlign = "center";
    for (let tick = Math.ceil(time(view.t0) / step) * step; tick <= time(view.t1); tick += step) {
      pen.fillStyle = paint.line;
      pen.fillRect(x(tick), height, 1, 4);
      pen.fillStyle = paint.faint;
      const half = pen.measureText(duration(tick)).width / 2;
      if (words && x(tick) - half > left && x(tick) + half < width) pen.fillText(duration(tick), x(tick), height + 13);
    }
    for (const remark of data.remarks) {
      if (remark.time < time(view.t0) || remark.time > time(view.t1)) continue;
      pen.fillStyle = remark.kind === "lost" ? paint.lost : paint.mark;
      pen.fillRect(x(remark.time), 0, 1.5, height);
    }
  }

  // A line for each mapping, of the cells in its rows, and for each thread.
  const lanes = data.maps.map((name, map) => ({
    name, cells: heat, rows: data.rows.flatMap((row, index) => (row.map === map ? [index] : [])),
  })).concat(data.threads.map((name, row) => ({ name, cells: threads, rows: [row] })));

  function drawLanes() {
    const { pen, width, height } = prepared(laneCanvas, lanes.length * LANE + AXIS);
    const paint = colours();
    const left = gutter(width);
    const wide = Math.max(1, Math.floor(width - left));
    const perColumn = wide / (view.t1 - view.t0);
    lanes.forEach((lane, index) => {
      const sums = new Float64Array(wide);
      for (const row of lane.rows)
        for (let cell = firstAt(lane.cells, row, Math.floor(view.t0)); cell < lane.cells.ends[row + 1] && lane.cells.column[cell] < view.t1; cell++) {
          const begin = Math.max(0, Math.floor((lane.cells.column[cell] - view.t0) * perColumn));
          const end = Math.min(wide, Math.max(begin + 1, Math.floor((lane.cells.column[cell] + 1 - view.t0) * perColumn)));
          let count = 0;
          for (const counts of lane.cells.counts) count += counts[cell];
          for (let x = begin; x < end; x++) sums[x] += count / Math.max(1, perColumn);
        }
      const most = Math.max(...sums, 0);
      const bottom = (index + 1) * LANE - 4;
      pen.fillStyle = paint.bar;
      for (let x = 0; x < wide; x++)
        if (sums[x]) {
          const size = Math.max(1, ((LANE - 8) * sums[x]) / most);
          pen.fillRect(left + x, bottom - size, 1, size);
        }
      pen.fillStyle = paint.line;
      pen.fillRect(left, bottom, width - left, 1);
      const seconds = (data.column_ns * (view.t1 - view.t0)) / wide / 1e9;
      pen.textAlign = "right";
      pen.fillStyle = paint.text;
      pen.fillText(fitted(pen, lane.name, left - 8), left - 5, bottom - 18);
      pen.fillStyle = paint.faint;
      pen.fillText(fitted(pen, `≤ ${(most / seconds).toPrecision(3).replace(/e\+/, "e")}/s`, left - 8), left - 5, bottom - 5);
    });
    drawTimes(pen, paint, left, width, height - AXIS, true);
  }

  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawHeat();
      drawLanes();
      document.documentElement.dataset.drawn = "yes";
    });
  }

  // Zooming and moving. Time is zoomed by the wheel and by two fingers, addresses by the wheel with Shift.
  const limits = () => {
    const map = find("maps").value;
    if (map === "") return all;
    const rows = data.rows.flatMap((row, index) => (row.map === +map ? [index] : []));
    return { ...all, r0: rows[0], r1: rows[rows.length - 1] + 1 };
  };
  function move(low, high, from, to, least) {
    const size = Math.min(Math.max(to - from, least), high - low);
    const begin = Math.min(Math.max(from, low), high - size);
    return [begin, begin + size];
  }
  function zoom(factor, at, names) {
    const [from, to] = names;
    const bounds = limits();
    const place = view[from] + at * (view[to] - view[from]);
    [view[from], view[to]] = move(bounds[from], bounds[to], place - (place - view[from]) * factor, place + (view[to] - place) * factor, from === "t0" ? 4 : 1);
    draw();
  }
  function pan(share, names) {
    const [from, to] = names;
    const bounds = limits();
    const distance = share * (view[to] - view[from]);
    [view[from], view[to]] = move(bounds[from], bounds[to], view[from] + distance, view[to] + distance, 0);
    draw();
  }
  const TIME = ["t0", "t1"];
  const ADDRESS = ["r0", "r1"];
  const share = (canvas, event) => {
    const left = gutter(canvas.clientWidth);
    return Math.min(1, Math.max(0, (event.offsetX - left) / (canvas.clientWidth - left)));
  };

  function tell(event) {
    const left = gutter(heatCanvas.clientWidth);
    const row = Math.floor(view.r0 + (event.offsetY / (heatCanvas.clientHeight - AXIS)) * (view.r1 - view.r0));
    if (event.offsetX < left || row >= view.r1 || row < 0) return;
    const each = (view.t1 - view.t0) / (heatCanvas.clientWidth - left);
    const begin = Math.floor(view.t0 + (event.offsetX - left) * each);
    const end = Math.max(begin + 1, Math.floor(view.t0 + (event.offsetX + 1 - left) * each));
    const counts = [0, 0];
    for (let cell = firstAt(heat, row, begin); cell < heat.ends[row + 1] && heat.column[cell] < end; cell++)
      counts.forEach((_, way) => (counts[way] += heat.counts[way][cell]));
    const { map, name, place } = data.rows[row];
    find("readout").textContent =
      `${data.maps[map]} ${place}${name === place ? "" : ` ${name}`}, ${duration(time(begin))} to ${duration(time(end))}: ` +
      `${number(counts[0])} reads, ${number(counts[1])} writes`;
  }

  for (const canvas of [heatCanvas, laneCanvas]) {
    const fingers = new Map();
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey && canvas === laneCanvas) return; // the page scrolls
      event.preventDefault();
      const factor = Math.exp(Math.sign(event.deltaY || event.deltaX) * 0.25);
      if (event.shiftKey && canvas === heatCanvas)
        zoom(factor, Math.min(1, event.offsetY / (canvas.clientHeight - AXIS)), ADDRESS);
      else zoom(factor, share(canvas, event), TIME);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas === heatCanvas) tell(event);
      const before = fingers.get(event.pointerId);
      if (!before) return;
      if (fingers.size === 2) {
        const other = [...fingers.values()].find((one) => one.pointerId !== event.pointerId);
        const distance = (one) => Math.max(20, Math.abs(one.offsetX - other.offsetX));
        zoom(distance(before) / distance(event), share(canvas, other), TIME);
      } else {
        pan((before.offsetX - event.offsetX) / (canvas.clientWidth - gutter(canvas.clientWidth)), TIME);
        if (canvas === heatCanvas && event.pointerType === "mouse")
          pan((before.offsetY - event.offsetY) / (canvas.clientHeight - AXIS), ADDRESS);
      }
      fingers.set(event.pointerId, event);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("dblclick", (event) => zoom(0.5, share(canvas, event), TIME));
    canvas.addEventListener("keydown", (event) => {
      const act = {
        "+": () => zoom(0.5, 0.5, TIME), "-": () => zoom(2, 0.5, TIME), 0: reset,
        ArrowLeft: () => pan(-0.2, TIME), ArrowRight: () => pan(0.2, TIME),
        ArrowUp: () => pan(-0.2, ADDRESS), ArrowDown: () => pan(0.2, ADDRESS),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }
  heatCanvas.addEventListener("pointerdown", tell);

  function reset() {
    Object.assign(view, limits());
    draw();
  }
  data.maps.forEach((name, map) => find("maps").add(new Option(name, map)));
  find("maps").addEventListener("change", reset);
  find("ways").addEventListener("change", draw);
  find("in").addEventListener("click", () => zoom(0.5, 0.5, TIME));
  find("out").addEventListener("click", () => zoom(2, 0.5, TIME));
  find("whole").addEventListener("click", reset);
  laneCanvas.dataset.lanes = lanes.length;
  laneCanvas.height = lanes.length * LANE + AXIS;
  laneCanvas.style.height = `${lanes.length * LANE + AXIS}px`;
  window.addEventListener("resize", draw);
  dark.addEventListener("change", draw);
  draw();
})();

// A table is sorted by the column whose head is pressed.
for (const head of document.querySelectorAll("table.sorted th")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    const key = (row) => row.cells[column].dataset.by ?? row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      const order = left !== "" && right !== "" && !isNaN(left) && !isNaN(right) ? left - right : left.localeCompare(right);
      return down ? -order : order;
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
