// The drag editor in the browser. Python says what is; this draws it, lets a person change it, and
// sends what was changed as absolute values. Pixels are CSS pixels, sparsities fractions from 0 to 1.

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 46, right: 10, title: 22, axis: 22, toolbar: 42, hint: 28 };
const ATTENTION_SHARE = 0.28;
const SEND_EVERY = 150; // milliseconds, while a pointer or key is down
const KEY_SILENCE = 250;
const SETTLE = 180; // how long a shape that comes from Python takes to move
const FINE = 0.1;
const LINE = 3;
const COARSE_BINS = 32; // fewer are single heads: drawn as blocks, not blended
const LOCK = "M2 5V3.5a3 3 0 0 1 6 0V5h.5A1.5 1.5 0 0 1 10 6.5v4A1.5 1.5 0 0 1 8.5 12h-7A1.5 1.5 0 0 1 0 10.5v-4A1.5 1.5 0 0 1 1.5 5zM3.6 5h2.8V3.5a1.4 1.4 0 0 0-2.8 0z";
const MODES = {
  paint: {
    title: "Paint",
    hint: "Press and drag across the layers: the cut line follows. What lies under it leaves.",
    icon: "M1 12c2-6 4-6 6-3s4 2 8-6",
  },
  handle: {
    title: "Handle",
    hint: "Drag one layer up or down; hold Shift for fine steps.",
    icon: "M8 1v14M4.5 4.5 8 1l3.5 3.5M4.5 11.5 8 15l3.5-3.5M2 8h12",
  },
  brush: {
    title: "Brush",
    hint: "Drag sideways to select layers, then drag inside the band to move them together.",
    icon: "M2.5 2v12M13.5 2v12M5.5 8h5M7 6 5 8l2 2M9 6l2 2-2 2",
  },
  lock: {
    title: "Lock",
    hint: "Click or drag over layers to lock them, or to let them go; hold Shift for both lanes.",
    icon: "M4 7.5h8v6H4zM5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5",
  },
};

const clamp = (value, low = 0, high = 1) => Math.min(high, Math.max(low, value));
const percent = (share) => `${Number((100 * share).toFixed(1))}%`;
const points = (share) => `${share < 0 ? "-" : "+"}${Math.abs(Number((100 * share).toFixed(1)))} points`;
const reduced = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

