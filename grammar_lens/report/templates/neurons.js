
// Neuron pages: looked up by address, or by a link such as #neuron-next-5.123. Their numbers are
// unpacked when the first one is asked for, and only the rows of the list that are seen exist.
const LINK = /^#neuron-([a-z]+)-(\d+)\.(\d+)$/;
const AT_ONCE = 100;
const DASH = "\u2013";
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Numbers as in the tables of the page: a true minus sign, a dash for what is missing.
const withSign = (text, value, plus) =>
  `${plus && value >= 0 ? "+" : ""}${text}`.replace("-", "\u2212");
function fixed(value, digits, plus = false) {
  return Number.isFinite(value) ? withSign(value.toFixed(digits), value, plus) : DASH;
}
// decimals that show the largest of some numbers with three digits
function decimals(values) {
  const largest = Math.max(0, ...values.map(Math.abs).filter(Number.isFinite));
  return largest ? Math.min(Math.max(2 - Math.floor(Math.log10(largest)), 0), 7) : 0;
}
function rough(value, plus = false) {
  if (!Number.isFinite(value)) return DASH;
  const small = value && Math.abs(value) < 1e-4;
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1)));
  const text = small ? value.toExponential(1) : value.toFixed(Math.min(digits, 6));
  return withSign(text, value, plus);
}
const count = (n) => n.toLocaleString("en");
const few = (names) =>
  names.slice(0, 3).join(", ") + (names.length > 3 ? ` + ${names.length - 3} more` : "");

