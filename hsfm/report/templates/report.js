"use strict";

document.documentElement.classList.add("js");

const say = (text) => (document.getElementById("said").textContent = text);

function addButton(parent, kind, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = kind;
  button.append(text);
  parent.append(button);
  return button;
}

// Sorting: what is empty comes last, whichever way; rows that are equal keep their order. -----------------------------

function sortKey(cell) {
  const text = cell.textContent.trim();
  const number = cell.dataset.order ?? text.replaceAll(",", "").match(/^[+-]?\d+(\.\d+)?/)?.[0];
  return number === undefined ? text : Number(number);
}

function sorted(rows, column, direction) {
  const keyed = rows.map((row) => [sortKey(row.cells[column]), row]);
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const known = keyed.filter(([key]) => key !== "" && key !== "-").sort(([a], [b]) => direction * compare(a, b));
  return [...known, ...keyed.filter(([key]) => key === "" || key === "-")].map(([, row]) => row);
}

function makeSortable(table) {
  // a body per section, whose first row is its heading and stays there
  const bodies = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => row.className !== "section")]);
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const name = head.textContent;
    head.textContent = "";
    head.setAttribute("aria-sort", "none");
    // of numbers the highest come first
    const ways = head.classList.contains("number") ? ["descending", "ascending"] : ["ascending", "descending"];
    addButton(head, "sort", name).addEventListener("click", () => {
      const next = [...ways, "none"][(ways.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      for (const [body, first] of bodies) {
        body.append(...(next === "none" ? first : sorted(first, column, next === "ascending" ? 1 : -1)));
      }
      say(next === "none" ? `${name}: first order` : `Sorted by ${name}, ${next}`);
    });
  });
}

// Commands: of the results that a row is made from, or of its table where it names none -------------------------------

function addCommands(table) {
  const dialog = document.getElementById("command");
  const head = table.tHead.rows[0].appendChild(document.createElement("th"));
  head.className = "reproduce";
  head.innerHTML = '<span class="said">Reproduce</span>';
  for (const row of table.querySelectorAll("tbody tr")) {
    if (row.className === "section") {
      row.cells[0].colSpan += 1;
      continue;
    }
    const cell = row.insertCell();
    cell.className = "reproduce";
    const button = addButton(cell, "reproduce", "reproduce");
    button.setAttribute("aria-label", `Reproduce this line: ${row.cells[0].textContent}`);
    button.addEventListener("click", () => {
      const files = row.closest("[data-made-from]").dataset.madeFrom;
      document.getElementById("command-text").textContent = `${dialog.dataset.command} ${files}`;
      dialog.showModal();
    });
  }
}

function makeCopy(button) {
  const label = button.textContent;
  const source = document.getElementById(button.dataset.copies);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected; press Ctrl+C";
    }
    say(button.textContent);
    setTimeout(() => (button.textContent = label), 2000);
  });
}

function enlarge(button) {
  const dialog = document.getElementById("enlarged");
  const picture = button.querySelector("img");
  const { src, alt, naturalWidth: width, naturalHeight: height } = picture;
  Object.assign(dialog.querySelector("img"), { src, alt, width, height });
  document.getElementById("enlarged-title").textContent = button.closest("figure").previousElementSibling.textContent;
  dialog.showModal();
}

document.querySelectorAll("figure.table table").forEach((table) => {
  makeSortable(table);
  if (document.getElementById("command").dataset.command) {
    addCommands(table);
  }
});
document.querySelectorAll("button.copy").forEach(makeCopy);
document.querySelectorAll("button.enlarge").forEach((button) => button.addEventListener("click", () => enlarge(button)));
// Escape, the button or a click beside a dialog closes it, and the focus goes back
document.querySelectorAll("dialog").forEach((dialog) => {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.matches(".close")) {
      dialog.close();
    }
  });
});
