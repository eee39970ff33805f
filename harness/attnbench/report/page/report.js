// What the report's controls do. All text reaches the page as textContent.
const DATA = JSON.parse(document.getElementById("report-data").textContent);
const root = document.documentElement;
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const make = (tag, text = "", cls = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  if (cls) made.className = cls;
  return made;
};

// ---- figures

const NARROW = 500;
const LINE = 15; // of a label, as in the charts
const hidden = () => all("#legend input:not(:checked)").map((box) => Number(box.dataset.variant));
const IN_TITLE = ["figure", "against", "variant", "pass"];
// Expressions are interpreted (ast), as the page forbids eval. Warnings are not logged: of a hidden series there is one.
const EMBEDDING = { ast: true, actions: false, renderer: "svg", logLevel: 1, tooltip: { disableDefaultStyle: true } };

const save = (name, type, parts) => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob(parts, { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

class Chart {
  constructor(section) {
    this.key = section.id;
    this.figures = DATA.sections[section.id];
    this.chart = section.querySelector(".chart");
    this.caption = section.querySelector("figcaption");
    this.notes = section.querySelector(".notes");
    this.numbers = section.querySelector(".numbers");
    this.selects = all("select", section);
    this.figure = this.figures[0];
    this.drawn = Promise.resolve();
    for (const select of this.selects) select.addEventListener("change", () => this.choose(select));
    section.querySelector(".save").addEventListener("click", () => this.save());
    this.numbers.closest("details").addEventListener("toggle", () => this.list());
    this.show();
    this.list();
  }

  // Of the figures that have what was just chosen, take the one that has most of the rest.
  choose(changed) {
    const kept = (figure) => this.selects.filter((one) => figure.facets[one.dataset.facet] === one.value).length;
    const fitting = this.figures.filter((figure) => figure.facets[changed.dataset.facet] === changed.value);
    this.figure = fitting.reduce((best, one) => (kept(one) > kept(best) ? one : best));
    this.show();
    this.draw();
    this.list();
  }

  show() {
    for (const select of this.selects) select.value = this.figure.facets[select.dataset.facet] ?? select.value;
    const told = Object.entries(this.figure.facets).filter(([name]) => !IN_TITLE.includes(name));
    const facets = told.map(([name, value]) => `${name} ${value}`).join(", ");
    this.caption.textContent = facets ? `${this.figure.title}; ${facets}` : this.figure.title;
    this.chart.setAttribute("aria-label", `Chart: ${this.caption.textContent}. The numbers are below it.`);
    this.notes.textContent = this.figure.notes.join("; ");
  }

  // Drawings queue up: each takes a moment, and the last choice must be the one that stays.
  draw() {
    this.drawn = this.drawn.then(async () => {
      this.view?.finalize();
      const width = { width: "container", autosize: { type: "fit-x", contains: "padding" } };
      const { view } = await vegaEmbed(this.chart, { ...this.figure.chart, ...width, title: null }, EMBEDDING);
      this.view = view;
      // Touch does not move a pointer: a tap shows a tooltip, and a tap beside the points hides it.
      view.addEventListener("click", (event, item) => view.tooltip()(null, event, item, item?.tooltip));
      this.hide();
    });
    return this.drawn;
  }

  // Hide variants, and give the chart the height that the others need, for a row or a label each.
  hide() {
    const { data, params, usermeta } = this.figure.chart;
    if (!this.view || !params) return;
    const off = hidden();
    const shown = new Set(data.values.filter((row) => !off.includes(row.variant)).map((row) => row.series)).size;
    const least = this.chart.clientWidth < NARROW ? 260 : 340;
    this.view.signal("hidden", off);
    this.view.height(usermeta ? usermeta.row * Math.max(shown, 1) : Math.max(least, LINE * (shown + 2)));
    this.view.run();
  }

  // The same points as a table, for readers who cannot see the chart or want to copy a number.
  list() {
    if (!this.numbers.closest("details").open) return;
    const table = make("table");
    const head = table.createTHead().insertRow();
    const body = table.createTBody();
    for (const name of ["point", "value", "details"]) head.append(make("th", name));
    for (const { told } of this.figure.chart.data.values.filter((row) => row.told)) {
      const [where, value, ...rest] = told.split("\n");
      const row = body.insertRow();
      for (const cell of [where, value, rest.join("; ")]) row.append(make("td", cell));
    }
    this.numbers.replaceChildren(table);
  }

  // Only browsers know colours that depend on the theme: the file has those of a light page.
  async save() {
    await this.drawn;
    const svg = (await this.view.toSVG()).replace(/light-dark\((#\w+), #\w+\)/g, "$1");
    save(`attnbench-${this.key}.svg`, "image/svg+xml", [svg]);
  }
}

// All charts are drawn, so that the page can be printed, one after the other, so that it responds meanwhile.
const charts = all("section.figures").map((section) => new Chart(section));
const drawAll = async () => {
  for (const chart of charts) {
    await chart.draw();
    await new Promise((resolve) => { setTimeout(resolve); });
  }
  root.dataset.drawn = "";
};
drawAll();

const hide = () => charts.forEach((chart) => chart.hide());
const boxes = all("#legend input");
const check = (on) => { boxes.forEach((box) => { box.checked = on; }); hide(); };
boxes.forEach((box) => box.addEventListener("change", hide));
document.getElementById("all")?.addEventListener("click", () => check(true));
document.getElementById("none")?.addEventListener("click", () => check(false));

const systemDark = matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
  root.dataset.theme = isDark ? "light" : "dark";
});

// ---- tables

class Column {
  constructor({ name, numbers, words, runs }, count) {
    this.name = name;
    this.numbers = numbers;
    if (numbers) return;
    this.words = words;
    this.codes = new Uint32Array(count);
    let start = 0;
    for (let place = 0; place < runs.length; place += 2) {
      this.codes.fill(runs[place], start, start += runs[place + 1]);
    }
  }

  get isNumber() { return this.numbers || this.words.every((word) => word === null || typeof word === "number"); }

  at(row) { return this.numbers ? this.numbers[row] : this.words[this.codes[row]]; }

  shown(row) {
    const value = this.at(row);
    if (value === null || value === "{}") return "";
    return this.numbers ? String(Number(value.toPrecision(4))) : String(value);
  }

  // Places of rows in this column's order, so that words need be compared only once each; what is empty comes last.
  ranks() {
    const compare = (a, b) => (a === null) - (b === null) || (a < b ? -1 : Number(a > b));
    if (this.numbers) return (a, b) => compare(this.numbers[a], this.numbers[b]);
    const order = [...this.words.keys()].sort((a, b) => compare(this.words[a], this.words[b]));
    const rank = new Uint32Array(order.length);
    order.forEach((word, place) => { rank[word] = place; });
    return (a, b) => rank[this.codes[a]] - rank[this.codes[b]];
  }
}

const FILTERED = ["run", "metric", "variant", "status", "verdict"];
const MOST_CHOICES = 200;

class Table {
  constructor(box) {
    const { count, columns } = DATA.tables[box.dataset.table];
    this.key = box.dataset.table;
    this.columns = columns.map((column) => new Column(column, count));
    this.count = count;
    this.rows = [...Array(count).keys()];
    this.page = 0;
    this.sorted = null;
    this.box = box;
    this.part = (selector) => box.querySelector(selector);
    this.part("input").addEventListener("input", () => this.filter());
    this.part(".size").addEventListener("change", () => this.turn(0));
    this.part(".previous").addEventListener("click", () => this.turn(this.page - 1));
    this.part(".next").addEventListener("click", () => this.turn(this.page + 1));
    this.part(".csv").addEventListener("click", () => this.download());
    this.offer();
    this.head();
    this.turn(0);
  }

  // One select for each column of few words that is worth choosing by.
  offer() {
    const columns = this.columns.filter((column) => FILTERED.includes(column.name) && column.words?.length > 1);
    this.choices = columns.filter((column) => column.words.length <= MOST_CHOICES).map((column) => {
      const label = make("label", `${column.name} `);
      const select = make("select");
      select.append(make("option", "any"), ...column.words.map((word) => make("option", word)));
      select.addEventListener("change", () => this.filter());
      label.append(select);
      this.part(".filters").append(label);
      return { column, select };
    });
  }

  // What is the same in all rows is said once, and is no column.
  head() {
    const same = (column) => column.words?.length === 1;
    this.visible = this.count > 1 ? this.columns.filter((column) => !same(column)) : this.columns;
    const told = this.columns.filter((column) => !this.visible.includes(column) && ![null, "", "{}"].includes(column.words[0]));
    const texts = told.map((column) => `${column.name.replaceAll("_", " ")} ${column.words[0]}`);
    this.part(".same").textContent = texts.length ? `In all rows: ${texts.join(", ")}.` : "";
    const table = make("table");
    const row = table.createTHead().insertRow();
    this.heads = this.visible.map((column) => {
      const head = make("th", "", column.isNumber ? "number" : "");
      const button = make("button", column.name.replaceAll("_", " "));
      head.scope = "col";
      head.setAttribute("aria-sort", "none");
      button.type = "button";
      button.addEventListener("click", () => this.sort(column));
      head.append(button);
      row.append(head);
      return head;
    });
    this.body = table.createTBody();
    this.part(".scroll").append(table);
  }

  sort(column) {
    const again = this.sorted?.column === column && this.sorted.direction === "ascending";
    this.sorted = { column, direction: again ? "descending" : "ascending" };
    this.visible.forEach((one, place) => {
      this.heads[place].setAttribute("aria-sort", one === column ? this.sorted.direction : "none");
    });
    this.order();
    this.turn(0);
  }

  order() {
    if (!this.sorted) return;
    const { column, direction } = this.sorted;
    const ranks = column.ranks();
    const empty = (row) => column.at(row) === null;
    const sign = direction === "ascending" ? 1 : -1;
    this.rows.sort((a, b) => (empty(a) || empty(b) ? empty(a) - empty(b) : sign * ranks(a, b)) || a - b);
  }

  filter() {
    const words = this.part("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = this.choices.filter(({ select }) => select.selectedIndex > 0);
    const hits = words.map((word) => this.columns.filter((column) => column.words).map((column) => ({
      codes: column.codes,
      has: column.words.map((one) => String(one ?? "").toLowerCase().includes(word)),
    })));
    this.rows = [...Array(this.count).keys()].filter((row) =>
      chosen.every(({ column, select }) => column.codes[row] === select.selectedIndex - 1)
      && hits.every((columns) => columns.some(({ codes, has }) => has[codes[row]])));
    this.order();
    this.turn(0);
  }

  turn(page) {
    const size = Number(this.part(".size").value);
    const last = Math.max(0, Math.ceil(this.rows.length / size) - 1);
    this.page = Math.min(Math.max(page, 0), last);
    const start = this.page * size;
    const shown = this.rows.slice(start, start + size);
    this.body.replaceChildren(...shown.map((row) => {
      const line = document.createElement("tr");
      line.append(...this.visible.map((column) => make("td", column.shown(row), column.isNumber ? "number" : "")));
      return line;
    }));
    const of = this.rows.length === this.count ? this.count : `${this.rows.length} (of ${this.count})`;
    this.part("[role=status]").textContent = shown.length ? `${start + 1} to ${start + shown.length} of ${of}` : "no row";
    this.part(".previous").disabled = this.page === 0;
    this.part(".next").disabled = this.page === last;
  }

  // A spreadsheet must not run a cell: text that begins as a formula gets an apostrophe, as in attnbench's own CSV.
  download() {
    const cell = (value) => {
      if (value === null) return "";
      if (typeof value === "number") return String(value);
      const text = DATA.formula.includes(value[0]) ? `'${value}` : value;
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [this.columns.map((column) => column.name),
      ...this.rows.map((row) => this.columns.map((column) => cell(column.at(row))))];
    save(`attnbench-${this.key}.csv`, "text/csv", lines.map((line) => `${line.join(",")}\r\n`));
  }
}

all(".table").forEach((box) => new Table(box));