function node(name, attributes = {}, parent = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

function element(name, attributes = {}, parent = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// The colours of a scale, one for each of 256 values.
function ramp(scale) {
  const canvas = element("canvas", { width: 256, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const gradient = context.createLinearGradient(0, 0, 256, 0);
  for (const [place, colour] of scale) gradient.addColorStop(place, colour);
  context.fillStyle = gradient;
  context.fillRect(0, 0, 256, 1);
  return context.getImageData(0, 0, 256, 1).data;
}

// One site: what is known of it, and what is drawn of it.
class Column {
  constructor(site, lane) {
    Object.assign(this, { key: site.key, layer: site.layer, lane });
    this.name = `layer ${site.layer} ${lane.name}`;
    this.group = node("g", {
      class: "column",
      role: "slider",
      tabindex: -1,
      "aria-orientation": "vertical",
      "aria-label": this.name,
      "aria-valuemin": 0,
      "aria-valuemax": 100,
    });
    this.group.dataset.key = site.key;
    this.area = node("rect", { class: "area" }, this.group);
    this.removed = node("rect", { class: "removed" }, this.group);
    this.hatch = node("rect", { fill: "url(#drag-editor-hatch)" }, this.group);
    this.cut = node("rect", { class: "cut" }, this.group);
    this.lock = node("path", { class: "lock", d: LOCK }, this.group);
    this.ring = node("rect", { class: "ring" }, this.group);
  }

  // Take over what Python says.
  take(site) {
    this.value = site.sparsity;
    this.locked = site.locked;
    this.steps = site.steps;
    this.shown ??= this.value;
  }

  // The nearest sparsity that this site can have.
  snap(value) {
    const inside = clamp(value);
    if (!this.steps.length) return Math.round(1000 * inside) / 1000;
    return this.steps.reduce((best, step) =>
      Math.abs(step - inside) < Math.abs(best - inside) ? step : best,
    );
  }

  // What a key that asks for `delta` more leads to: at least one step where there are steps.
  stepped(delta) {
    if (!this.steps.length) return this.snap(this.value + delta);
    const onwards = this.steps.filter((step) => (step - this.value) * delta > 1e-9);
    if (!onwards.length) return this.value;
    const wanted = this.snap(this.value + delta);
    if (onwards.includes(wanted)) return wanted;
    return delta > 0 ? onwards[0] : onwards[onwards.length - 1];
  }

  end(last) {
    if (!this.steps.length) return last ? 1 : 0;
    return this.steps[last ? this.steps.length - 1 : 0];
  }

  said() {
    return `${percent(this.value)} removed${this.locked ? ", locked" : ""}`;
  }
}

// What one drawing of the editor remembers, from one call of Python to the next.
class Editor {
  constructor(root) {
    this.root = root;
    this.id = Math.random().toString(36).slice(2);
    this.mode = "paint";
    this.sent = 0;
    this.sentAt = 0;
    this.sending = null; // the timer of the edit that is due
    this.silence = null; // the timer that ends a run of key presses
    this.frame = null;
    this.settleFrom = null; // where each column's line was when Python's values came
    this.moved = new Map(); // sites touched since Python's last answer, by key
    this.locks = new Map();
    this.lanes = [];
    this.drag = null;
    this.selection = null;
    this.hovered = null;
    root.dataset.n = 0;
    this.build();
    this.resizing = new ResizeObserver(() => this.layout());
    this.resizing.observe(root);
  }

  build() {
    this.root.replaceChildren();
    const bar = element("div", { class: "bar" }, this.root);
    const tools = element("div", { class: "tools", role: "toolbar", "aria-label": "Mode" }, bar);
    this.buttons = {};
    for (const [mode, { title, icon }] of Object.entries(MODES)) {
      const shortcut = mode[0].toUpperCase();
      const button = element("button", { type: "button", title: `${title} (${shortcut})` }, tools);
      const drawing = node("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, button);
      node("path", { d: icon }, drawing);
      element("span", {}, button).textContent = title;
      button.onclick = () => this.choose(mode);
      button.onkeydown = (event) => this.alongTools(event, mode);
      this.buttons[mode] = button;
    }
    const legend = element("div", { class: "legend", "aria-hidden": "true" }, bar);
    element("span", {}, legend).textContent = "Matters less";
    element("i", { class: "scale" }, legend);
    element("span", {}, legend).textContent = "more";
    element("i", { class: "gone" }, legend);
    element("span", {}, legend).textContent = "Removed";

    this.plot = element("div", { class: "plot" }, this.root);
    this.canvas = element("canvas", { "aria-hidden": "true" }, this.plot);
    this.svg = node("svg", { role: "group", "aria-label": "Sparsity of every layer" }, this.plot);
    const pattern = { id: "drag-editor-hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" };
    const hatch = node("pattern", { ...pattern, patternTransform: "rotate(45)" });
    node("line", { class: "stroke", x1: 0, y1: 0, x2: 0, y2: 6 }, hatch);
    node("defs", {}, this.svg).append(hatch);
    this.grid = node("g", { class: "grid", "aria-hidden": "true" }, this.svg);
    this.sites = node("g", {}, this.svg);
    this.over = node("g", { class: "over", "aria-hidden": "true" }, this.svg);
    this.tag = node("g", { class: "tag" }, this.over);
    this.tagBox = node("rect", { rx: 4, height: 18 }, this.tag);
    this.tagText = node("text", { y: 13, "text-anchor": "middle" }, this.tag);
    this.hint = element("div", { class: "hint", role: "status", "aria-live": "polite" }, this.root);

    this.svg.onpointerdown = (event) => this.press(event);
    this.svg.onpointermove = (event) => this.point(event);
    this.svg.onpointerup = (event) => this.release(event);
    this.svg.onpointercancel = (event) => this.release(event);
    this.svg.onlostpointercapture = (event) => this.release(event);
    this.svg.onpointerleave = () => this.hover(null);
    this.root.onkeydown = (event) => this.pressKey(event);
    // There are no handler properties for these two.
    this.root.addEventListener("focusin", (event) => this.focused(event));
    this.root.addEventListener("focusout", () => this.cutKeysShort());
    this.choose(this.mode);
  }

  dispose() {
    this.resizing.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.sending);
    clearTimeout(this.silence);
  }

  // What comes from Python.

  receive(data) {
    this.data = data;
    this.root.dataset.revision = data.revision;
    const { importance, removed, cut } = data.colours;
    const stops = importance.map(([place, colour]) => `${colour} ${100 * place}%`);
    this.root.style.setProperty("--scale", `linear-gradient(90deg, ${stops.join(", ")})`);
    this.root.style.setProperty("--removed", removed);
    this.root.style.setProperty("--cut", cut);
    this.root.style.height = `${data.height}px`;
    this.plot.style.height = `${data.height - EDGE.toolbar - EDGE.hint}px`;
    const structure = JSON.stringify([data.layers, data.lanes, data.sites.map((site) => site.key)]);
    if (structure !== this.structure) this.rebuild(structure);
    this.takeOver();
    const map = JSON.stringify([importance, data.height, data.sites.map((s) => s.importance)]);
    if (map !== this.map) {
      this.map = map;
      this.layout();
    }
  }

  // Another model: nothing of what was under way makes sense any longer.
  rebuild(structure) {
    this.structure = structure;
    this.drag = this.selection = this.hovered = null;
    clearTimeout(this.sending);
    clearTimeout(this.silence);
    this.sending = this.silence = null;
    this.moved.clear();
    this.locks.clear();
    this.map = null;
    for (const lane of this.lanes) lane.group.remove();
    for (const lane of this.lanes) for (const drawn of [lane.shape, lane.band]) drawn.remove();
    this.lanes = this.data.lanes.map(({ kind, title }) => {
      const group = node("g", { role: "group", "aria-label": title }, this.sites);
      const shape = node("path", { class: "shape" });
      const band = node("rect", { class: "band", rx: 3 });
      this.over.prepend(shape, band);
      const name = kind === "attention" ? "attention" : title;
      return { kind, title, name, group, shape, band, columns: [] };
    });
    this.columns = new Map();
    for (const site of this.data.sites) {
      const lane = this.lanes.find(({ kind }) => kind === site.lane);
      const column = new Column(site, lane);
      lane.columns[site.layer] = column;
      this.columns.set(site.key, column);
    }
    for (const lane of this.lanes) {
      const present = lane.columns.filter(Boolean);
      lane.group.append(...present.map((column) => column.group));
      this.rove(present[0]);
    }
  }

  get busy() {
    return this.drag !== null || this.silence !== null;
  }

  // Python's values win, except in mid-drag and while the answer to a later edit is on its way.
  takeOver() {
    const { seen, sites } = this.data;
    const answered = !this.sent || (seen?.editor === this.id && seen.n >= this.sent);
    if (this.busy || !answered) return;
    this.moved.clear();
    this.locks.clear();
    for (const site of sites) this.columns.get(site.key).take(site);
    this.settleFrom = new Map([...this.columns.values()].map((column) => [column, column.shown]));
    this.settleStart = reduced() ? -Infinity : performance.now();
    this.describe();
    this.paint();
  }

  // What goes to Python.

  soon() {
    const wait = Math.max(0, SEND_EVERY - (performance.now() - this.sentAt));
    this.sending ??= setTimeout(() => this.commit(false), wait);
  }

  commit(final) {
    clearTimeout(this.sending);
    this.sending = null;
    if (!this.moved.size && !this.locks.size) {
      this.takeOver();
      return;
    }
    this.sent += 1;
    this.sentAt = performance.now();
    this.send({
      editor: this.id,
      n: this.sent,
      revision: this.data.revision,
      final,
      sparsity: Object.fromEntries(this.moved),
      locks: Object.fromEntries(this.locks),
    });
    this.root.dataset.n = this.sent;
  }

  set(column, value) {
    if (column.locked || value === column.value) return;
    column.value = column.shown = value;
    this.settleFrom?.delete(column);
    this.moved.set(column.key, value);
    this.describe(column);
    this.paint();
    this.soon();
  }

  setLock(column, locked) {
    if (column.locked === locked) return;
    column.locked = locked;
    this.locks.set(column.key, locked);
    this.describe(column);
    this.paint();
  }

  // Drawing.

  layout() {
    const width = this.root.clientWidth;
    if (!this.data || !width) return;
    const height = this.data.height - EDGE.toolbar - EDGE.hint;
    const { left, right, title, axis } = EDGE;
    this.width = width;
    this.pitch = (width - left - right) / this.data.layers;
    this.gap = this.pitch >= 10 ? 2 : this.pitch >= 5 ? 1 : 0;
    const room = height - axis - title * this.lanes.length;
    let top = 0;
    for (const lane of this.lanes) {
      const share = lane.kind === "attention" ? ATTENTION_SHARE : 1 - ATTENTION_SHARE;
      lane.height = Math.round(this.lanes.length > 1 ? room * share : room);
      lane.top = top + title;
      top = lane.top + lane.height;
    }
    this.bottom = top;
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.drawGrid();
    this.drawMap(width, height);
    for (const column of this.columns.values()) this.place(column);
    this.paint();
  }

  left(layer) {
    return EDGE.left + layer * this.pitch;
  }

  place(column) {
    const box = {
      x: this.left(column.layer) + this.gap / 2,
      y: column.lane.top,
      width: Math.max(1, this.pitch - this.gap),
      height: column.lane.height,
    };
    for (const part of [column.area, column.removed, column.hatch, column.cut, column.ring]) {
      for (const [name, value] of Object.entries(box)) part.setAttribute(name, value);
    }
    column.cut.setAttribute("height", LINE);
  }

  drawGrid() {
    this.grid.replaceChildren();
    const right = this.width - EDGE.right;
    for (const lane of this.lanes) {
      const title = { class: "title", x: EDGE.left, y: lane.top - 7 };
      node("text", title, this.grid).textContent = lane.title;
      for (const share of [0, 0.5, 1]) {
        const y = lane.top + lane.height * (1 - share);
        const line = { x1: EDGE.left - 5, x2: right, y1: y, y2: y };
        node("line", line, this.grid);
        const text = { x: EDGE.left - 8, y: y + 4, "text-anchor": "end" };
        node("text", text, this.grid).textContent = percent(share);
      }
    }
    const every = [1, 2, 4, 5, 8, 10, 16, 20, 32, 64].find((n) => n * this.pitch >= 24) ?? 128;
    for (let layer = 0; layer < this.data.layers; layer += every) {
      const x = this.left(layer + 0.5);
      const text = { x, y: this.bottom + 16, "text-anchor": "middle" };
      node("text", text, this.grid).textContent = layer;
    }
    const label = { class: "title", x: 0, y: this.bottom + 16 };
    node("text", label, this.grid).textContent = "Layer";
  }

  drawMap(width, height) {
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dense);
    this.canvas.height = Math.round(height * dense);
    const context = this.canvas.getContext("2d");
    const colours = ramp(this.data.colours.importance);
    for (const site of this.data.sites) {
      const { lane } = this.columns.get(site.key);
      const bins = site.importance ? bytes(site.importance) : Uint8Array.of(128);
      const image = new ImageData(1, bins.length);
      bins.forEach((value, row) => {
        image.data.set(colours.subarray(4 * value, 4 * value + 4), 4 * row);
      });
      const strip = element("canvas", { width: 1, height: bins.length });
      strip.getContext("2d").putImageData(image, 0, 0);
      // Whole device pixels: a column's edge must not be blurred.
      const from = Math.round((this.left(site.layer) + this.gap / 2) * dense);
      const to = Math.round((this.left(site.layer + 1) - this.gap / 2) * dense);
      const [top, tall] = [Math.round(lane.top * dense), Math.round(lane.height * dense)];
      context.imageSmoothingEnabled = bins.length > COARSE_BINS;
      context.globalAlpha = site.importance ? 1 : 0.45;
      context.drawImage(strip, from, top, Math.max(1, to - from), tall);
    }
  }

  paint() {
    this.frame ??= requestAnimationFrame((now) => {
      this.frame = null;
      this.draw(now);
    });
  }

  draw(now) {
    if (!this.pitch) return;
    const share = this.settleFrom ? clamp((now - this.settleStart) / SETTLE) : 1;
    const eased = 1 - (1 - share) ** 3;
    for (const column of this.columns.values()) {
      const from = this.settleFrom?.get(column) ?? column.value;
      column.shown = from + (column.value - from) * eased;
      this.drawColumn(column);
    }
    for (const lane of this.lanes) this.drawShape(lane);
    this.drawSelection();
    this.drawTag();
    if (share < 1) this.paint();
    else this.settleFrom = null;
  }

  drawColumn(column) {
    const { lane } = column;
    const y = lane.top + lane.height * (1 - column.shown);
    for (const part of [column.removed, column.hatch]) {
      part.setAttribute("y", y);
      part.setAttribute("height", lane.top + lane.height - y);
    }
    column.cut.setAttribute("y", this.lineTop(column));
    column.group.classList.toggle("locked", column.locked);
    column.group.classList.toggle("hovered", column === this.hovered);
    if (!column.locked) return;
    const size = Math.min(1, (this.pitch - this.gap) / 10);
    const x = this.left(column.layer + 0.5) - 5 * size;
    const under = y + 6;
    const fits = under + 12 * size < lane.top + lane.height;
    const glyph = fits ? under : y - 12 * size - 6;
    column.lock.setAttribute("transform", `translate(${x} ${glyph}) scale(${size})`);
  }

  lineTop({ lane, shown }) {
    const y = lane.top + lane.height * (1 - shown) - LINE / 2;
    return clamp(y, lane.top, lane.top + lane.height - LINE);
  }

  // The cut lines of a lane, joined: the shape that a person sees and draws.
  drawShape(lane) {
    let path = "";
    let before = null;
    for (const column of lane.columns) {
      if (column) {
        const y = this.lineTop(column) + LINE / 2;
        const start = this.left(column.layer);
        path += before === column.layer - 1 ? `V${y}` : `M${start} ${y}`;
        path += `H${start + this.pitch}`;
        before = column.layer;
      }
    }
    lane.shape.setAttribute("d", path);
  }

  drawSelection() {
    for (const lane of this.lanes) {
      const shown = this.selection?.lanes.includes(lane);
      lane.band.classList.toggle("shown", Boolean(shown));
      if (!shown) continue;
      const { from, to } = this.selection;
      const box = { x: this.left(from) - 1, width: (to - from + 1) * this.pitch + 2 };
      Object.assign(box, { y: lane.top - 2, height: lane.height + 4 });
      for (const [name, value] of Object.entries(box)) lane.band.setAttribute(name, value);
    }
  }

  drawTag() {
    const column = this.drag?.column ?? this.hovered;
    this.tag.classList.toggle("shown", Boolean(column));
    if (!column) return;
    this.tagText.textContent = percent(column.value);
    const width = 12 + 7 * this.tagText.textContent.length;
    this.tagBox.setAttribute("width", width);
    this.tagBox.setAttribute("x", -width / 2);
    const { lane } = column;
    const x = clamp(this.left(column.layer + 0.5), width / 2, this.width - width / 2);
    const y = this.lineTop(column) - 24;
    this.tag.setAttribute("transform", `translate(${x} ${y < lane.top - 20 ? y + 32 : y})`);
  }

  // What a screen reader is told of one column, or of all.
  describe(one = null) {
    for (const column of one ? [one] : this.columns.values()) {
      column.group.setAttribute("aria-valuenow", Number((100 * column.value).toFixed(1)));
      column.group.setAttribute("aria-valuetext", column.said());
      if (column.locked) column.group.setAttribute("aria-disabled", "true");
      else column.group.removeAttribute("aria-disabled");
    }
    if (this.talked && (!one || one === this.talked)) this.talk(this.talked);
  }

  say(text) {
    if (this.hint.textContent !== text) this.hint.textContent = text;
  }

  talk(column) {
    this.talked = column;
    this.say(column ? `${column.name}: ${column.said()}` : MODES[this.mode].hint);
  }

  sayRange(change = null) {
    this.talked = null;
    const { lanes, from, to } = this.selection;
    const layers = from === to ? `layer ${from}` : `layers ${from}-${to}`;
    const range = `${layers} ${lanes.map(({ name }) => name).join(" and ")}`;
    this.say(
      change === null
        ? `${range}: drag inside the band, or press Up and Down, to move them together`
        : `${range}: ${points(change)}`,
    );
  }

  choose(mode) {
    const focused = this.root.getRootNode().activeElement;
    const fromTools = Object.values(this.buttons).includes(focused);
    this.mode = mode;
    this.root.dataset.mode = mode;
    for (const [name, button] of Object.entries(this.buttons)) {
      button.setAttribute("aria-pressed", String(name === mode));
      button.tabIndex = name === mode ? 0 : -1;
    }
    if (fromTools) this.buttons[mode].focus();
    this.select(null);
  }

  alongTools(event, mode) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const names = Object.keys(MODES);
    this.choose(names[(names.indexOf(mode) + step + names.length) % names.length]);
  }

  select(selection) {
    this.selection = selection;
    if (selection) this.sayRange();
    else this.talk(null);
    this.paint();
  }

  selected() {
    const { lanes, from, to } = this.selection;
    return lanes.flatMap((lane) => lane.columns.slice(from, to + 1).filter(Boolean));
  }

  inSelection(column) {
    return Boolean(this.selection) && this.selected().includes(column);
  }

  // Pointer: mouse, pen and finger.

  // Where an event is: x and y in the plot, the layer, and the lane (null between the lanes).
  where(event) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const layer = clamp(Math.floor((x - EDGE.left) / this.pitch), 0, this.data.layers - 1);
    const inside = x >= EDGE.left - 4 && x <= this.width - EDGE.right + 4;
    const over = (lane) => y >= lane.top - 4 && y <= lane.top + lane.height + 4;
    const lane = (inside && this.lanes.find(over)) || null;
    return { x, y, layer, lane, column: lane?.columns[layer] ?? null };
  }

  press(event) {
    if (event.button !== 0 || this.drag) return;
    event.preventDefault();
    this.cutKeysShort();
    const place = this.where(event);
    const { lane, column } = place;
    if (column) {
      this.rove(column);
      column.group.focus({ preventScroll: true });
    }
    if (this.selection && this.mode !== "brush") this.select(null);
    if (!lane) {
      this.select(null);
      return;
    }
    try {
      this.svg.setPointerCapture(event.pointerId);
    } catch {
      // The pointer is gone already; its release will come as a cancel.
    }
    const whole = event.shiftKey; // of a lock: meant for both sites of a layer
    this.drag = { mode: this.mode, pointer: event.pointerId, lane, last: place, travelled: 0, whole };
    this[`press${MODES[this.mode].title}`](place);
    this.paint();
  }

  point(event) {
    if (!this.drag) {
      this.hover(this.where(event).column);
      return;
    }
    if (event.pointerId !== this.drag.pointer) return;
    const place = this.where(event);
    const speed = event.shiftKey ? FINE : 1;
    this.drag.travelled -= ((place.y - this.drag.last.y) / this.drag.lane.height) * speed;
    this[`drag${MODES[this.drag.mode].title}`](place);
    this.drag.last = place;
    this.paint();
  }

  release(event) {
    if (!this.drag || event.pointerId !== this.drag.pointer) return;
    const { mode, band, moved, had } = this.drag;
    this.drag = null;
    if (mode === "brush" && !band && !moved && had) this.select(null);
    this.commit(true);
    this.paint();
  }

  hover(column) {
    if (this.drag || column === this.hovered) return;
    this.hovered = column;
    this.svg.classList.toggle("over-band", this.mode === "brush" && this.inSelection(column));
    if (!this.selection) this.talk(column);
    this.paint();
  }

  pressPaint(place) {
    this.dragPaint(place);
  }

  dragPaint(place) {
    const { lane, last } = this.drag;
    for (const { column, y } of this.crossed(lane, last, place)) {
      this.drag.column = column;
      this.set(column, column.snap(1 - (y - lane.top) / lane.height));
      this.talk(column);
    }
  }

  // The columns of a lane between two places, and where the straight line between them meets each.
  *crossed(lane, from, to) {
    const step = Math.sign(to.layer - from.layer);
    for (let layer = from.layer; ; layer += step) {
      const middle = this.left(layer + 0.5);
      const share = to.x === from.x ? 1 : clamp((middle - from.x) / (to.x - from.x));
      const y = layer === to.layer ? to.y : from.y + (to.y - from.y) * share;
      const column = lane.columns[layer];
      // Where the line starts was painted by the event before.
      if (column && (layer !== from.layer || layer === to.layer)) yield { column, y };
      if (layer === to.layer) return;
    }
  }

  pressHandle({ column }) {
    this.drag.column = column;
    this.drag.start = column?.value;
    this.talk(column);
  }

  dragHandle() {
    const { column, start, travelled } = this.drag;
    if (!column) return;
    this.set(column, travelled ? column.snap(start + travelled) : start);
    this.talk(column);
  }

  pressBrush(place) {
    const { drag } = this;
    const within = this.selection?.lanes.includes(place.lane);
    drag.band = Boolean(within) && place.layer >= this.selection.from && place.layer <= this.selection.to;
    if (drag.band) {
      drag.start = new Map(this.selected().map((column) => [column, column.value]));
      return;
    }
    drag.had = this.selection !== null;
    drag.from = place.layer;
    this.dragBrush(place);
  }

  dragBrush(place) {
    const { drag } = this;
    if (drag.band) {
      for (const [column, value] of drag.start) {
        this.set(column, drag.travelled ? column.snap(value + drag.travelled) : value);
      }
      // What came of it, which is less than the pointer travelled where an edge was in the way.
      const changes = [...drag.start].map(([column, value]) => column.value - value);
      this.sayRange(changes.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0));
      return;
    }
    drag.moved ||= place.layer !== drag.from || (place.lane !== null && place.lane !== drag.lane);
    const across = place.lane !== null && place.lane !== drag.lane;
    this.select({
      lanes: across ? [...this.lanes] : [drag.lane],
      anchor: drag.from,
      from: Math.min(drag.from, place.layer),
      to: Math.max(drag.from, place.layer),
    });
  }

  pressLock(place) {
    this.drag.locked = !place.column?.locked;
    this.dragLock(place);
  }

  dragLock(place) {
    for (const { column } of this.crossed(this.drag.lane, this.drag.last, place)) {
      for (const each of this.layerOf(column, this.drag.whole)) {
        this.setLock(each, this.drag.locked);
      }
      this.talk(column);
    }
  }

  // What is meant by a column: itself, or its whole layer.
  layerOf(column, whole) {
    if (!whole) return [column];
    return [...this.columns.values()].filter(({ layer }) => layer === column.layer);
  }

  // Keyboard.

  // Make a column the one of its lane that Tab leads to.
  rove(column) {
    if (!column) return;
    column.lane.current?.group.setAttribute("tabindex", -1);
    column.lane.current = column;
    column.group.setAttribute("tabindex", 0);
  }

  focused(event) {
    const column = this.columns?.get(event.target.dataset?.key);
    if (!column) return;
    this.rove(column);
    if (!this.selection && !this.drag) this.talk(column);
  }

  pressKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.drag) return;
    const mode = Object.keys(MODES).find((name) => name[0] === event.key.toLowerCase());
    const column = this.columns.get(event.target.dataset?.key);
    let taken = true;
    if (mode) this.choose(mode);
    else if (event.key === "Escape") this.select(null);
    else taken = column ? this.pressColumnKey(event, column) : false;
    if (!taken) return;
    event.preventDefault();
    event.stopPropagation();
  }

  pressColumnKey({ key, shiftKey }, column) {
    const delta = { ArrowUp: 0.01, ArrowDown: -0.01, PageUp: 0.1, PageDown: -0.1 }[key];
    if (delta) this.step(column, (each) => each.stepped(delta), delta);
    else if (key === "Home" || key === "End") this.step(column, (each) => each.end(key === "End"));
    else if (key === "ArrowLeft" || key === "ArrowRight") {
      this.walk(column, key === "ArrowLeft" ? -1 : 1, shiftKey);
    } else if (key === " ") {
      const locked = !column.locked;
      const chosen = this.inSelection(column) ? this.selected() : [column];
      const meant = chosen.flatMap((each) => this.layerOf(each, shiftKey));
      for (const each of meant) this.setLock(each, locked);
      this.endKeys();
    } else return false;
    return true;
  }

  step(column, next, delta = null) {
    const meant = this.inSelection(column) ? this.selected() : [column];
    if (meant.every((each) => each.locked || next(each) === each.value)) return;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.endKeys(), KEY_SILENCE);
    for (const each of meant) this.set(each, next(each));
    if (this.inSelection(column)) this.sayRange(delta ?? 0);
    else this.talk(column);
  }

  // A run of key presses is over: what it came to is meant.
  endKeys() {
    clearTimeout(this.silence);
    this.silence = null;
    this.commit(true);
  }

  cutKeysShort() {
    if (this.silence !== null) this.endKeys();
  }

  walk(column, step, extend) {
    const { columns } = column.lane;
    let layer = column.layer + step;
    while (layer >= 0 && layer < columns.length && !columns[layer]) layer += step;
    const next = columns[layer];
    if (!next) return;
    if (extend) {
      const anchor = this.inSelection(column) ? this.selection.anchor : column.layer;
      const [from, to] = [Math.min(anchor, layer), Math.max(anchor, layer)];
      const lanes = this.inSelection(column) ? this.selection.lanes : [column.lane];
      this.select({ lanes, anchor, from, to });
    } else if (this.selection) this.select(null);
    next.group.focus();
  }
}

const editors = new WeakMap();

export default function ({ parentElement, data, setStateValue }) {
  let editor = editors.get(parentElement);
  if (!editor) {
    editor = new Editor(parentElement.querySelector(".drag-editor"));
    editors.set(parentElement, editor);
  }
  editor.send = (edit) => setStateValue("edit", edit);
  editor.receive(data);
  return () => {
    editor.dispose();
    editors.delete(parentElement);
  };
}
