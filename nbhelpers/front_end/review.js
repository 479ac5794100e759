// The front end of review_widgets.py: shows `view`, sends what a person does, decides and keeps nothing.
// Texts get into the page as text only (textContent, append of strings), never as HTML.

const ONE_DIGIT = 9; // so many classes have a digit each; more are found by number or name
const PATIENCE_MS = 3000;
const NO_ANSWER = "No answer from the kernel yet. If it is busy with another cell, it answers after that.";
const NO_KERNEL = "The kernel was restarted. Run this cell again: what you decided is stored, and it goes on from there.";

function render({ model, el }) {
  // JupyterLab has shortcuts on single keys: 1 would make the cell a heading. They are off in here.
  const root = make("section", { class: "nbh-review", tabindex: "-1", "data-lm-suppress-shortcuts": "true" });
  const status = make("p", { class: "nbh-status", role: "status" });
  let unanswered = null;
  let overdue = false;
  let next = null; // the last thing done while an answer is out

  function send(message) {
    if (unanswered !== null && !overdue) {
      if (message.do !== "choose") next = message; // a class is only chosen for a text that is in view
      return;
    }
    clearTimeout(unanswered); // where one is overdue: is there still a kernel to send to?
    unanswered = setTimeout(() => {
      overdue = true;
      status.textContent = NO_ANSWER;
    }, PATIENCE_MS);
    try {
      model.send(message);
    } catch {
      clearTimeout(unanswered); // there is nobody to wait for
      status.textContent = NO_KERNEL;
    }
  }

  const update = model.get("view").kind === "queue" ? queue(root, status, send) : matrix(root, status, send);

  function show() {
    clearTimeout(unanswered);
    unanswered = null;
    overdue = false;
    const view = model.get("view");
    root.setAttribute("aria-label", view.title);
    update(view);
    status.textContent = view.said;
    status.classList.toggle("nbh-failed", view.failed);
    if (next !== null) {
      const message = next;
      next = null;
      send(message);
    }
  }

  model.on("change:view", show);
  show();
  el.append(root);
  return () => model.off("change:view", show);
}

// ---------------------------------------------------------------------------- the queue: one text at a time