// Signs that show nothing, or would turn the direction of what stands beside them, as escapes.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;
function visible(text) {
  return text.replace(UNSEEN, (sign) => {
    if (sign === "\n") return "\u23ce";
    if (sign === "\t") return "\u21e5";
    return `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

// Its numbers, and the sentences if there are any.
function blocksAt(position) {
  return [`neurons-${position}`, `examples-${position}`].filter((id) => document.getElementById(id));
}

// One position's numbers, of inflated blocks.
class Store {
  constructor(position) {
    const [own, sentences] = blocksAt(position).map(contents);
    Object.assign(this, own.data);
    for (const name of ["address", "scores", "effects", "means", "key"]) {
      this[name] = unpack(this[name], own.numbers);
    }
    // neurons come in order, each as its distance from the one before
    this.address = Uint32Array.from(this.address, ((sum) => (step) => (sum += step))(0));
    this.lists = this.lists.map((list) => ({
      row: unpack(list.row, own.numbers),
      score: unpack(list.score, own.numbers),
      effect: unpack(list.effect, own.numbers),
    }));
    this.keyBytes = Math.ceil(this.labels.length / 8);
    this.sentences = sentences || null;
  }

  // The neuron's row, or -1 where the page holds nothing of it.
  row(layer, index) {
    const wanted = layer * this.units + index;
    let from = 0;
    let to = this.address.length;
    while (from < to) {
      const middle = (from + to) >> 1;
      if (this.address[middle] < wanted) from = middle + 1;
      else to = middle;
    }
    return this.address[from] === wanted ? from : -1;
  }

  // What a neuron answers to, unpacked; null where the page has no sentences of it.
  examples(name) {
    if (!this.sentences || !Object.hasOwn(this.sentences.data.neurons, name)) return null;
    const {data, numbers} = this.sentences;
    const packed = data.neurons[name];
    const activations = unpack(packed.values, numbers);
    let at = 0;
    const examples = packed.examples.map(
      ([word, label, value, source, place, first, token, from, to, cut]) => {
        const tokens = data.passages[place];
        const values = activations.subarray(at, at + tokens.length);
        at += tokens.length;
        return {word, label, value, source, tokens, values, first, token, span: [from, to], cut};
      });
    return {
      ...packed,
      count: unpack(packed.count, numbers),
      contrast: unpack(packed.contrast, numbers),
      quantiles: unpackRows(packed.quantiles, numbers),
      top: examples.slice(0, packed.top),
      bottom: examples.slice(packed.top),
    };
  }

  name(row) {
    const address = this.address[row];
    return `${Math.floor(address / this.units)}.${address % this.units}`;
  }

  isKey(row, c) {
    return Boolean(this.key[row * this.keyBytes + (c >> 3)] & (128 >> (c & 7)));
  }

  keyFor(row) {
    return this.labels.filter((_, c) => this.isKey(row, c));
  }

  // Everything known of a neuron for each tag; what its own list has is exact.
  tags(row) {
    return this.labels.map((label, c) => {
      const list = this.lists[c];
      const place = list.row.indexOf(row);
      const at = row * this.labels.length + c;
      const exact = place >= 0;
      return {
        label,
        exact,
        rank: exact ? place + 1 : null,
        isKey: this.isKey(row, c),
        score: exact ? list.score[place] : this.scores[at],
        effect: exact ? list.effect[place] : this.effects[at],
        mean: this.means[at],
      };
    });
  }
}

// A bar in a table's cell, from zero to the value on the scale of its column.
function beam(value, low, high, kind) {
  const track = element("span", {class: "beam", "aria-hidden": "true"});
  if (!Number.isFinite(value) || high <= low) return track;
  const share = (x) => (100 * (x - low)) / (high - low);
  const bar = element("i", {class: `${kind} ${value < 0 ? "below" : "above"}`});
  bar.style.left = `${share(Math.min(value, 0))}%`;
  bar.style.width = `${Math.max(share(Math.abs(value) + low), 0.8)}%`;
  track.append(bar);
  return track;
}

function sortableTable(id, title, columns, rows) {
  const table = element("table", {class: "sortable wide", id, "aria-label": title});
  const head = table.createTHead().insertRow();
  for (const {name, isText} of columns) {
    const button = element("button", {type: "button"}, name);
    head.append(element("th", {scope: "col", class: isText ? "" : "number"}, button));
  }
  const body = table.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    cells.forEach(({key, content}, i) => {
      const known = key !== null && (columns[i].isText || Number.isFinite(key));
      const cell = element("td", {class: columns[i].isText ? "" : "number"}, ...content);
      cell.dataset.key = known ? key : "";
      row.append(cell);
    });
  }
  makeSortable(table);
  return table;
}

function tagTable(store, tags, contrast) {
  const columns = [{name: "Tag", isText: true}];
  const measures = [
    {name: store.score, of: (t) => t.score, zero: store.neutral},
    {name: "Cohen\u2019s d", of: (t) => t.effect, zero: 0},
    {name: "Mean activation", of: (t) => t.mean, zero: 0},
  ];
  if (contrast) {
    measures.push({
      name: "Logit contrast",
      of: (t) => (t.label in contrast ? contrast[t.label] : NaN),
      zero: 0,
    });
  }
  for (const measure of measures) {
    measure.digits = decimals(tags.map(measure.of));
    const values = tags.map((t) => measure.of(t) - measure.zero).filter(Number.isFinite);
    measure.low = Math.min(0, ...values);
    measure.high = Math.max(0, ...values);
    columns.push({name: measure.name});
  }
  columns.push({name: "Rank"});
  const rows = tags.map((t) => {
    const mark = t.isKey ? [" ", element("span", {class: "key"}, "key")] : [];
    const cells = [{key: t.label, content: [element("bdi", {}, t.label), ...mark]}];
    for (const {of, zero, digits, low, high} of measures) {
      const value = of(t);
      const text = element("span", {class: "size"}, fixed(value, digits, true));
      const bar = beam(value - zero, low, high, t.isKey ? "own" : "other");
      cells.push({key: value, content: [element("span", {class: "measure"}, bar, text)]});
    }
    const beyond = `> ${count(store.listed)}`;
    cells.push({key: t.rank || store.listed + 1, content: [t.rank ? count(t.rank) : beyond]});
    return cells;
  });
  return sortableTable("neuron-tags", "The neuron, tag by tag", columns, rows);
}

function tableLegend(store, hasContrast) {
  const key = element("span", {class: "key"}, "key");
  const contrast = hasContrast
    ? " Logit contrast: how much it raises the logits of the tag\u2019s words above the others\u2019, per unit of activation, by the direct path."
    : "";
  return element("p", {class: "legend"}, key,
    `: among the tag\u2019s key ${store.unit}s. Hatched: below zero. Mean activation: over the tag\u2019s words. Rank: its place among the tag\u2019s strongest.${contrast}`);
}

function niceStep(span, most) {
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((x) => x * power).find((x) => x >= raw);
}

// A row for every tag: box over the middle half, whiskers over 90 %, dots at the extremes.
function boxPlot(found, width) {
  const rows = found.labels
    .map((label, c) => ({label, count: found.count[c], q: found.quantiles[c]}))
    .filter(({q}) => q.every(Number.isFinite))
    .sort((a, b) => b.q[3] - a.q[3]);
  if (!rows.length) return null;
  const [left, right, top, step, foot] = [78, 14, 6, 21, 40];
  const ends = [0, ...rows.flatMap(({q}) => [q[0], q[6]])];
  const room = 0.02 * (Math.max(...ends) - Math.min(...ends)) || 0.5;
  const [low, high] = [Math.min(...ends) - room, Math.max(...ends) + room];
  const span = high - low;
  const x = (value) => left + ((value - low) / span) * (width - left - right);
  const height = top + step * rows.length + foot;
  const told = rows.map(({label, q}) => `${label} ${rough(q[3])}`).join(", ");
  const picture = drawn("svg", {
    class: "boxes",
    role: "img",
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    "aria-label": `Box plots of the activation over each tag\u2019s words. Medians: ${told}.`,
  });
  const bottom = top + step * rows.length;
  const line = (x1, y1, x2, y2, kind) => picture.append(drawn("line", {x1, y1, x2, y2, class: kind}));
  const tick = niceStep(span, Math.max(2, Math.floor((width - left - right) / 70)));
  for (let i = Math.ceil(low / tick); i * tick <= high; i++) {
    line(x(i * tick), top, x(i * tick), bottom + 4, i ? "grid" : "zero");
    const text = drawn("text", {x: x(i * tick), y: bottom + 17, "text-anchor": "middle"});
    text.textContent = rough(i * tick).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
    picture.append(text);
  }
  const unit = drawn("text", {x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle"});
  unit.textContent =
    width < 460 ? "activation" : "activation (box: half of the words, whiskers: 90 %)";
  picture.append(unit);
  rows.forEach(({label, count: n, q}, i) => {
    const y = top + step * (i + 0.5);
    const hover = drawn("title", {});
    hover.textContent = `${label}, ${count(n)} words: median ${rough(q[3])}, half of them ${rough(q[2])} to ${rough(q[4])}, 90 % ${rough(q[1])} to ${rough(q[5])}, all ${rough(q[0])} to ${rough(q[6])}`;
    const name = drawn("text", {x: left - 7, y: y + 4, "text-anchor": "end"});
    const short = Array.from(label);
    name.textContent = short.length > 9 ? `${short.slice(0, 8).join("")}\u2026` : label;
    const box = {x: x(q[2]), y: y - 6, width: Math.max(x(q[4]) - x(q[2]), 1), height: 12};
    const middle = {x1: x(q[3]), x2: x(q[3]), y1: y - 7, y2: y + 7, class: "median"};
    const whole = {x: 0, y: y - step / 2, width, height: step, class: "row"};
    picture.append(
      drawn("g", {}, hover, drawn("rect", whole), name,
        drawn("line", {x1: x(q[1]), x2: x(q[5]), y1: y, y2: y, class: "whisker"}),
        drawn("rect", {...box, class: "box"}),
        drawn("line", middle),
        drawn("circle", {cx: x(q[0]), cy: y, r: 2, class: "extreme"}),
        drawn("circle", {cx: x(q[6]), cy: y, r: 2, class: "extreme"})),
    );
  });
  return picture;
}

function effectList(title, listed) {
  const items = listed.map(([token, logit]) =>
    element("li", {}, element("bdi", {class: "piece"}, visible(token).replace(/ /g, "\u00b7")),
      ` ${rough(logit, true)}`));
  const known = items.length ? element("ol", {class: "pieces"}, ...items) : element("p", {}, DASH);
  return element("div", {}, element("h4", {}, title), known);
}

// Colours from cool over white to warm, pale enough for dark text.
const WARM = [238, 150, 98];
const COOL = [125, 180, 222];
function shade(value, limit) {
  const share = Math.min(Math.abs(value) / limit, 1) || 0;
  const mixed = (value < 0 ? COOL : WARM).map((x) => Math.round(255 + (x - 255) * share));
  return `rgb(${mixed.join(",")})`;
}

function tokenSpan(text, value, limit, kinds) {
  const told = rough(value, true);
  const span = element("span", {class: ["token", ...kinds].join(" "), title: told}, text);
  span.dataset.value = told;
  span.style.backgroundColor = shade(value, limit);
  return span;
}

function passage(example, limit, isNext) {
  const text = element("p", {class: "passage", dir: "auto"});
  const {tokens, values, first, token, span} = example;
  if (token < 0) text.append(tokenSpan("(start)", example.value, limit, ["read"]), " ");
  if (first) text.append("\u2026 ");
  tokens.forEach((piece, i) => {
    const at = first + i;
    const kinds = [];
    if (at === token) kinds.push("read");
    if (at >= span[0] && at < span[1]) kinds.push("word");
    const blank = /^ +(?=[^ ])/.exec(piece);
    if (blank) text.append(blank[0]);
    text.append(tokenSpan(visible(piece.slice(blank ? blank[0].length : 0)), values[i], limit, kinds));
  });
  if (example.cut) text.append(" \u2026");
  const what = element("span", {}, element("b", {}, rough(example.value, true)),
    isNext ? " before " : " at ", element("bdi", {}, `\u201c${visible(example.word)}\u201d`), ", ",
    element("bdi", {}, example.label));
  const source = element("small", {}, element("bdi", {}, visible(example.source)));
  const about = element("p", {class: "about"}, what, " ", source);
  return element("li", {}, about, text);
}

function sentences(title, examples, store, limit) {
  const listed = examples.map((e) => passage(e, limit, store.position === "next"));
  return element("div", {}, element("h4", {}, title), element("ol", {class: "passages"}, ...listed));
}

function legend(limit, isNext) {
  const scale = element("span", {class: "scale", "aria-hidden": "true"});
  const stops = [-1, -0.5, 0, 0.5, 1].map((x) => shade(x, 1)).join(", ");
  scale.style.background = `linear-gradient(90deg, ${stops})`;
  const box = element("input", {type: "checkbox", id: "neuron-values", autocomplete: "off"});
  return element("p", {class: "legend"},
    "Colour: activation at the token, ", rough(-limit), " ", scale, " ", rough(limit, true), ". ",
    element("span", {class: "token read"}, "Outlined"), ": where it was read",
    isNext ? ", the token just before the word; " : "; ",
    element("span", {class: "token word"}, "underlined"), ": the word. ",
    element("label", {for: "neuron-values"}, box, " write the values"));
}

function howTo(store, name) {
  const [layer, index] = name.split(".");
  const where = store.position === "next" ? "" : `, position="${store.position}"`;
  return element("p", {class: "missing"},
    "The sentences in which it is most and least active are not stored in this page. In Python: ",
    element("code", {}, `run.neuron(${layer}, ${index}${where})`), "; as a command: ",
    element("code", {}, `grammar-lens neuron RUN ${name}`),
    ", where RUN is this run\u2019s folder.");
}

function withSentences(store, found, width) {
  const limit = Math.max(1e-9, ...[...found.top, ...found.bottom]
    .flatMap((e) => [e.value, ...e.values]).map(Math.abs).filter(Number.isFinite));
  const boxes = boxPlot(found, width);
  const parts = [];
  if (boxes) parts.push(element("h4", {}, "Activation, tag by tag"), boxes);
  parts.push(
    element("div", {class: "pair"}, effectList("Tokens it promotes", found.promoted),
      effectList("Tokens it suppresses", found.suppressed)),
    element("p", {class: "legend"}, "Logits per unit of activation, by the direct path."),
  );
  if (found.top.length || found.bottom.length) {
    const shown = element("div", {class: "examples"}, legend(limit, store.position === "next"),
      sentences("Where it is most active", found.top, store, limit),
      sentences("Where it is least active", found.bottom, store, limit));
    shown.querySelector("input").addEventListener("change", (event) => {
      shown.classList.toggle("told", event.target.checked);
    });
    parts.push(shown);
  }
  return parts;
}

function neuronArticle(store, layer, index, width) {
  const name = `${layer}.${index}`;
  const heading = element("h3", {id: "neuron-name", tabindex: "-1"},
    `${store.unit[0].toUpperCase()}${store.unit.slice(1)} ${name} `,
    element("small", {}, `read at \u201c${store.position}\u201d`));
  const row = store.row(layer, index);
  if (row < 0) {
    const held = `It is none of the ${count(store.address.length)} ${store.unit}s whose numbers this page holds: for no tag is it among the ${count(store.listed)} strongest. `;
    return {parts: [heading, element("p", {}, held), howTo(store, name)], said: held};
  }
  const tags = store.tags(row);
  const found = store.examples(name);
  const contrast = found && Object.fromEntries(found.labels.map((x, c) => [x, found.contrast[c]]));
  const ranked = tags.filter((t) => t.rank).sort((a, b) => a.rank - b.rank);
  const keyFor = store.keyFor(row);
  const lead = element("p", {class: "lead"});
  if (ranked.length) {
    const [best] = ranked;
    lead.append("No. ", count(best.rank), " of ", element("bdi", {}, best.label), ": ", store.score,
      " ", fixed(best.score, store.digits, true), ", Cohen\u2019s d ", fixed(best.effect, 2, true), ". ");
  }
  lead.append(keyFor.length ? "Key for " : "Key for no tag.");
  keyFor.forEach((label, i) => lead.append(i ? ", " : "", element("bdi", {}, label)));
  lead.append(keyFor.length ? "." : "");
  const table = element("div", {class: "scroll", role: "region", tabindex: "0",
    "aria-label": "The neuron, tag by tag"}, tagTable(store, tags, contrast));
  const parts = [heading, lead, table, tableLegend(store, Boolean(found))];
  parts.push(...(found ? withSentences(store, found, width) : [howTo(store, name)]));
  return {parts, said: `Shown: ${store.unit} ${name}. ${lead.textContent}`};
}

// The list of one tag's strongest neurons.
const LIST_COLUMNS = [
  {name: () => "Rank", key: (r) => r.rank, text: (r) => count(r.rank)},
  {name: (s) => `${s.unit[0].toUpperCase()}${s.unit.slice(1)}`, key: (r) => r.address},
  {name: (s) => s.score, key: (r) => r.score, text: (r, s) => fixed(r.score, s.digits, true)},
  {name: () => "Cohen\u2019s d", key: (r) => r.effect, text: (r) => fixed(r.effect, 3, true)},
  {name: () => "Mean, its words", key: (r) => r.mean, text: (r) => rough(r.mean, true)},
  {name: () => "Key for", key: (r) => r.keyFor.join(", "), text: (r) => few(r.keyFor), isText: true},
];

class List {
  constructor() {
    this.table = document.getElementById("neuron-list");
    this.said = document.getElementById("neuron-rows");
    this.back = document.getElementById("neuron-back");
    this.on = document.getElementById("neuron-on");
    this.filter = document.getElementById("neuron-filter");
    this.back.addEventListener("click", () => this.page(this.start - AT_ONCE));
    this.on.addEventListener("click", () => this.page(this.start + AT_ONCE));
    this.filter.addEventListener("input", () => this.page(0));
    this.column = 0;
    this.down = false;
  }

  fill(store, c) {
    const {row, score, effect} = store.lists[c];
    this.store = store;
    this.rows = Array.from(row, (at, i) => ({
      rank: i + 1,
      address: store.address[at],
      name: store.name(at),
      score: score[i],
      effect: effect[i],
      mean: store.means[at * store.labels.length + c],
      keyFor: store.keyFor(at),
    }));
    this.column = 0;
    this.down = false;
    this.head();
    this.page(0);
  }

  head() {
    const line = element("tr");
    LIST_COLUMNS.forEach(({name, isText}, i) => {
      const button = element("button", {type: "button"}, name(this.store));
      const cell = element("th", {scope: "col", class: isText ? "" : "number"}, button);
      if (i === this.column) cell.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      button.addEventListener("click", () => this.sort(i));
      line.append(cell);
    });
    this.table.tHead.replaceChildren(line);
  }

  sort(column) {
    this.down = column === this.column && !this.down;
    this.column = column;
    const {key, isText} = LIST_COLUMNS[column];
    const size = (r) => (Number.isNaN(key(r)) ? -Infinity : key(r));
    const order = isText ? (a, b) => key(a).localeCompare(key(b)) : (a, b) => size(a) - size(b) || 0;
    this.rows.sort((a, b) => (this.down ? order(b, a) : order(a, b)));
    this.head();
    this.table.tHead.rows[0].cells[column].querySelector("button").focus();
    this.page(0);
  }

  matching() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (r) => words.every((word) => (/^\d/.test(word)
      ? r.name.startsWith(word) : r.keyFor.some((label) => label.toLowerCase().includes(word))));
    return words.length ? this.rows.filter(fits) : this.rows;
  }

  page(start) {
    const found = this.matching();
    this.start = Math.max(0, Math.min(start, found.length - 1));
    const rows = found.slice(this.start, this.start + AT_ONCE);
    this.table.tBodies[0].replaceChildren(...rows.map((r) => this.line(r)));
    this.table.parentElement.scrollTop = 0;
    this.back.disabled = this.start === 0;
    this.on.disabled = this.start + AT_ONCE >= found.length;
    const all = found.length < this.rows.length ? `, found among ${count(this.rows.length)}` : "";
    this.said.textContent = found.length
      ? `Rows ${count(this.start + 1)} to ${count(this.start + rows.length)} of ${count(found.length)}${all}`
      : `No row of ${count(this.rows.length)} fits`;
  }

  line(r) {
    const cells = LIST_COLUMNS.map(({text, isText}) => {
      const content = text ? text(r, this.store)
        : element("a", {href: `#neuron-${this.store.position}-${r.name}`}, r.name);
      return element("td", {class: isText ? "" : "number"}, content);
    });
    return element("tr", {}, ...cells);
  }
}

