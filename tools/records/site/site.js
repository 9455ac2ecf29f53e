// Theme that is remembered, tables that sort, a filter for records, names beside the points of charts. The pages
// read without any of it.
(() => {
  "use strict";
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const store = (value) => { // a browser may forbid storage for files
    try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; }
  };
  const saved = store();
  if (saved === "dark" || saved === "light") root.dataset.theme = saved;

  function theme() {
    const button = document.getElementById("theme");
    const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
    const label = () => {
      const other = now() === "dark" ? "light" : "dark";
      button.textContent = other === "dark" ? "Dark" : "Light";
      button.setAttribute("aria-label", `Use the ${other} theme`);
    };
    button.addEventListener("click", () => {
      root.dataset.theme = now() === "dark" ? "light" : "dark";
      store(root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();
    button.hidden = false;
  }

  function sortable(table) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].querySelectorAll("th")];
    heads.forEach((head) => {
      const column = head.cellIndex, number = head.dataset.kind === "number", button = document.createElement("button");
      const value = (row) => row.cells[column].dataset.value;
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // rows without a value stay last
          const [p, q] = number ? [Number(x), Number(y)] : [x, y];
          return (down ? -1 : 1) * ((p > q) - (p < q));
        };
        body.append(...[...rows].sort(order));
      });
    });
  }

  function filter(panel) {
    const text = panel.querySelector("input"), choices = [...panel.querySelectorAll("select")];
    const rows = [...document.querySelectorAll("table.board tbody tr")].map((row) =>
      ({ row, words: row.textContent.toLowerCase(), marks: row.dataset.marks.split(" ") }));
    const update = () => {
      const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const { row, words, marks } of rows) {
        const found = wanted.every((word) => words.includes(word));
        row.hidden = !found || !choices.every((choice) => !choice.value || marks.includes(choice.value));
        shown += row.hidden ? 0 : 1;
      }
      panel.querySelector("output").value = `${shown} of ${rows.length} records`;
    };
    [text, ...choices].forEach((control) => control.addEventListener("input", update));
    update(); // a browser keeps what was typed when the page is loaded again
    panel.hidden = rows.length === 0;
  }

  function tips(svg) {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    svg.parentElement.append(tip);
    for (const point of svg.querySelectorAll("a.point")) {
      const show = () => {
        const frame = svg.parentElement.getBoundingClientRect(), dot = point.querySelector(".dot").getBoundingClientRect();
        tip.textContent = point.getAttribute("aria-label");
        tip.hidden = false;
        const middle = dot.left - frame.left + dot.width / 2, half = tip.offsetWidth / 2;
        tip.style.left = `${Math.max(half, Math.min(frame.width - half, middle))}px`;
        tip.style.top = `${dot.top - frame.top - 8}px`;
      };
      const hide = () => { tip.hidden = true; };
      point.addEventListener("pointerenter", show);
      point.addEventListener("focus", show);
      point.addEventListener("pointerleave", hide);
      point.addEventListener("blur", hide);
    }
  }

  addEventListener("DOMContentLoaded", () => {
    theme();
    document.querySelectorAll("table[data-sortable]").forEach(sortable);
    document.querySelectorAll("#filter").forEach(filter);
    document.querySelectorAll("svg[role=group]").forEach(tips);
  });
})();