function queue(root, status, send) {
  const title = make("h3");
  const count = make("span", { id: unique("count") });
  const bar = make("progress", { "aria-labelledby": count.id });
  const text = textBox();
  const found = make("input", { type: "text", placeholder: "number or part of the name, then Enter" });
  found.setAttribute("aria-label", "class: its number, or a part of its name");
  const choices = make("div", { class: "nbh-classes", role: "group", "aria-label": "classes" });
  const summary = make("p", { class: "nbh-summary" });
  const about = make("dl");
  const keys = make("p", { class: "nbh-keys" });
  const steps = make(
    "div",
    { class: "nbh-steps" },
    button("← Previous", () => send({ do: "move", step: -1 })),
    button("Next →", () => send({ do: "move", step: 1 })),
    button("Undo", () => send({ do: "undo" })),
  );
  steps.append(status);
  root.classList.add("nbh-queue");
  root.append(make("header", {}, title, count, bar), text, found, choices, steps, keys, summary, about);

  let view = null;
  let buttons = [];
  const choose = (place) => send({ do: "choose", chunk_id: view.chunk_id, class: place });

  function matches() {
    const typed = found.value.trim().toLowerCase();
    const isNumber = /^\d+$/.test(typed);
    return view.classes.flatMap((name, place) => {
      const fits = isNumber ? `${place + 1}`.startsWith(typed) : name.toLowerCase().includes(typed);
      return fits ? [place] : [];
    });
  }

  function filter() {
    const fitting = matches();
    buttons.forEach((each, place) => {
      each.hidden = !fitting.includes(place);
      each.classList.toggle("nbh-first", found.value !== "" && place === fitting[0]);
    });
    if (/^\s*\d+\s*$/.test(found.value) && fitting.length === 1) choose(fitting[0]);
  }

  found.addEventListener("input", filter);
  root.addEventListener("keydown", (event) => {
    const typing = event.target === found && found.value !== "";
    const held = event.ctrlKey || event.metaKey;
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
    const few = view.classes.length <= ONE_DIGIT;
    if (event.altKey || event.isComposing || view.n === 0) return;
    if (!typing && (held ? event.key === "z" : event.key === "Backspace")) event.repeat || send({ do: "undo" });
    else if (held) return;
    else if (!typing && event.key === "ArrowLeft") send({ do: "move", step: -1 });
    else if (!typing && event.key === "ArrowRight") send({ do: "move", step: 1 });
    else if (few && digit && digit <= view.classes.length) event.repeat || choose(digit - 1);
    else if (typing && event.key === "Enter" && matches().length) choose(matches()[0]);
    else if (typing && event.key === "Escape") (found.value = ""), filter();
    else {
      if (!few && event.target !== found && /^[\p{L}\p{N}]$/u.test(event.key)) found.focus(); // which then gets the key
      return;
    }
    event.preventDefault();
  });

  return (now) => {
    const first = view === null;
    view = now;
    if (first) {
      buttons = view.classes.map((name, place) => button([make("kbd", {}, `${place + 1}`), " ", name], () => choose(place)));
      choices.append(...buttons);
      found.hidden = view.classes.length <= ONE_DIGIT;
      const how = found.hidden ? `1 to ${view.classes.length} choose a class` : "type a class's number or a part of its name";
      keys.textContent = `Keys, after a click in here: ${how}, ← and → move, Backspace or Ctrl+Z undoes.`;
    }
    title.textContent = view.title;
    count.textContent = view.n === 0 ? "nothing to review" : `text ${view.place + 1} of ${view.n} · ${view.decided} decided`;
    bar.max = Math.max(view.n, 1);
    bar.value = view.decided;
    for (const part of [text, choices, steps, keys]) part.hidden = view.n === 0;
    found.value = "";
    filter();
    if (text.textContent !== view.text) text.scrollTop = 0;
    text.textContent = view.text ?? "";
    buttons.forEach((each, place) => each.setAttribute("aria-pressed", `${place === view.chosen}`));
    describe(about, view.details ?? []);
    summary.textContent = view.summary ?? "";
  };
}

// ------------------------------------------------------------------- the confusion matrix: cells that open