function neuronPages(panel) {
  const stores = new Map();
  const address = document.getElementById("neuron-address");
  const position = document.getElementById("neuron-position");
  const tag = document.getElementById("neuron-tag");
  const said = document.getElementById("neuron-said");
  const article = document.getElementById("neuron");
  const list = new List();
  let shown = null;
  let stay = false;

  const store = () => {
    if (!stores.has(position.value)) stores.set(position.value, new Store(position.value));
    return stores.get(position.value);
  };

  // Work that reads the numbers: done at once where they are inflated, as printing needs.
  const reading = (work) => async () => {
    const needed = Array.from(position.options).flatMap((option) => blocksAt(option.value));
    const left = needed.filter((id) => !inflated.has(id));
    if (left.length) await Promise.all(left.map(inflate));
    work();
  };

  function fillList() {
    const {labels} = store();
    const before = tag.value;
    tag.replaceChildren(...labels.map((label) => element("option", {value: label}, label)));
    if (labels.includes(before)) tag.value = before;
    list.fill(store(), tag.selectedIndex);
  }

  // Unpacks the numbers once and shows the first tag's strongest neuron.
  function begin() {
    if (list.rows) return;
    fillList();
    const first = list.rows[0];
    if (first && !shown) show(...first.name.split(".").map(Number), false);
  }

  function show(layer, index, isAsked) {
    const {parts, said: words} = neuronArticle(store(), layer, index, Math.max(article.clientWidth, 300));
    article.setAttribute("aria-labelledby", "neuron-name");
    article.replaceChildren(...parts);
    shown = [layer, index];
    if (isAsked) {
      address.value = `${layer}.${index}`;
      tell(words, false);
    }
    panel.dataset.shown = `${position.value}-${layer}.${index}`;
  }

  // What was found is announced to those who cannot see it below; a refusal is seen by all.
  function tell(words, isRefusal) {
    said.textContent = words;
    said.classList.toggle("unseen", !isRefusal);
    if (isRefusal) address.setAttribute("aria-invalid", "true");
    else address.removeAttribute("aria-invalid");
  }

  function follow() {
    const link = LINK.exec(location.hash);
    if (!link) return;
    const [, where, layer, index] = link;
    if (!Array.from(position.options).some((o) => o.value === where)) return;
    const isMoved = position.value !== where;
    position.value = where;
    if (isMoved && list.rows) fillList();
    const {layers, units, unit} = store();
    if (Number(layer) >= layers || Number(index) >= units) {
      tell(`There is no ${unit} ${layer}.${index}: layers are 0 to ${layers - 1}, ${unit}s 0 to ${units - 1}.`, true);
    } else {
      show(Number(layer), Number(index), true);
    }
    begin();
    if (!stay) document.getElementById("neuron-name").focus({preventScroll: true});
    stay = false;
    panel.scrollIntoView({behavior: "instant"});
  }

  document.getElementById("neuron-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = /^\s*(\d+)\s*[.,:/\s]\s*(\d+)\s*$/.exec(address.value);
    if (!asked) {
      tell("A layer and a number within it are expected, such as 5.123.", true);
      return;
    }
    const link = `#neuron-${position.value}-${Number(asked[1])}.${Number(asked[2])}`;
    stay = true; // the field keeps the focus, for the next address
    if (location.hash === link) reading(follow)();
    else location.hash = link;
  });
  position.addEventListener("change", reading(() => {
    fillList();
    if (shown) show(...shown, true);
  }));
  tag.addEventListener("change", () => list.fill(store(), tag.selectedIndex));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#neuron-']");
    if (link && link.getAttribute("href") === location.hash) reading(follow)();
  });
  window.addEventListener("hashchange", () => LINK.test(location.hash) && reading(follow)());
  window.addEventListener("beforeprint", reading(begin));
  panel.addEventListener("focusin", reading(begin));
  new IntersectionObserver((entries, watching) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watching.disconnect();
    reading(begin)();
  }, {rootMargin: "400px"}).observe(panel);
  if (LINK.test(location.hash)) reading(follow)();
}

const panel = document.getElementById("neuron-panel");
if (panel && canUnpack) neuronPages(panel);