function matrix(root, status, send) {
  const title = make("h3");
  const axes = make("p", { class: "nbh-axes" });
  const table = make("table", { role: "grid" });
  const heading = make("h4");
  const undo = button("Undo", () => send({ do: "undo" }));
  const list = make("ol", { class: "nbh-texts" });
  const more = button("", () => send({ do: "more" }));
  const keys = make("p", { class: "nbh-keys" }, "Keys in the matrix: arrows move, Enter opens a cell, Tab goes to its texts.");
  root.append(make("header", {}, title), axes, make("div", { class: "nbh-scroll" }, table), keys);
  root.append(make("div", { class: "nbh-steps" }, heading, status, undo), list, more);

  let view = null;
  let cells = [];
  let at = [0, 0]; // the cell that Tab leads to
  const drafts = new Map(); // classes picked in a list but not stored yet, by text

  function go(row, column) {
    const last = view.classes.length - 1;
    at = [Math.min(Math.max(row, 0), last), Math.min(Math.max(column, 0), last)];
    for (const each of cells.flat()) each.tabIndex = -1;
    cells[at[0]][at[1]].tabIndex = 0;
    cells[at[0]][at[1]].focus();
  }

  function build() {
    const names = view.classes;
    table.classList.toggle("nbh-many", names.length > 6);
    const head = names.map((name) => make("th", { scope: "col", title: name }, make("span", {}, name)));
    table.append(make("thead", {}, make("tr", {}, make("td"), ...head, make("th", { class: "nbh-n" }, "n"))));
    cells = names.map((_, row) => names.map((_, column) => make("td", { tabindex: "-1", "data-at": `${row} ${column}` })));
    const rows = names.map((name, row) =>
      make("tr", {}, make("th", { scope: "row", title: name }, make("span", {}, name)), ...cells[row], make("td", { class: "nbh-n" })),
    );
    table.append(make("tbody", {}, ...rows));
    cells[0][0].tabIndex = 0;
    axes.textContent = `Down: ${view.rows}. Across: ${view.columns}. Colour: share of the row.`;
    undo.hidden = !view.editable;
  }

  table.addEventListener("click", (event) => {
    const place = event.target.closest("td")?.dataset.at?.split(" ").map(Number);
    if (place === undefined) return;
    go(...place);
    send({ do: "open", row: place[0], column: place[1] });
  });
  table.addEventListener("keydown", (event) => {
    const [row, column] = at;
    const last = view.classes.length - 1;
    const moves = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [row, 0],
      End: [row, last],
    };
    if (event.key in moves) go(...moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") send({ do: "open", row, column });
    else return;
    event.preventDefault();
  });
  root.addEventListener("keydown", (event) => {
    if (!view.editable || event.key !== "z" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    event.repeat || send({ do: "undo" });
  });

  function card(shown) {
    const item = make("li", {}, textBox(shown.text), describe(make("dl"), shown.details));
    if (!view.editable) return item;
    const options = view.classes.map((name, place) => make("option", { value: `${place}` }, name));
    const select = make("select", { "data-key": `select ${shown.chunk_id}` }, ...options);
    select.value = `${drafts.get(shown.chunk_id) ?? shown.class}`;
    select.addEventListener("change", () => drafts.set(shown.chunk_id, Number(select.value)));
    const store = button("Store", () => {
      drafts.delete(shown.chunk_id);
      send({ do: "choose", chunk_id: shown.chunk_id, class: Number(select.value) });
    });
    store.dataset.key = `store ${shown.chunk_id}`;
    const mark = shown.yours ? make("span", { class: "nbh-yours" }, "✓ your label") : "";
    item.append(make("div", { class: "nbh-steps" }, make("label", {}, "class ", select), store, mark));
    return item;
  }

  return (now) => {
    const first = view === null;
    view = now;
    if (first) build();
    title.textContent = view.title;
    view.counts.forEach((counts, row) => {
      const total = counts.reduce((sum, count) => sum + count, 0);
      counts.forEach((count, column) => {
        const cell = cells[row][column];
        const name = `${view.rows} ${view.classes[row]}, ${view.columns} ${view.classes[column]}: ${count}`;
        cell.textContent = `${count}`;
        cell.setAttribute("aria-label", name);
        cell.classList.toggle("nbh-zero", count === 0);
        cell.setAttribute("aria-selected", `${view.cell?.[0] === row && view.cell?.[1] === column}`);
        cell.style.setProperty("--share", total ? count / total : 0);
      });
      cells[row][0].parentElement.lastElementChild.textContent = `${total}`;
    });
    heading.textContent = view.cell
      ? `${view.rows}: ${view.classes[view.cell[0]]} · ${view.columns}: ${view.classes[view.cell[1]]}`
      : "Choose a cell to read its texts.";
    const key = root.ownerDocument.activeElement?.dataset?.key;
    list.replaceChildren(...view.texts.map(card));
    if (key) [...list.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus();
    more.hidden = view.more === 0;
    more.textContent = `Show more (${view.more} left)`;
  };
}

// ---------------------------------------------------------------------------------------------- elements

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(label, onClick) {
  const element = make("button", { type: "button" }, ...[label].flat());
  element.addEventListener("click", onClick);
  return element;
}

function textBox(text = "") {
  // In the Tab order, so that a long text can be scrolled by keyboard.
  return make("div", { class: "nbh-text", dir: "auto", tabindex: "0", role: "group", "aria-label": "text" }, text);
}

function describe(list, pairs) {
  const told = pairs.flatMap(([who, what]) => [make("dt", {}, who), make("dd", { dir: "auto" }, what)]);
  list.replaceChildren(...told);
  return list;
}

let made = 0;
function unique(name) {
  made += 1;
  return `nbh-${name}-${made}-${Math.random().toString(36).slice(2)}`;
}

export default { render };
